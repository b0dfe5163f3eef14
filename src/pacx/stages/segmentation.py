# ruff: noqa: F722
"""One step of decoding masks from frozen tokens, and its loss; `pacx.stages.segment` is the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from pacx.models.heads import SegmentationDecoder
from pacx.stages.mask_scores import overlap_scores, pooled_scores
from pacx.stages.optimisation import adamw_over_groups, parameter_groups
from pacx.stages.run import LossGuard
from pacx.stages.tokens import TokenSource

__all__ = ["MaskDecoding", "segmentation_loss"]


class MaskDecoding(L.LightningModule):
    """One step of decoding masks from frozen tokens.

    Args:
        tokens: gives the frozen encoder's patch tokens of a batch.
        masks: gives the true masks (B, S, S) of store rows; a batch that has masks of its own, rotated with its
            images, is trained on those.
        image_ids: the store's ids by row.
        flip: mirror half of the training images, drawn anew in each epoch.
        learning_rate: peak learning rate.
        weight_decay: decay of kernels.
        warmup_epochs: linear warm-up, in epochs.
        decay_all: let the decay act on biases too.
        seed: seed of the flips.
    """

    def __init__(
        self,
        tokens: TokenSource,
        masks: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
        *,
        image_ids: list[str],
        flip: bool,
        learning_rate: float,
        weight_decay: float,
        warmup_epochs: float,
        decay_all: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = tokens.config
        self.decoder = SegmentationDecoder(config.width, grid=config.grid, patch_size=config.patch_size)
        self.tokens = tokens
        self.masks = masks
        self.guard = LossGuard(image_ids)
        self.flip = flip
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.decay_all = decay_all
        self.seed = seed

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Decode, mirrored or not; the guard sees to losses that are not finite."""
        flipped = self._flipped(batch["index"])
        truth = batch["mask"][:, 0] > 0.5 if "mask" in batch else self._truth(batch["index"])
        truth = torch.where(flipped.view(-1, 1, 1), truth.flip(-1), truth)
        loss = segmentation_loss(self._logits(batch, flipped, truth.shape[-1]), truth)
        if self.guard.accepts(loss, batch["index"]):
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(truth))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure loss, Dice and IoU per image, and Dice over the pixels of the batch."""
        truth = self._truth(batch["index"])
        logits = self._logits(batch, torch.zeros_like(batch["index"], dtype=torch.bool), truth.shape[-1])
        dice, iou = overlap_scores(logits > 0, truth)
        parts = {"val_loss": segmentation_loss(logits, truth), "val_dice": dice.mean(), "val_iou": iou.mean()}
        parts["val_pooled_dice"] = torch.tensor(pooled_scores(logits > 0, truth).dice)
        self.log_dict(parts, batch_size=len(truth))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return index (B,) and the predicted masks (B, S, S)."""
        size = self._truth(batch["index"][:1]).shape[-1]
        logits = self._logits(batch, torch.zeros_like(batch["index"], dtype=torch.bool), size)
        return {"index": batch["index"], "mask": logits > 0}

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero."""
        groups: list[dict[str, Any]] = [{"params": list(self.decoder.parameters()), "weight_decay": self.weight_decay}]
        if not self.decay_all:
            groups = parameter_groups(self.decoder.named_parameters(), weight_decay=self.weight_decay)
        return adamw_over_groups(
            self.trainer, groups, learning_rate=self.learning_rate, warmup_epochs=self.warmup_epochs
        )

    def _logits(self, batch: dict[str, Tensor], flipped: Tensor, size: int) -> Float[Tensor, "B S S"]:
        logits: Tensor = self.decoder(self.tokens(batch, flipped))
        if logits.shape[-1] == size:
            return logits.float()
        return F.interpolate(logits[:, None].float(), size=(size, size), mode="bilinear", antialias=True)[:, 0]

    def _truth(self, rows: Tensor) -> Bool[Tensor, "B S S"]:
        return torch.from_numpy(self.masks(rows.cpu().numpy())).to(rows.device)

    def _flipped(self, rows: Tensor) -> Bool[Tensor, " B"]:
        if not self.flip:
            return torch.zeros_like(rows, dtype=torch.bool)
        keys = [[(self.seed << 32) + self.current_epoch, row] for row in rows.tolist()]
        draws = [np.random.Generator(np.random.Philox(key=key)).random() < 0.5 for key in keys]
        return torch.tensor(draws, device=rows.device)


def segmentation_loss(logits: Float[Tensor, "B H W"], mask: Bool[Tensor, "B H W"]) -> Tensor:
    """Compute binary cross-entropy plus soft Dice loss, the latter over all pixels of the batch."""
    truth = mask.to(logits.dtype)
    probability = logits.sigmoid()
    dice = 2 * (probability * truth).sum() / (probability.sum() + truth.sum() + 1e-6)
    return F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice
