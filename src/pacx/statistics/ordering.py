"""What all measures of ranking share: one sorting of the rows, and blocks of draws over it.

Every measure of how well scores rank the positives above the negatives (AUROC, average precision, sensitivity at a
specificity) needs, at each positive, the weight of the negatives below it and of the positives above it. All bootstrap
draws share the sorting; a block of draws costs one cumulative sum over the negatives. Nothing loops over draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array, Resamples

__all__ = ["Block", "Ordering", "blocks", "checked", "draw_by_draw", "one_draw", "order"]

_BLOCK = 1_000_000
"""numbers (8 MB as float64) that one block of draws may hold: small enough to stay in a cache, measured"""


class Ordering(NamedTuple):
    """The sorting of labelled rows."""

    positive: NDArray[np.int64]
    """(P,) row numbers of the positives by descending score"""
    negative: NDArray[np.int64]
    """(Q,) row numbers of the negatives by ascending score"""
    below: NDArray[np.int64]
    """(P,) how many negatives score lower than each positive"""
    not_above: NDArray[np.int64]
    """(P,) how many negatives score lower than or equal to each positive"""
    last: NDArray[np.int64]
    """(P,) place of the last positive that ties with each"""


class Block(NamedTuple):
    """Weights of some draws, B of them, along an ordering."""

    positive: Array
    """(B, P) weight of each positive"""
    below: Array
    """(B, P) weight of the negatives that score lower than each positive"""
    not_above: Array
    """(B, P) the same with those that tie with it"""
    negatives: Array
    """(B,) weight of all negatives"""

    @property
    def positives(self) -> Array:
        """(B,) weight of all positives."""
        return np.asarray(self.positive.sum(axis=1))

    def positive_from_above(self, ordering: Ordering) -> Array:
        """(B, P) weight of the positives that score at least as high as each."""
        return np.asarray(np.cumsum(self.positive, axis=1)[:, ordering.last])


def checked(target: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """Return labels and scores as flat arrays of equal length.

    Raises:
        PacxError: a label other than 0, 1, NaN, or a NaN score on a labelled row.
    """
    y, s = np.asarray(target, dtype=np.float64).reshape(-1), np.asarray(score, dtype=np.float64).reshape(-1)
    if len(y) != len(s):
        raise PacxError(f"{len(y)} labels and {len(s)} scores were given; every label needs one score.")
    known = ~np.isnan(y)
    if not np.isin(y[known], (0.0, 1.0)).all():
        raise PacxError(f"Labels must be 0, 1 or NaN; found {np.unique(y[known])[:5].tolist()}.")
    if np.isnan(s[known]).any():
        raise PacxError(
            f"{np.isnan(s[known]).sum()} of {known.sum()} scores are NaN: the model that made them diverged."
        )
    return y, s


def order(target: ArrayLike, score: ArrayLike) -> Ordering:
    """Sort the labelled rows; arguments and errors as for `checked`."""
    y, s = checked(target, score)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    positive = positive[np.argsort(-s[positive], kind="stable")]
    negative = negative[np.argsort(s[negative], kind="stable")]
    below, not_above = (np.searchsorted(s[negative], s[positive], side=side) for side in ("left", "right"))
    last = np.searchsorted(-s[positive], -s[positive], side="right") - 1
    return Ordering(positive, negative, below, not_above, last)


def one_draw(rows: int, weight: ArrayLike | None = None) -> Resamples:
    """Take weighted rows, or rows as they are, for a single draw in which each row is a patient."""
    weights = np.ones(rows) if weight is None else np.asarray(weight, dtype=np.float64)
    return Resamples(np.arange(rows), weights[None])


def blocks(ordering: Ordering, resamples: Resamples) -> Iterator[tuple[slice, Block]]:
    """Go through all draws in blocks of bounded memory."""
    positive, negative = resamples.codes[ordering.positive], resamples.codes[ordering.negative]
    size = max(1, _BLOCK // max(1, len(positive) + len(negative)))
    for start in range(0, len(resamples.weights), size):
        weights = resamples.weights[start : start + size]
        up_to = np.zeros((len(weights), len(negative) + 1))
        np.cumsum(np.take(weights, negative, axis=1), axis=1, out=up_to[:, 1:])
        yield (
            slice(start, start + size),
            Block(
                np.take(weights, positive, axis=1),
                np.take(up_to, ordering.below, axis=1),
                np.take(up_to, ordering.not_above, axis=1),
                up_to[:, -1],
            ),
        )


def draw_by_draw(
    ordering: Ordering, resamples: Resamples, *measures: Callable[[Ordering, Block], Array]
) -> tuple[Array, ...]:
    """Compute measures of every draw, each (draws,); NaN throughout where a class is absent."""
    found = tuple(np.full(len(resamples.weights), np.nan) for _ in measures)
    if len(ordering.positive) and len(ordering.negative):
        for part, block in blocks(ordering, resamples):
            for result, measure in zip(found, measures, strict=True):
                result[part] = measure(ordering, block)
    return found
