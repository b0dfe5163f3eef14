# ruff: noqa: F722
"""The student of distillation: an encoder that learns a little, and heads that are thrown away afterwards.

* The encoder is adapted by LoRA (Hu et al. 2021; through PEFT) on `qkv`, `fc1` and `fc2` of every block, about 1 % of
  its parameters: ten thousand pairs must not wash out what a quarter of a million radiographs taught. Alternatives:
  the last blocks, or everything.
* Norms: the paper frees all LayerNorms (`train_norms="all"`), the published code the final one (`"final"`).
* One projection of the image into the shared space serves all teachers; each teacher has a projection of its own and
  a regression head that predicts its embedding. Any number of teachers.
* Batches that do not fit: with `chunk_size`, images go through the encoder some at a time and only their embeddings are
  kept; backwards each chunk is computed once more. All rows of the batch are still each other's negatives, for the
  memory of one chunk and a forward pass more (gradient caching, Gao et al. 2021; here by PyTorch's checkpointing, which
  also brings back each chunk's dropout).
* With `anchored`, the base encoder stays beside the student, and the distance of their patch tokens comes out too.
* `merged_encoder()` is what remains: a plain encoder in which the adapters have been added to the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypedDict

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pacx.errors import PacxError
from pacx.models.encoder import Encoder
from pacx.models.heads import check_teacher_name, projection_head
from pacx.models.lora import AdaptedBlock, LoraLinear
from pacx.models.standardise import Standardiser
from pacx.models.weights import new_folder
from pacx.objectives import token_distance

__all__ = ["Adaptation", "Student", "StudentOutput", "TrainNorms"]

Adaptation = Literal["lora", "last", "full"]
TrainNorms = Literal["all", "final"]

LORA_TARGETS = ["qkv", "fc1", "fc2"]
NORMS: dict[str, list[str]] = {"all": ["norm1", "norm2", "norm"], "final": ["norm"]}
FIRST_TEMPERATURE = 0.07
LARGEST_SCALE = 100.0
ADAPTER_CONFIG = "adapter_config.json"


class StudentOutput(TypedDict):
    """What the student makes of B images."""

    embedding: Tensor
    """(B, D): the encoder's class token after the final norm."""
    shared: Tensor
    """(B, S): its projection into the space shared with all teachers."""
    regression: dict[str, Tensor]
    """By teacher, (B, dimension): the prediction of its embedding."""
    distance: Tensor | None
    """(B,): how far the patch tokens are from the base encoder's; None unless the student is anchored."""


class Student(nn.Module):
    """An adapted encoder with one projection for the image, and one projection and one regressor per teacher.

    Args:
        encoder: where to start; it is copied and stays as it is.
        teachers: length of the embedding by teacher name.
        adaptation: `lora`; `last`, the last blocks and the final norm; `full`, everything but the fixed positions.
        rank: of the LoRA matrices.
        alpha: LoRA's numerator; an update counts alpha / rank times.
        dropout: on the way into the LoRA matrices.
        last_blocks: how many blocks `last` trains.
        shared_width: length of the shared space.
        head_dropout: on the way into every head.
        train_norms: with `lora`, which norms to train: `all`, or the `final` one.
        chunk_size: images that go through the encoder at a time in training; None = the whole batch.
        anchored: measure the distance of patch tokens to those of `encoder`.

    Attributes:
        encoder: the adapted encoder; with `lora` its `vit` is a `peft.PeftModel`.
        base: the encoder that it started from, frozen; None unless anchored.
        standardisers: by teacher, what its embeddings go through before anything else (`pacx.models.standardise`).

    Raises:
        PacxError: no teachers, a name that cannot be used, or a choice that does not exist.
    """

    def __init__(
        self,
        encoder: Encoder,
        teachers: Mapping[str, int],
        *,
        adaptation: Adaptation = "lora",
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.1,
        last_blocks: int = 4,
        shared_width: int = 256,
        head_dropout: float = 0.2,
        train_norms: TrainNorms = "all",
        chunk_size: int | None = None,
        anchored: bool = False,
    ) -> None:
        super().__init__()
        _check_teachers(teachers)
        if chunk_size is not None and chunk_size < 1:
            raise PacxError(f"Found chunk_size = {chunk_size}; give the number of images at a time, at least 1.")
        self.adaptation = adaptation
        self.chunk_size = chunk_size
        self.base = copy.deepcopy(encoder).requires_grad_(False) if anchored else None
        self.encoder = copy.deepcopy(encoder)
        if adaptation == "lora":
            _add_lora(self.encoder, rank=rank, alpha=alpha, dropout=dropout, train_norms=train_norms)
        elif adaptation == "last":
            _free_last_blocks(self.encoder, last_blocks)
        elif adaptation == "full":
            _free_all(self.encoder)
        else:
            raise PacxError(f"There is no adaptation {adaptation!r}. Choose lora, last or full.")
        width = encoder.config.width
        self.image_projection = projection_head(width, shared_width, dropout=head_dropout)
        self.teacher_projections = nn.ModuleDict(
            {name: projection_head(dim, shared_width, dropout=head_dropout) for name, dim in teachers.items()}
        )
        self.regressors = nn.ModuleDict(
            {name: projection_head(width, dim, dropout=head_dropout) for name, dim in teachers.items()}
        )
        self.standardisers = nn.ModuleDict({name: Standardiser(dim) for name, dim in teachers.items()})
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / FIRST_TEMPERATURE)))  # FSDP takes no scalars

    def forward(self, images: Float[Tensor, "B C H W"]) -> StudentOutput:
        """Embed normalised images, project them, and predict every teacher's embedding."""
        embedding, distance = self._encode(images)
        return {
            "embedding": embedding,
            "shared": self.image_projection(embedding),
            "regression": {name: head(embedding) for name, head in self.regressors.items()},
            "distance": distance,
        }

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return embeddings (B, D) and distances (B,), in chunks where that saves memory."""
        if self.chunk_size is None or len(images) <= self.chunk_size or not torch.is_grad_enabled():
            return self._encode_chunk(images)
        parts = [
            checkpoint(self._encode_chunk, part, use_reentrant=False) for part in torch.split(images, self.chunk_size)
        ]
        embeddings, distances = zip(*parts, strict=True)
        return torch.cat(embeddings), None if self.base is None else torch.cat(distances)

    def _encode_chunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.base is None:
            return self.encoder(images), None
        tokens = self.encoder.tokens(images)
        with torch.no_grad():
            before = self.base.tokens(images)
        return tokens[:, 0], token_distance(tokens[:, 1:], before[:, 1:])

    def project_teacher(self, name: str, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B S"]:
        """Project a teacher's embeddings into the shared space.

        Args:
            name: of the teacher.
            embedding: standardised (`standardisers`). Rows that lack the modality must hold finite numbers, zeros for
                instance: they take no part in the loss, but 0 x NaN would spoil the gradient.
        """
        projected: Tensor = self.teacher_projections[name](embedding)
        return projected

    def scale(self) -> Float[Tensor, ""]:
        """Return the learnable inverse temperature, within [1, 100].

        The parameter itself is brought back into range first. Were only its value clipped, the gradient would vanish
        outside and the temperature could not return.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(0.0, math.log(LARGEST_SCALE))
        return self.logit_scale.exp().squeeze(0)

    def merged_encoder(self) -> Encoder:
        """Return a plain encoder, in evaluation mode on the CPU, that gives the adapted one's embeddings."""
        vit = self.encoder.vit
        if self.adaptation == "lora":
            vit = copy.deepcopy(vit).merge_and_unload()
        with torch.random.fork_rng(devices=[]):  # building one draws weights that are replaced at once
            merged = Encoder(self.encoder.config)
        merged.vit.load_state_dict(vit.state_dict(), strict=True)
        return merged.eval()

    def save_adapter(self, folder: Path) -> Path:
        """Write what LoRA learned, trained norms included, in PEFT's format.

        `peft.PeftModel.from_pretrained(vit, folder)` puts it on the base encoder's `vit` again.

        Raises:
            PacxError: the student is not adapted by LoRA, or the folder cannot be written.
        """
        if self.adaptation != "lora":
            raise PacxError(f"The student is adapted by {self.adaptation!r}, which has no adapter. Save the encoder.")
        with new_folder(Path(folder), marker=ADAPTER_CONFIG) as filling:
            self.encoder.vit.save_pretrained(str(filling))
            (filling / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        return Path(folder)


def _add_lora(encoder: Encoder, *, rank: int, alpha: int, dropout: float, train_norms: str) -> None:
    if train_norms not in NORMS:
        raise PacxError(f"There is no choice train_norms={train_norms!r}. Choose all or final.")
    if rank < 1 or not 0 <= dropout < 1:
        raise PacxError(f"Found LoRA rank {rank} and dropout {dropout}; the rank is at least 1, the dropout in [0, 1).")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=LORA_TARGETS,
        # PEFT matches the end of a name, so "norm" also wraps timm's unused q_norm and k_norm, which have no weights.
        modules_to_save=NORMS[train_norms],
    )
    config._register_custom_module({nn.Linear: LoraLinear})
    encoder.vit = get_peft_model(encoder.vit, config)
    for block in encoder.vit.blocks:
        AdaptedBlock.adopt(block)


def _free_last_blocks(encoder: Encoder, num_blocks: int) -> None:
    depth = encoder.config.depth
    if not 1 <= num_blocks <= depth:
        raise PacxError(f"Found last_blocks = {num_blocks}; this encoder has {depth} blocks, so use 1 to {depth}.")
    encoder.requires_grad_(False)
    encoder.vit.blocks[-num_blocks:].requires_grad_(True)
    encoder.vit.norm.requires_grad_(True)


def _free_all(encoder: Encoder) -> None:
    encoder.requires_grad_(True)
    encoder.vit.pos_embed.requires_grad_(False)


def _check_teachers(teachers: Mapping[str, int]) -> None:
    if not teachers:
        raise PacxError("A student needs at least one teacher. Give one bank or more.")
    for name, dim in teachers.items():
        check_teacher_name(name)
        if dim < 1:
            raise PacxError(f"Teacher {name} has embeddings of length {dim}; they need at least one number.")
