"""Banks made worse on purpose: what distillation does when its teachers are noisy, or say nearly the same of everybody.

* **Noise**: every number gets normal noise whose standard deviation is a multiple of that number's own over the rows.
* **Mean cosine**: how alike the directions of two patients' embeddings are on average (ECGFounder's: .43). With
  d_i = e_i - mean(e), the bank becomes e'_i = d_i + s u: the same differences between patients around another common
  part. u is the direction of the mean; s >= 0 is found so that the mean over all pairs of cos(e'_i, e'_j) is what was
  asked for. What the teacher *tells apart* stays the same to the last digit; only what it says of everybody changes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pacx.data.bank import Bank
from pacx.errors import PacxError

__all__ = ["with_mean_cosine", "with_noise"]

_HALVINGS = 60


def with_noise(bank: Bank, amount: float, *, seed: int) -> Bank:
    """Add normal noise to every number of a bank.

    Args:
        bank: the bank; it stays as it is.
        amount: standard deviation of the noise, in standard deviations of each number over the rows; 0 adds none.
        seed: of the noise.

    Raises:
        PacxError: an amount below 0 or not finite.
    """
    if not 0 <= amount < np.inf:
        raise PacxError(f"Noise of {amount:g} standard deviations makes no sense; give a number of at least 0.")
    rng = np.random.Generator(np.random.PCG64(seed))
    scale = amount * bank.embeddings[bank.present].std(axis=0)
    noise = rng.standard_normal(bank.embeddings.shape, dtype=np.float32) * scale.astype(np.float32)
    changed = np.where(bank.present[:, None], bank.embeddings + noise, 0).astype(np.float32)
    return replace(bank, embeddings=changed, meta={**bank.meta, "noise": amount, "noise_seed": seed})


def with_mean_cosine(bank: Bank, cosine: float) -> Bank:
    """Give a bank another common part, so that two of its embeddings have this cosine on average.

    Args:
        bank: the bank; it stays as it is.
        cosine: the mean over all pairs of different rows, in [0, 1).

    Raises:
        PacxError: a cosine outside [0, 1), or a bank in which no two rows differ.
    """
    if not 0 <= cosine < 1:
        raise PacxError(f"A mean cosine of {cosine:g} cannot be made; give a number of at least 0 and below 1.")
    known = np.asarray(bank.embeddings[bank.present], dtype=np.float64)
    mean = known.mean(axis=0)
    apart = known - mean
    if not apart.any():
        raise PacxError(f"All embeddings of the bank {bank.name!r} are the same: nothing in it tells patients apart.")
    direction = mean / np.linalg.norm(mean) if np.linalg.norm(mean) > 0 else np.eye(1, len(mean))[0]
    # The mean cosine grows with s: bracket, then halve. Around their own mean (s = 0) it is near 0, or a little below.
    low, high = 0.0, float(np.linalg.norm(apart, axis=1).max())
    while _mean_cosine(apart + high * direction) < cosine:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_cosine(apart + middle * direction) < cosine else (low, middle)
    changed = np.zeros(bank.embeddings.shape, dtype=np.float32)
    changed[bank.present] = apart + high * direction
    return replace(bank, embeddings=changed, meta={**bank.meta, "asked_mean_cosine": cosine})


def _mean_cosine(rows: NDArray[np.float64]) -> float:
    """Mean cosine over all pairs of different rows: |sum u|^2 = n + the sum over pairs."""
    total = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).sum(axis=0)
    return float((total @ total - len(rows)) / (len(rows) * (len(rows) - 1)))
