"""What the laboratory teacher optimises: fill in the observed entries, some of which are hidden anew in every step."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from pacx.models.labs_autoencoder import LabsAutoencoder, hide_entries, reconstruction_loss
from pacx.stages.optimisation import warmup_cosine
from pacx.stages.run import LossGuard

__all__ = ["LabsDenoising"]


class LabsDenoising(L.LightningModule):
    """One step of the denoising autoencoder.

    Args:
        net: the autoencoder.
        image_ids: the store's ids by row, to name rows whose loss is not finite.
        dropout: probability with which an observed entry is hidden.
        learning_rate: peak learning rate.
        weight_decay: decay of all parameters.
        warmup_steps: linear warm-up, in optimiser steps.
    """

    def __init__(
        self,
        net: LabsAutoencoder,
        *,
        image_ids: list[str],
        dropout: float,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        super().__init__()
        self.net = net
        self.guard = LossGuard(image_ids)
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Hide entries anew in every step; the guard sees to losses that are not finite."""
        shown = hide_entries(batch["observed"], probability=self.dropout)
        loss = reconstruction_loss(self.net(batch["labs"], shown)[0], batch["labs"], batch["observed"])
        if self.guard.accepts(loss, batch["index"]):
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(shown), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the same loss with entries hidden once and for all."""
        reconstruction, _ = self.net(batch["labs"], batch["shown"])
        loss = reconstruction_loss(reconstruction, batch["labs"], batch["observed"])
        self.log("val_loss", loss, batch_size=len(batch["labs"]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero, per step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = partial(warmup_cosine, warmup_steps=self.warmup_steps, total_steps=total_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
