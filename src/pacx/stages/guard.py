"""What to do when a loss is not a number: leave out the step, name the images, stop if it does not cease.

* A loss is judged by all processes of a training together. If it is not finite on one of them, none takes the step:
  they would otherwise train different networks.
* A refused loss is returned to the Trainer all the same. Its backward pass runs on every process, so that the exchanges
  of gradients that belong to it find their partners; then `StepGuard` throws the gradients away. The optimiser's
  state, momentum included, stays as it was; the learning rate moves on as if the step had been taken.
* With several batches per optimiser step, one refused batch costs the whole step: what was added up cannot be taken
  apart again, and a sum over fewer batches would be another step than the one asked for.
* Where an epoch ends before an optimiser step has all its batches, Lightning still divides by the full number.
  `StepGuard` puts that right: a step follows the mean over the batches that it has.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pacx.errors import PacxError

__all__ = ["LossGuard", "StepGuard"]

log = logging.getLogger("pacx")


class LossGuard(nn.Module):
    """Judges losses, and ends the run when they are not finite again and again.

    Args:
        image_ids: the store's ids, by row; the message names those of the bad batches.
        limit: how many bad batches in a row end the run.

    The counts are buffers, so a run that is continued goes on counting. With several processes they are equal on all.
    """

    skipped: Tensor
    """optimiser steps left out so far"""
    in_a_row: Tensor
    """batches refused since the last one that was not"""

    def __init__(self, image_ids: Sequence[str], *, limit: int = 3) -> None:
        super().__init__()
        self.image_ids = image_ids
        self.limit = limit
        self.refused = False
        """whether a batch of the optimiser step under way was refused"""
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self.register_buffer("in_a_row", torch.zeros((), dtype=torch.int64))

    def accepts(self, loss: Tensor, rows: Tensor) -> bool:
        """Say whether a batch may count; the answer is the same on every process.

        Args:
            loss: the scalar loss.
            rows: (B,) store rows of the batch.

        Raises:
            PacxError: `limit` losses in a row were not finite.
            SystemExit: the same, on all processes but the first; that one tells the user.
        """
        finite = bool(torch.isfinite(loss.detach()))
        if _everywhere(finite, device=loss.device):
            self.in_a_row.zero_()
            return True
        self.skipped += int(not self.refused)
        self.in_a_row += 1
        self.refused = True
        named = self._names([] if finite else rows.tolist())
        log.warning("The loss is not finite; this step is skipped (images %s).", named)
        if int(self.in_a_row) < self.limit:
            return False
        if _several() and dist.get_rank() > 0:
            raise SystemExit(2)
        raise PacxError(
            f"The loss was not finite {int(self.in_a_row)} times in a row; the last batch held the images {named}. "
            "Look at these images, lower --learning_rate, or use --precision 32-true. The run up to the last "
            "checkpoint is kept."
        )

    def _names(self, rows: list[int]) -> str:
        """List the images of the processes whose loss was bad, the first eight by name."""
        if _several():
            parts: list[list[int]] = [[]] * dist.get_world_size()
            dist.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        ids = [str(self.image_ids[row]) for row in rows]
        return ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


class StepGuard(L.Callback):
    """Makes an optimiser step follow the mean gradient of its batches, or leaves it out if one was refused."""

    def __init__(self) -> None:
        self._batches = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with a whole step: checkpoints are written between steps only."""
        self._batches = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batches of the step."""
        self._batches += 1

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Drop or mend the gradients; clipping comes after this."""
        guards = [part for part in pl_module.modules() if isinstance(part, LossGuard)]
        gradients = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any(guard.refused for guard in guards):
            for parameter in gradients:
                parameter.grad = None  # the optimiser passes over what has no gradient
        elif self._batches < trainer.accumulate_grad_batches:
            for parameter in gradients:
                if parameter.grad is not None:
                    parameter.grad.mul_(trainer.accumulate_grad_batches / self._batches)
        for guard in guards:
            guard.refused = False
        self._batches = 0


def _everywhere(condition: bool, *, device: torch.device) -> bool:
    """Say whether a condition holds on all processes."""
    if not _several():
        return condition
    holds = torch.tensor(int(condition), device=device)
    dist.all_reduce(holds, op=dist.ReduceOp.MIN)
    return bool(holds)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
