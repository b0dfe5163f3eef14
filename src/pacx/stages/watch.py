# ruff: noqa: F722
"""Pictures of a masked autoencoder while it trains, in TensorBoard.

The same few validation images with the same patches hidden, every time, so that what changes is the network. Nothing
is drawn at random and no gradient is kept: a run with pictures ends in the same weights as one without.
"""

from __future__ import annotations

import logging

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from pacx.models.mae import MaskedAutoencoder
from pacx.stages.completions import Completion, complete
from pacx.stages.sharding import BlockSharding

__all__ = ["WatchReconstructions"]

log = logging.getLogger("pacx")

_PICTURES_PER_RUN = 20
_HIDDEN_GRAY = 0.25


class WatchReconstructions(L.Callback):
    """Puts X-ray, visible patches and completion into TensorBoard, some twenty times in a run.

    Args:
        images: a few normalised images.
        noise: which of their patches are hidden.
        epochs: of the run.

    Under FSDP there are no pictures: no process has the whole network while it trains.
    """

    def __init__(self, images: Float[Tensor, "B C S S"], noise: Float[Tensor, "B N"], *, epochs: int) -> None:
        self.images = images
        self.noise = noise
        self.every = max(1, epochs // _PICTURES_PER_RUN)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where there will be no pictures."""
        if trainer.is_global_zero and isinstance(trainer.strategy, BlockSharding):
            log.info("No pictures in TensorBoard under FSDP; `pacx reconstruct` draws them after the run.")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw after every few epochs, and after the last one."""
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or isinstance(trainer.strategy, BlockSharding):
            return
        if (epoch % self.every and epoch != trainer.max_epochs) or not isinstance(trainer.logger, TensorBoardLogger):
            return
        model = pl_module.model
        assert isinstance(model, MaskedAutoencoder)
        sheet = _sheet(complete(model, self.images, self.noise))
        trainer.logger.experiment.add_image("reconstructions", sheet, trainer.global_step, dataformats="HW")


def _sheet(made: Completion, *, gap: int = 2) -> Float[Tensor, "H W"]:
    """Lay out one column per image: X-ray, what is seen of it, completion."""
    seen = made.image.masked_fill(made.hidden, _HIDDEN_GRAY)
    cells = F.pad(torch.stack([made.image, seen, made.filled]), (0, gap, 0, gap), value=1.0)  # (3, B, S + gap, S + gap)
    rows, columns, height, width = cells.shape
    return cells.permute(0, 2, 1, 3).reshape(rows * height, columns * width)
