# ruff: noqa: F722
"""How well a predicted mask A fits the true mask B: overlap by image, overlap by batch, distance of outlines.

    Dice = 2 |A & B| / (|A| + |B|)        IoU = |A & B| / |A | B|

* `overlap_scores` has them image by image; two empty masks fit perfectly.
* `pooled_scores` is what the paper reports: pixels are counted over a whole batch, then batches are averaged by their
  size. Large structures weigh more, one bad image vanishes among good ones, and the number depends on the batch size.
* `surface_distances` says how far apart the outlines are, in pixels of the stored mask. With S(A) the outline of A,
  the pixels of A with one of their four neighbours outside of A or of the image, and d(a, S) the Euclidean distance
  to the nearest pixel of S:

      surface distance = (sum of d(a, S(B)) over a in S(A) + sum of d(b, S(A)) over b in S(B)) / (|S(A)| + |S(B)|)
      Hausdorff 95     = max(95th percentile of d(a, S(B)), 95th percentile of d(b, S(A)))

  (Heimann et al. 2009, doi 10.1109/TMI.2009.2013851, average symmetric surface distance; Huttenlocher et al. 1993 with
  the maximum replaced by a percentile.) An empty mask has no outline and the distance is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects
from torch import Tensor

__all__ = ["PooledScores", "SurfaceDistances", "batched_scores", "overlap_scores", "pooled_scores", "surface_distances"]


def overlap_scores(
    prediction: Bool[Tensor, "B H W"], truth: Bool[Tensor, "B H W"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return Dice and IoU of each image; 1 where truth and prediction are both empty."""
    both = (prediction & truth).flatten(1).sum(1).double()
    either = (prediction | truth).flatten(1).sum(1).double()
    empty = either == 0
    return torch.where(empty, 1.0, 2 * both / (both + either)), torch.where(empty, 1.0, both / either)


class PooledScores(NamedTuple):
    """Overlap over the pixels of whole batches."""

    dice: float
    iou: float


def pooled_scores(prediction: Bool[Tensor, "B H W"], truth: Bool[Tensor, "B H W"]) -> PooledScores:
    """Score the pixels of a batch as if they were one image."""
    dice, iou = overlap_scores(prediction.flatten(0, 1)[None], truth.flatten(0, 1)[None])
    return PooledScores(float(dice), float(iou))


def batched_scores(prediction: Bool[Tensor, "N H W"], truth: Bool[Tensor, "N H W"], *, batch_size: int) -> PooledScores:
    """Score batch by batch, in the order of the images, and average by the number of images."""
    starts = range(0, len(truth), batch_size)
    batches = [slice(start, start + batch_size) for start in starts]
    scores = [pooled_scores(prediction[batch], truth[batch]) for batch in batches]
    weights = [len(truth[batch]) for batch in batches]
    return PooledScores(*(float(np.average(values, weights=weights)) for values in zip(*scores, strict=True)))


class SurfaceDistances(NamedTuple):
    """Distances between outlines, pixels; NaN where a mask is empty."""

    surface_distance: NDArray[np.float64]
    """(N,) mean in both directions"""
    hausdorff_95: NDArray[np.float64]
    """(N,) the larger of both 95th percentiles"""


def surface_distances(prediction: Sequence[NDArray[np.bool_]], truth: Sequence[NDArray[np.bool_]]) -> SurfaceDistances:
    """Measure the distance of the outlines of each pair of masks, (H, W) each."""
    found = [_of_one(ours, theirs) for ours, theirs in zip(prediction, truth, strict=True)]
    mean, largest = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return SurfaceDistances(mean, largest)


def _of_one(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    if not (prediction.any() and truth.any()):
        return np.nan, np.nan
    box = _box(prediction | truth)  # what is outside of both decides nothing, and costs time
    ours, theirs = _outline(prediction[box]), _outline(truth[box])
    there, back = distance_transform_edt(~theirs)[ours], distance_transform_edt(~ours)[theirs]
    mean = (there.sum() + back.sum()) / (len(there) + len(back))
    return float(mean), float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box around a mask that is not empty."""
    box: tuple[slice, ...] = find_objects(mask.astype(np.uint8))[0]
    return box


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outline: NDArray[np.bool_] = mask & ~binary_erosion(mask)
    return outline
