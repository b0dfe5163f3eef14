"""Who comes when in an epoch of a head's training, and which images are seen mirrored.

Order and flips are functions of (seed, epoch) alone, so that a head on cached features and the same head on top of a
running backbone see the same images in the same order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochPlan", "cosine_share", "plan_epoch"]


class EpochPlan(NamedTuple):
    """One pass over n training rows."""

    order: NDArray[np.int64]
    """(n,) row numbers in the order in which they are seen"""
    mirrored: NDArray[np.bool_]
    """(n,) by row number, not by turn: whether the row is seen mirrored in this epoch, with probability .5"""


def plan_epoch(num_rows: int, *, seed: int, epoch: int) -> EpochPlan:
    """Shuffle the rows and flip coins, the same on every machine.

    Args:
        num_rows: of the training subset.
        seed: of the training.
        epoch: counted from 0.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = np.argsort(generator.random(num_rows), kind="stable")
    return EpochPlan(order, generator.random(num_rows) < 0.5)


def cosine_share(epoch: int, *, epochs: int) -> float:
    """Return which share of the learning rate an epoch has: 1 in the first, on a half cosine that ends in 0."""
    return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
