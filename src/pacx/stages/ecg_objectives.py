"""The two ways to train an ECG network, a step each: classify statements, or fill in what was hidden.

Supervised: binary cross-entropy over known labels. An unknown label (NaN) adds nothing: it is not a 0. Statements are
learned jointly, so those that share causes share features.

Self-supervised: squared error over hidden samples (`pacx.models.ecg_masking`). What a step hides is drawn anew; on
validation records it is a function of (seed, store row), so the curve shows learning and not luck.

What distillation uses is the feature before the last layer, in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.ecg_masking import EcgFiller, hidden_error, hide_segments
from pacx.models.ecgfounder import EcgNet
from pacx.stages.ecg_augment import EcgAugment
from pacx.stages.run import LossGuard, adamw_with_warmup

__all__ = ["EcgClassification", "EcgFilling", "Masking", "StepSize", "known_label_loss"]


@dataclass(frozen=True)
class StepSize:
    """How the weights move."""

    learning_rate: float
    """peak learning rate"""
    weight_decay: float
    """AdamW decay of kernels"""
    warmup_epochs: float
    """linear warm-up, in epochs"""


@dataclass(frozen=True)
class Masking:
    """What is hidden of a record."""

    ratio: float
    """probability with which a segment is hidden"""
    segment: int
    """samples of a segment"""
    seed: int = 0
    """of the masks of validation records"""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise PacxError(f"mask_ratio is {self.ratio:g}; it is the share that is hidden, above 0 and below 1.")
        if self.segment < 1:
            raise PacxError("mask_seconds is shorter than one sample. Give some tenths of a second.")

    def draw(self, x: Tensor) -> Tensor:
        """Draw masks anew for records (B, leads, T)."""
        return hide_segments(*x.shape, segment=self.segment, ratio=self.ratio).to(x.device)

    def fixed(self, x: Tensor, rows: Tensor) -> Tensor:
        """Draw the masks of store rows (B,) that never change, whatever batch the rows are in."""
        masks = []
        for row in rows.tolist():
            seed = np.random.SeedSequence([self.seed, row]).generate_state(1, np.uint64)[0] >> np.uint64(1)
            generator = torch.Generator().manual_seed(int(seed))
            masks.append(hide_segments(1, *x.shape[1:], segment=self.segment, ratio=self.ratio, generator=generator))
        return torch.cat(masks).to(x.device)


class EcgClassification(L.LightningModule):
    """One step of learning ECG statements.

    Args:
        net: the network.
        image_ids: the store's ids by row, to name records whose loss is not finite.
        augment: what is done to training records.
        step: how the weights move.
        frozen: learn the head alone; the rest computes as in use and does not change.
    """

    def __init__(
        self, net: EcgNet, *, image_ids: Sequence[str], augment: EcgAugment, step: StepSize, frozen: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.guard = LossGuard(image_ids)
        self.augment = augment
        self.step = step
        self.frozen = frozen
        if frozen:
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(name.startswith("dense."))

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a frozen network as it is in use: batch norms hold their statistics, nothing is dropped."""
        if self.frozen:
            self.net.eval()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment and classify; the guard sees to losses that are not finite."""
        loss = known_label_loss(self.net(self.augment(batch["ecg"])), batch["label"])
        return _checked(self, loss, batch["index"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the loss on the records as they are."""
        loss = known_label_loss(self.net(batch["ecg"]), batch["label"])
        known = int((~torch.isnan(batch["label"])).sum())  # every one of them counts alike, whatever batch it is in
        self.log("val_loss", loss, batch_size=max(known, 1), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero."""
        return adamw_with_warmup(self.trainer, self.net, **vars(self.step))


class EcgFilling(L.LightningModule):
    """One step of filling in hidden segments.

    Args:
        filler: the network with its decoder.
        image_ids: the store's ids by row, to name records whose loss is not finite.
        augment: what is done to training records before anything is hidden.
        masking: what is hidden.
        step: how the weights move.
    """

    def __init__(
        self, filler: EcgFiller, *, image_ids: Sequence[str], augment: EcgAugment, masking: Masking, step: StepSize
    ) -> None:
        super().__init__()
        self.filler = filler
        self.guard = LossGuard(image_ids)
        self.augment = augment
        self.masking = masking
        self.step = step

    @property
    def net(self) -> EcgNet:
        """The network without the decoder."""
        return self.filler.net

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, hide, fill in; the guard sees to losses that are not finite."""
        x = self.augment(batch["ecg"])
        hidden = self.masking.draw(x)
        return _checked(self, hidden_error(self.filler(x, hidden), x, hidden), batch["index"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the error with the masks that never change."""
        hidden = self.masking.fixed(batch["ecg"], batch["index"])
        loss = hidden_error(self.filler(batch["ecg"], hidden), batch["ecg"], hidden)
        self.log("val_loss", loss, batch_size=max(int(hidden.sum()), 1), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero."""
        return adamw_with_warmup(self.trainer, self.filler, **vars(self.step))


def known_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over the known labels of a batch; 0 where none is known.

    Args:
        logits: (B, L).
        labels: (B, L) of 0, 1 or NaN = unknown.
    """
    known = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(labels), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def _checked(module: EcgClassification | EcgFilling, loss: Tensor, rows: Tensor) -> Tensor:
    """Log a training loss that is finite; the guard counts the others."""
    if module.guard.accepts(loss, rows):
        module.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(rows), sync_dist=True)
    return loss
