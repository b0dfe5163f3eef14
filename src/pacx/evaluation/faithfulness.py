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
* Images that have the finding, by their label: there is something to lose. Areas by the trapezoid rule, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from pacx.data.store import Store
from pacx.evaluation.class_head import ClassHead
from pacx.evaluation.rollout import ReadToken, read_token
from pacx.frozen.features import preprocessed
from pacx.models.encoder import Encoder
from pacx.statistics import Difference, bootstrap_mean, paired_mean_difference

__all__ = [
    "ORDERS",
    "Judge",
    "Removed",
    "areas",
    "compare_faithfulness",
    "deletion_curves",
    "removal_orders",
    "summarise_curves",
    "without_patches",
]

Removed = Literal["blur", "mean"]
"""What a removed patch holds: a blurred copy of the image, or the training images' mean pixel."""

ORDERS = ("attention", "random", "reverse")


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
    """Return the patches, numbered in reading order, in the orders of `ORDERS`, the first to go first.

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


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Return each image's areas: image_id, patient_id, deletion and insertion (by the map), random.

    Args:
        curves: of `deletion_curves`.
    """
    found = []
    for (image_id, patient_id), image in curves.groupby(["image_id", "patient_id"], sort=False):
        of = {
            str(order): float(trapezoid(curve["probability"], curve["fraction"]))
            for order, curve in image.groupby("order")
        }
        found.append((image_id, patient_id, of["attention"], of["reverse"], of["random"]))
    return pd.DataFrame.from_records(found, columns=["image_id", "patient_id", "deletion", "insertion", "random"])


def summarise_curves(curves: pd.DataFrame, *, draws: int = 1000) -> dict[str, Any]:
    """Average curves and areas over images, with patient-level intervals.

    Args:
        curves: of `deletion_curves`.
        draws: bootstrap draws.

    Returns:
        num_images; deletion, insertion, random: areas (Intervals); deletion_gain (random minus deletion) and
        insertion_gain (insertion minus random): Differences, positive where the map beats chance; curves: by order the
        fractions removed and the mean probability with low and high.
    """
    table = areas(curves)
    patient = table["patient_id"].to_numpy()
    lines: dict[str, dict[str, list[float]]] = {}
    for _, part in curves.groupby(["order", "fraction"]):
        order, fraction = part["order"].iloc[0], part["fraction"].iloc[0]
        point = bootstrap_mean(part["probability"], part["patient_id"], draws=draws)
        line = lines.setdefault(str(order), {"fraction": [], "value": [], "low": [], "high": []})
        for key, number in (("fraction", float(fraction)), *point._asdict().items()):
            line[key].append(number)
    return {
        "num_images": len(table),
        **{name: bootstrap_mean(table[name], patient, draws=draws) for name in ("deletion", "insertion", "random")},
        "deletion_gain": paired_mean_difference(table["random"], table["deletion"], patient, draws=draws),
        "insertion_gain": paired_mean_difference(table["insertion"], table["random"], patient, draws=draws),
        "curves": {order: lines[order] for order in ORDERS},
    }


def compare_faithfulness(
    curves_a: pd.DataFrame | Path, curves_b: pd.DataFrame | Path, *, draws: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """Compare two encoders, each with its own head, image by image.

    Args:
        curves_a: `curves.parquet` of an explain run, or its content.
        curves_b: the same of another encoder, on the same images.
        draws: bootstrap draws.
        seed: seed of the draws.

    Returns:
        a minus b: deletion and insertion (areas), and deletion_gain and insertion_gain, which are over the random order
        of each encoder itself and so do not depend on how sure its head is.
    """
    sides = [areas(part if isinstance(part, pd.DataFrame) else pd.read_parquet(part)) for part in (curves_a, curves_b)]
    both = sides[0].merge(sides[1], on=["image_id", "patient_id"], suffixes=("_a", "_b"))
    values: Mapping[str, tuple[pd.Series, pd.Series]] = {
        "deletion": (both["deletion_a"], both["deletion_b"]),
        "insertion": (both["insertion_a"], both["insertion_b"]),
        "deletion_gain": (both["random_a"] - both["deletion_a"], both["random_b"] - both["deletion_b"]),
        "insertion_gain": (both["insertion_a"] - both["random_a"], both["insertion_b"] - both["random_b"]),
    }
    patient = both["patient_id"].to_numpy()
    return {name: paired_mean_difference(a, b, patient, draws=draws, seed=seed) for name, (a, b) in values.items()}


def _filler(image: Tensor, removed: Removed, *, patch: int) -> Tensor:
    """Return what removed patches hold, in normalised pixels, where the training mean is 0."""
    if removed == "mean":
        return torch.zeros_like(image)
    return torch.from_numpy(gaussian_filter(image.numpy(), sigma=(0, patch, patch), mode="nearest"))
