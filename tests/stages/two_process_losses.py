"""One step of distillation, on all rows in one process or on half of them in each of two.

python two_process_losses.py FOLDER     with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them

Each process writes the loss and every gradient of every case to FOLDER/RANK.pt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pacx.data.bank import Bank
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.student import Student
from pacx.preprocess import Preprocess
from pacx.stages.distillation import Distillation

torch.set_num_threads(1)

ROWS = 16  # process 0 has rows 0 to 7, process 1 has the others
ALL = list(range(ROWS))
TEACHERS = {"ecg": 9, "labs": 5}
UNEVEN = {"ecg": [0, 1, 2, 3, 4, 6, 7, 9, 13], "labs": [1, 3, 8, 9, 10, 12, 14, 15]}
ONE_SIDED = {"ecg": ALL, "labs": [0, 2, 3, 5]}  # process 1 has no labs at all
ONE_EACH = {"ecg": [2, 11], "labs": [4, 5, 12]}  # of the ECG each process has one row, which is a pair only together
NOBODY = {"ecg": UNEVEN["ecg"], "labs": []}
# Patient of each row: 0 is on both processes, 1 on the first only, 2 twice on each; the others have one row.
PATIENT = [0, 1, 1, 2, 2, 3, 4, 0, 0, 2, 2, 5, 6, 7, 8, 0]

CASES: dict[str, dict[str, Any]] = {
    "contrastive": {"regression_weight": 0.0},
    "regression": {"contrastive_weight": 0.0},
    "both": {},
    "contrastive, uneven holes": {"regression_weight": 0.0, "present": UNEVEN},
    "regression, uneven holes": {"contrastive_weight": 0.0, "present": UNEVEN},
    "uneven holes": {"present": UNEVEN},
    "one process without a teacher": {"present": ONE_SIDED},
    "a pair only together": {"present": ONE_EACH},
    "a teacher of nobody": {"present": NOBODY},
    "weights of teachers": {"present": UNEVEN, "teacher_weights": {"ecg": 2.0, "labs": 0.5}},
    "patients": {"present": UNEVEN, "patient": PATIENT},
    "gradient caching": {"present": UNEVEN, "chunk_size": 3},
    "anchor": {"present": UNEVEN, "anchor_weight": 2.0},
    "everything": {"present": UNEVEN, "patient": PATIENT, "chunk_size": 3, "anchor_weight": 2.0},
    "everything, full": {
        "present": UNEVEN, "patient": PATIENT, "chunk_size": 3, "anchor_weight": 2.0, "adaptation": "full",
    },
    "everything, in float32": {
        "present": UNEVEN, "patient": PATIENT, "chunk_size": 3, "anchor_weight": 2.0, "dtype": torch.float32,
    },
    "both, in float32": {"present": UNEVEN, "dtype": torch.float32},
}  # fmt: skip


class Step(nn.Module):
    """The loss of a batch, as `Distillation` computes it."""

    def __init__(self, module: Distillation) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module.loss(self.module(batch))["loss"]


def make_bank(name: str, dim: int, rows: list[int]) -> Bank:
    rng = np.random.default_rng(dim)
    present = np.isin(ALL, rows)
    embeddings = rng.standard_normal((ROWS, dim)).astype(np.float32) * present[:, None]
    return Bank(embeddings, present, tuple(map(str, ALL)), {"teacher": name})


def make_step(
    *,
    present: dict[str, list[int]] | None = None,
    patient: list[int] | None = None,
    contrastive_weight: float = 0.7,
    regression_weight: float = 1.3,
    anchor_weight: float = 0.0,
    teacher_weights: dict[str, float] | None = None,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Step:
    """Build a student that has learned something already, so that no gradient is zero by construction."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(Preprocess(image_size=16), patch_size=8, width=24, depth=2, heads=3))
    student = Student(
        encoder, TEACHERS, shared_width=6, rank=2, dropout=dropout, head_dropout=dropout, anchored=anchor_weight > 0,
        **options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    rows = present or dict.fromkeys(TEACHERS, ALL)
    module = Distillation(
        student.to(dtype), {name: make_bank(name, dim, rows[name]) for name, dim in TEACHERS.items()},
        image_ids=list(map(str, ALL)), patient=None if patient is None else np.array(patient),
        contrastive_weight=contrastive_weight, regression_weight=regression_weight, anchor_weight=anchor_weight,
        teacher_weights=teacher_weights, label_smoothing=0.02, learning_rate=1e-4, weight_decay=0.0, warmup_epochs=0.0,
    )  # fmt: skip
    return Step(module.train())


def make_batch(rows: slice, *, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    images = torch.randn(ROWS, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"image": images[rows].to(dtype), "index": torch.tensor(ALL)[rows]}


def gradients(step: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss and the gradient of every trainable parameter; a parameter without one is a KeyError later."""
    loss = step(batch)
    loss.backward()
    found = {
        name.rpartition("student.")[2]: parameter.grad
        for name, parameter in step.named_parameters()
        if parameter.grad is not None
    }
    return {"loss": loss.detach(), **found}


def main(folder: Path) -> None:
    """Be one of two processes."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = {}
    for name, case in CASES.items():
        dtype = case.get("dtype", torch.float64)
        half = ROWS // 2
        step = nn.parallel.DistributedDataParallel(make_step(**case))
        found[name] = gradients(step, make_batch(slice(rank * half, rank * half + half), dtype=dtype))
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    main(Path(sys.argv[1]))
