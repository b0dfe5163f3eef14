"""Retrieval: does an image's embedding find its own teacher embedding among all others?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array, bootstrap_mean

__all__ = ["retrieval", "retrieval_hits", "unit_rows"]

_BLOCK = 8_000_000
"""Cosines (64 MB as float64) that one block of queries may hold."""

_TIE = 1e-9
"""Cosines closer than this are equal: far above the rounding of a float64 product, far below any real difference."""


def retrieval_hits(query: ArrayLike, gallery: ArrayLike, *, ks: Sequence[int] = (1, 5, 10)) -> tuple[Array, Array]:
    """Look every query's own row up in a gallery by cosine.

    Where g gallery rows beat the true one and t tie with it, the true rank is anywhere in g+1 ... g+t+1. The hit at
    k is the share of those places within the first k, so that constant embeddings score chance and not 1. Rows
    that share an embedding (two X-rays of one admission) are such ties.

    Args:
        query: (N, D); row i belongs to gallery row i. Rows are scaled to unit length here.
        gallery: (N, D).
        ks: depths.

    Returns:
        hits (N, len(ks)) in [0, 1], and middle ranks (N,) from 1 to N.

    Raises:
        PacxError: shapes differ, or an embedding is not finite.
    """
    q, g = _checked(query, name="query"), _checked(gallery, name="gallery")
    if q.shape != g.shape:
        raise PacxError(f"Retrieval pairs row i with row i: query is {q.shape}, gallery is {g.shape}. They must agree.")
    depth = np.asarray(ks, dtype=np.float64)
    hits, rank = np.empty((len(q), len(depth))), np.empty(len(q))
    block = max(1, _BLOCK // max(len(q), 1))
    for start in range(0, len(q), block):
        part = slice(start, start + block)
        cosine = q[part] @ g.T
        gap = cosine - np.take_along_axis(cosine, np.arange(len(q))[part, None], axis=1)
        better = np.count_nonzero(gap > _TIE, axis=1)
        tied = np.count_nonzero(np.abs(gap) <= _TIE, axis=1)  # the true row ties with itself
        hits[part] = np.clip(depth - better[:, None], 0, tied[:, None]) / tied[:, None]
        rank[part] = better + (tied + 1) / 2
    return hits, rank


def retrieval(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    patient: ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Recall at k of finding each query's own row in the gallery by cosine, with intervals and chance levels.

    The interval comes from drawing the queries' patients; the gallery stays whole. See `retrieval_hits` for ties.

    Args:
        query: (N, D).
        gallery: (N, D), row i belongs to query i.
        patient: (N,) patient of each row; every row its own patient if not given.
        ks: depths.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the intervals.

    Returns:
        {"r1": Interval, ..., "chance": {"r1": 1/N, ...}, "n": N, "median_rank": float}; NaN for N = 0.
    """
    hits, rank = retrieval_hits(query, gallery, ks=ks)
    people = np.arange(len(rank)) if patient is None else np.asarray(patient)
    found: dict[str, Any] = {
        f"r{k}": bootstrap_mean(hits[:, i], people, draws=draws, seed=seed, level=level) for i, k in enumerate(ks)
    }
    found["chance"] = {f"r{k}": min(1.0, k / len(rank)) if len(rank) else float("nan") for k in ks}
    found["n"] = len(rank)
    found["median_rank"] = float(np.median(rank)) if len(rank) else float("nan")
    return found


def unit_rows(rows: ArrayLike) -> Array:
    """Scale rows (N, D) to unit length; a zero row stays zero, so that its cosine with anything is 0."""
    x = np.asarray(rows, dtype=np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, length, out=np.zeros_like(x), where=length > 0))


def _checked(rows: ArrayLike, *, name: str) -> Array:
    x = np.asarray(rows, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise PacxError(f"The {name} embeddings must be finite numbers of shape (N, D); found shape {x.shape}.")
    return unit_rows(x)
