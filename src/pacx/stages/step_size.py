"""How many images an optimiser step sees, and what the learning rate is for that many.

    effective batch = batch_size x accumulate x devices x num_nodes
    learning rate   = base_learning_rate x effective batch / 256        where a base is given (Goyal et al. 2017)

Without a base the learning rate is taken as it is: the published 1.5e-4 is a peak, used with batches of 512.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from pacx.errors import PacxError
from pacx.stages.run import clip_batch_size

__all__ = ["DEFAULT_LEARNING_RATE", "StepSize", "settle_step_size"]

DEFAULT_LEARNING_RATE = 1.5e-4

log = logging.getLogger("pacx")


class StepSize(NamedTuple):
    """Batch and learning rate as they are used."""

    batch_size: int
    """images per process and forward pass"""
    effective_batch_size: int
    """images per optimiser step"""
    learning_rate: float
    """its peak"""


def settle_step_size(
    *,
    num_images: int,
    num_processes: int,
    batch_size: int,
    accumulate: int,
    learning_rate: float | None,
    base_learning_rate: float | None,
) -> StepSize:
    """Settle batch and learning rate, and say them.

    Args:
        num_images: of an epoch; neither a batch nor a step is larger than that.
        num_processes: devices of all computers.
        batch_size: as asked for.
        accumulate: forward passes per step.
        learning_rate: as asked for; `DEFAULT_LEARNING_RATE` if neither is.
        base_learning_rate: as asked for.

    Raises:
        PacxError: no image or no batch, or two learning rates.
    """
    share = math.ceil(num_images / num_processes)
    batch_size = clip_batch_size(batch_size, share)
    passes = min(accumulate, math.ceil(share / batch_size))
    effective = min(batch_size * passes, share) * num_processes
    rule = "as given"
    if base_learning_rate is not None:
        if learning_rate is not None:
            raise PacxError("Found both --learning_rate and --base_learning_rate. Give one of them.")
        learning_rate = base_learning_rate * effective / 256
        rule = f"{base_learning_rate:g} x {effective} / 256"
    elif learning_rate is None:
        learning_rate, rule = DEFAULT_LEARNING_RATE, "the published one"
    log.info(
        "pretrain: %d images; effective batch %d (batch_size %d x accumulate %d x devices %d); peak rate %.3g (%s)",
        num_images, effective, batch_size, passes, num_processes, learning_rate, rule,
    )  # fmt: skip
    return StepSize(batch_size, effective, learning_rate)
