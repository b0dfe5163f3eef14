"""One step of masked autoencoding: hide, encode, fill in, compare; AdamW with betas (.9, .95), warm-up, cosine."""

from __future__ import annotations

from typing import Any

import lightning as L
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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Hide patches anew in every epoch; return the loss, or None to skip a step whose loss is not finite."""
        output = self.model(batch["image"], self._noise(batch["index"], epoch=self.current_epoch))
        if not self.guard.accepts(output.loss, batch["index"]):
            return None
        size = len(batch["index"])
        self.log("train_loss", output.loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        visible = (1 - output.mask.float()).sum(dim=1).mean()
        self.log("visible_tokens", visible, on_step=False, on_epoch=True, batch_size=size)
        self.log(
            "skipped_steps", float(self.guard.skipped), on_step=False, on_epoch=True, reduce_fx="max", batch_size=size
        )
        loss: Tensor = output.loss
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the loss with the masks that never change."""
        output = self.model(batch["image"], self._noise(batch["index"], epoch=None))
        self.log("val_loss", output.loss, batch_size=len(batch["index"]), sync_dist=True)

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
