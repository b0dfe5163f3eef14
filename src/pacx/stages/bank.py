"""Ask a frozen teacher about every row of a store, once, and keep the answers.

Distillation needs only the answers: the teacher network, its preprocessing and its raw input are done with here.
Rows without the modality are holes, marked as such and never filled in. See `pacx.data.bank` for the folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pacx.data.bank import Bank
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.runs import open_run
from pacx.stages.teachers import Teacher, open_teacher

__all__ = ["bank", "fill_bank"]

log = logging.getLogger("pacx")

_CHUNK = 4096
"""rows between two moves of the progress bar; teachers start their worker processes once per chunk"""


def bank(
    *,
    store: Path,
    teacher: Path,
    name: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embed a store with a frozen teacher.

    Args:
        store: the store with the teacher's modality (ECGs, labs).
        teacher: run folder of `fit-ecg` or `fit-labs`, or ECGFounder's checkpoint file.
        name: the teacher's name in distillation and reports; its kind (ecg, labs) if not given.
        batch_size: rows per forward pass.
        device: where the teacher computes: cpu, cuda, mps, or auto.
        workers: processes that prepare the teacher's input; one per processor if not given.
        out: the run folder to write, which is also the bank.
        overwrite: replace a finished run in `out`.

    Example:
        pacx bank --store stores/pairs --teacher runs/fit-ecg --out runs/bank-ecg
    """
    arguments = dict(locals())
    with open_run(out, command="bank", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        expert = open_teacher(teacher, name=name, device=_device(device), workers=workers)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        run.read("teacher", path=teacher, hash=expert.weights_hash)
        answers = fill_bank(cohort, expert, batch_size=batch_size)
        answers.save(run.artefact("bank", "."))
        return run.finish(
            {
                "teacher": answers.name,
                "kind": expert.kind,
                "num_rows": len(answers),
                "num_present": int(answers.present.sum()),
                "dim": answers.dim,
            }
        )


def fill_bank(store: Store, teacher: Teacher, *, batch_size: int = 64) -> Bank:
    """Embed every row that has the teacher's modality.

    Raises:
        PacxError: no row has it, or the teacher gives numbers that are not finite.
    """
    present = teacher.present(store)
    rows = np.flatnonzero(present)
    if not len(rows):
        raise PacxError(
            f"No row of store {store.name} has an input for the teacher {teacher.name!r} (kind {teacher.kind}). "
            "Choose a store with this modality, or another teacher."
        )
    embeddings = np.zeros((len(store), teacher.dim), dtype=np.float32)
    with tqdm(total=len(rows), desc="bank", unit="row", disable=None) as bar:
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            embeddings[part] = teacher.embed(store, part, batch_size=batch_size)
            bar.update(len(part))
    log.info("bank: teacher %s, %d of %d rows present, dim %d", teacher.name, len(rows), len(store), teacher.dim)
    meta = {
        "teacher": teacher.name,
        "kind": teacher.kind,
        "weights_hash": teacher.weights_hash,
        "preprocessing": teacher.preprocessing,
        "store": {"name": store.name, "hash": store.content_hash},
    }
    return Bank(embeddings, present, tuple(map(str, store.manifest["image_id"])), meta)


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
