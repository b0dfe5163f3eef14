# ruff: noqa: F722
"""Teacher embeddings made fit for learning: centred, or whitened.

A teacher's embeddings can point in nearly the same direction for everybody (ECGFounder: mean cosine .43 between
strangers). A cosine to such a target is high for whoever predicts the mean, so a regression learns the mean and little
else. Centring takes the mean away; whitening also gives every direction in which the teacher varies the same weight:

    z = (x - mean) V diag(1 / sqrt(lambda + eps)) V^T,   covariance = V diag(lambda) V^T   (ZCA; Bell & Sejnowski 1997)

eps is `RIDGE` of the mean variance, so that directions in which the teacher hardly varies are not blown up to noise.
Both are fitted on training rows. The map can be undone, to read a predicted embedding as the teacher's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pacx.errors import PacxError

__all__ = ["RIDGE", "Standardise", "Standardiser", "fit_standardiser"]

Standardise = Literal["none", "centre", "whiten"]
RIDGE = 0.1


class Standardiser(nn.Module):
    """x -> (x - mean) @ forward_map, and back; the identity until it is fitted or loaded.

    Args:
        dim: length D of an embedding.

    Attributes:
        mean: (D,)
        forward_map: (D, D)
        backward_map: (D, D), the inverse of `forward_map`
    """

    mean: Tensor
    forward_map: Tensor
    backward_map: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("forward_map", torch.eye(dim))
        self.register_buffer("backward_map", torch.eye(dim))

    def forward(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Standardise a teacher's embeddings, in full precision whatever the student computes in."""
        with torch.autocast(embedding.device.type, enabled=False):
            return (embedding - self.mean) @ self.forward_map

    def inverse(self, standardised: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the embeddings that give these standardised ones."""
        return standardised @ self.backward_map + self.mean


def fit_standardiser(embeddings: NDArray[np.float32], how: Standardise) -> Standardiser:
    """Fit to the embeddings of training rows.

    Args:
        embeddings: (N, D), all present.
        how: `none` leaves them as they are, `centre` subtracts the mean, `whiten` also equalises the variances.

    Raises:
        PacxError: an unknown way, or fewer than two rows.
    """
    if how not in {"none", "centre", "whiten"}:
        raise PacxError(f"There is no way {how!r} to standardise teachers. Choose none, centre or whiten.")
    standardiser = Standardiser(embeddings.shape[1])
    if how == "none":
        return standardiser
    if len(embeddings) < 2:
        raise PacxError(
            f"Found {len(embeddings)} training rows of a teacher; --standardise {how} needs at least 2 of each."
        )
    rows = np.asarray(embeddings, dtype=np.float64)
    mean = rows.mean(axis=0)
    standardiser.mean.copy_(torch.from_numpy(mean))
    if how == "whiten":
        variance, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False).reshape(rows.shape[1], -1))
        deviation = np.sqrt(variance.clip(min=0) + (RIDGE * float(variance.mean()) or 1.0))  # 1: nothing varies
        standardiser.forward_map.copy_(torch.from_numpy((axes / deviation) @ axes.T))
        standardiser.backward_map.copy_(torch.from_numpy((axes * deviation) @ axes.T))
    return standardiser
