# ruff: noqa: F722
"""Does the map show what the head decides by? Deletion and insertion curves (RISE, Petsiuk et al. 2018, 1806.07421).

Patches are taken out of an image in the order of the map, the most attended first, and the head is asked again each
time. If the map is right the probability falls early: the **deletion** area, under probability against the share of
patches removed, is small. **Insertion** is the other way about: patches are put into an empty image, and a large area
is good.

* Three orders: by the map, reversed, and random (the same for every encoder). A map is worth something if it beats
  the random order *of the same encoder and head*; the areas of two encoders differ already because their heads are
  sure to different degrees.
* What is shown after inserting the first k patches is what is left after deleting the others: insertion in one order is
  deletion in the reverse order read from the right. So the insertion area of the map is the deletion area of the
  reversed order, and every image is computed once.
* A removed patch is not nothing. It holds a blurred copy of the image (Gaussian, standard deviation one patch), or the
  pixel mean of the encoder's training images. Either is an image that the encoder was not trained on.
* Images that have the finding, by their label: there is something to lose. Areas: `pacx.evaluation.curve_areas`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from pacx.data.store import Store
from pacx.evaluation.class_head import ClassHead
from pacx.evaluation.rollout import ReadToken, read_token
from pacx.frozen.features import preprocessed
from pacx.models.encoder import Encoder

__all__ = [
    "Judge",
    "Removed",
    "deletion_curves",
    "removal_orders",
    "without_patches",
]

Removed = Literal["blur", "mean"]
"""What a removed patch holds: a blurred copy of the image, or the training images' mean pixel."""


class Judge(NamedTuple):
    """Who is asked: an encoder with a head on one of its tokens."""

    encoder: Encoder
    head: ClassHead
    token: ReadToken

    @torch.inference_mode()
    def probability(self, images: Float[Tensor, "B C H W"]) -> NDArray[np.float64]:
        """Return the probability of yes, (B,)."""
        tokens = self.encoder.tokens(images.to(next(self.encoder.parameters()).device))
        features = read_token(tokens, self.token).double().cpu().numpy()
        return np.asarray(1.0 / (1.0 + np.exp(-(features @ self.head.weight + self.head.intercept))))


def deletion_curves(
    judge: Judge,
    store: Store,
    rows: NDArray[np.int64],
    maps: NDArray[np.float64],
    *,
    removed: Removed = "blur",
    steps: int = 16,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Take patches out of images, order by order.

    Args:
        judge: who is asked.
        store: holds the images.
        rows: (n,) store rows.
        maps: (n, grid, grid) of these images.
        removed: what a removed patch holds.
        steps: how many times patches are taken out; each time about as many.
        batch_size: images per forward pass.

    Returns:
        One row per image, order and step: image_id, patient_id, order, fraction (of the patches removed, 0 to 1),
        probability.
    """
    counts = np.unique(np.linspace(0, maps[0].size, steps + 1).round().astype(int))
    ids = store.manifest.iloc[rows][["image_id", "patient_id"]].astype(str).to_numpy()
    tables = []
    wanted = zip(rows, ids, maps, strict=True)
    progress = tqdm(wanted, total=len(rows), desc="deletion", unit="image", leave=False, disable=None)
    for row, (image_id, patient_id), attention in progress:
        image = preprocessed(judge.encoder, store, np.array([row]))[0]
        filler = _filler(image, removed, patch=judge.encoder.config.patch_size)
        for name, order in removal_orders(attention, row=int(row)).items():
            left = torch.stack([without_patches(image, filler, order[:count], len(attention)) for count in counts])
            parts = [judge.probability(left[start : start + batch_size]) for start in range(0, len(left), batch_size)]
            tables.append(
                pd.DataFrame(
                    {
                        "image_id": image_id,
                        "patient_id": patient_id,
                        "order": name,
                        "fraction": counts / counts[-1],
                        "probability": np.concatenate(parts),
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def removal_orders(attention: NDArray[np.float64], *, row: int) -> dict[str, NDArray[np.int64]]:
    """Return the patches, numbered in reading order, in each order of `curve_areas.ORDERS`, the first to go first.

    Args:
        attention: (grid, grid); NaN counts as nothing. Patches of equal attention go in random order, not from the top.
        row: seeds what is random, so that every encoder meets the same order on an image.
    """
    rng = np.random.Generator(np.random.PCG64([0, row]))
    random, tie = rng.permutation(attention.size), rng.permutation(attention.size)
    order = np.lexsort((tie, -np.nan_to_num(attention.ravel())))
    return {"attention": order, "random": random, "reverse": order[::-1].copy()}


def without_patches(
    image: Float[Tensor, "C H W"], filler: Float[Tensor, "C H W"], patches: NDArray[np.int64], grid: int
) -> Float[Tensor, "C H W"]:
    """Return an image in which some patches, numbered in reading order, hold what the filler has there."""
    gone = torch.zeros(grid * grid, dtype=torch.bool)
    gone[torch.from_numpy(np.ascontiguousarray(patches))] = True
    edge = image.shape[-1] // grid
    pixels = gone.view(grid, grid).repeat_interleave(edge, dim=0).repeat_interleave(edge, dim=1)
    return torch.where(pixels, filler, image)


def _filler(image: Tensor, removed: Removed, *, patch: int) -> Tensor:
    """Return what removed patches hold, in normalised pixels, where the training mean is 0."""
    if removed == "mean":
        return torch.zeros_like(image)
    return torch.from_numpy(gaussian_filter(image.numpy(), sigma=(0, patch, patch), mode="nearest"))
