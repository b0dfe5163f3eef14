"""One step of masked autoencoding: hide, encode, fill in, compare; AdamW with betas (.9, .95), warm-up, cosine."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from pacx.models.mae import MaskedAutoencoder
from pacx.stages.reconstruct import mask_noise
from pacx.stages.run import LossGuard, adamw_with_warmup

__all__ = ["MaskedPretraining"]


class MaskedPretraining(L.LightningModule):
    """One step of masked autoencoding.

    Args:
        model: the masked autoencoder.
        image_ids: the store's ids by row, to name images whose loss is not finite.
        learning_rate: peak learning rate.
        weight_decay: decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
        seed: seed of the masks.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        *,
        image_ids: list[str],
        learning_rate: float,
        weight_decay: float,
        warmup_epochs: float,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.guard = LossGuard(image_ids)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.seed = seed

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Hide patches anew in every epoch; the guard sees to losses that are not finite."""
        output = self.model(batch["image"], self._noise(batch["index"], epoch=self.current_epoch))
        size = len(batch["index"])
        if self.guard.accepts(output.loss, batch["index"]):
            self.log("train_loss", output.loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
            visible = (1 - output.mask.float()).sum(dim=1).mean()
            self.log("visible_tokens", visible, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        skipped = float(self.guard.skipped)
        self.log("skipped_steps", skipped, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        loss: Tensor = output.loss
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start from nothing."""
        self._val_total = torch.zeros(2, device=self.device)  # sum of losses, number of images

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the loss with the masks that never change; an image that several processes got counts once."""
        loader: Any = self.trainer.val_dataloaders
        fresh = min(len(batch["index"]), max(0, loader.sampler.num_fresh() - batch_idx * loader.batch_size))
        # All of the batch is looked at where none of it counts: sharded weights are gathered by all processes together.
        counted = {key: value[: fresh or None] for key, value in batch.items()}
        output = self.model(counted["image"], self._noise(counted["index"], epoch=None))
        self._val_total += torch.stack([output.loss * fresh, torch.full_like(output.loss, fresh)])

    def on_validation_epoch_end(self) -> None:
        """Average over all images, whichever process had them."""
        total = self.trainer.strategy.reduce(self._val_total, reduce_op="sum")
        self.log("val_loss", total[0] / total[1], sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero."""
        return adamw_with_warmup(
            self.trainer,
            self.model,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            betas=(0.9, 0.95),
        )

    def _noise(self, rows: Tensor, *, epoch: int | None) -> Tensor:
        return mask_noise(rows, self.model.encoder.config.num_patches, seed=self.seed, epoch=epoch).to(self.device)
