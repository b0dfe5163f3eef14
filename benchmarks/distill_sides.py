"""The ways to take a step of distillation that `distill_step` compares, on equal encoders with equal heads.

* `lora`: what `pacx distill` trains by default: LoRA and all norms.
* `full`: the same student with every weight of its encoder free (`adaptation="full"`).
* `peft`: LoRA as PEFT's documentation shows it: `get_peft_model` around timm's network, called as it is.
* `layers`: ours in all but the LoRA layers, which are PEFT's: what those layers do by themselves.
* `whole`, `cached`: `lora` with a larger batch, at once and in chunks (gradient caching).
* `published`: `lora` in chunks with the 500 rows of the published batch, for its memory alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.student import LORA_TARGETS, NORMS, Student
from pacx.objectives import TeacherTerms, distillation_loss
from pacx.preprocess import Preprocess

__all__ = ["BASE", "QUICK", "SIDES", "Sizes", "loss_of", "make_batch", "make_side", "make_step", "rows_of"]

SIDES = ("lora", "full", "peft", "layers", "whole", "cached", "published")
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """How large the network and the batches are."""

    batch: int = 16
    large: int = 32
    """rows of `whole` and `cached`"""
    published: int = 500
    chunk: int = 8
    image: int = 224
    width: int = 768
    depth: int = 12
    heads: int = 12
    ecg: int = 1024
    labs: int = 256


BASE = Sizes()
QUICK = Sizes(batch=4, large=8, published=16, chunk=2, image=96, width=96, depth=2, heads=3, ecg=64, labs=32)


def rows_of(side: str, sizes: Sizes) -> int:
    """Return how many rows a step of this side takes."""
    return {"whole": sizes.large, "cached": sizes.large, "published": sizes.published}.get(side, sizes.batch)


def make_side(side: str, sizes: Sizes) -> nn.Module:
    """Build what a side trains, in training mode."""
    torch.manual_seed(0)
    config = EncoderConfig(Preprocess(image_size=sizes.image), width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    encoder, teachers = Encoder(config), {"ecg": sizes.ecg, "labs": sizes.labs}
    if side == "peft":
        return PeftStudent(encoder, teachers).train()
    student = Student(
        encoder,
        teachers,
        adaptation="full" if side == "full" else "lora",
        chunk_size=sizes.chunk if side in {"cached", "published"} else None,
    )
    return (_with_stock_layers(student) if side == "layers" else student).train()


class PeftStudent(nn.Module):
    """timm's network in PEFT's wrapping, with the heads of our student."""

    def __init__(self, encoder: Encoder, teachers: dict[str, int]) -> None:
        super().__init__()
        import peft

        config = peft.LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.1, target_modules=LORA_TARGETS, modules_to_save=NORMS["all"]
        )
        self.vit = peft.get_peft_model(copy.deepcopy(encoder.vit), config)
        ours = Student(encoder, teachers)
        self.image_projection, self.teacher_projections = ours.image_projection, ours.teacher_projections
        self.regressors, self.logit_scale = ours.regressors, ours.logit_scale

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Give what the losses need, as `Student` does."""
        embedding = self.vit(images)
        predicted = {name: head(embedding) for name, head in self.regressors.items()}
        return {"shared": self.image_projection(embedding), "regression": predicted}

    def project_teacher(self, name: str, embedding: Tensor) -> Tensor:
        """Project a teacher's embeddings into the shared space."""
        projected: Tensor = self.teacher_projections[name](embedding)
        return projected

    def scale(self) -> Tensor:
        """Return the inverse temperature."""
        return self.logit_scale.exp().squeeze(0)

    def take(self, student: Student) -> None:
        """Take the weights of our student, so that both compute the same."""
        state = {name.removeprefix("encoder."): value for name, value in student.state_dict().items()}
        wanted = {name: value for name, value in state.items() if not name.startswith("standardisers.")}
        self.load_state_dict(wanted, strict=True)


def _with_stock_layers(student: Student) -> Student:
    """Turn our LoRA layers, which add nothing but a way to compute, back into PEFT's."""
    from peft.tuners.lora.layer import Linear

    from pacx.models.lora import LoraLinear

    for module in student.modules():
        if type(module) is LoraLinear:
            module.__class__ = Linear
    return student


def make_batch(num_rows: int, sizes: Sizes) -> Batch:
    """Draw images and what two teachers say of them; every tenth row lacks one of the two."""
    generator = torch.Generator().manual_seed(1)
    missing = torch.arange(num_rows) % 10
    return {
        "image": torch.randn(num_rows, 1, sizes.image, sizes.image, generator=generator),
        "ecg": torch.randn(num_rows, sizes.ecg, generator=generator),
        "labs": torch.randn(num_rows, sizes.labs, generator=generator),
        "ecg_present": missing != 3,
        "labs_present": missing != 7,
    }


def loss_of(model: Any, batch: Batch) -> Tensor:
    """Compute the stage-2 loss of either kind of student."""
    output = model(batch["image"])
    terms = {
        name: TeacherTerms(
            model.project_teacher(name, batch[name]), output["regression"][name], batch[name], batch[f"{name}_present"]
        )
        for name in ("ecg", "labs")
    }
    return distillation_loss(output["shared"], terms, scale=model.scale())["loss"]


def make_step(side: str, model: nn.Module, batch: Batch) -> Any:
    """Return a training step: zero_grad, forward, backward, AdamW."""
    optimizer = _peer_optimizer(model) if side == "peft" else _our_optimizer(model)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _our_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser that `pacx distill` makes; a stand-in says what a trainer would be asked."""
    from pacx.stages.optimisation import adamw_with_warmup

    trainer: Any = SimpleNamespace(
        max_epochs=1, estimated_stepping_batches=1000, precision_plugin=SimpleNamespace(precision="32-true")
    )
    made = adamw_with_warmup(
        trainer, model, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, warmup_epochs=0, floor=0.01
    )
    optimizer: torch.optim.Optimizer = made["optimizer"]
    return optimizer


def _peer_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
