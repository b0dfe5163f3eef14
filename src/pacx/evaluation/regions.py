"""The share of an encoder's attention inside the heart, the lungs, and outside of every mask.

* Beside the share of attention (`mass`) stands the share of the image (`area`), which is what an encoder without
  preference scores, and the difference of the two (`excess`).
* A mask is averaged over each patch, so patches on its border count in part.
* Regions are the store's masks. `outside` is what none of them covers: outside the body, in a store with a mask of the
  body as the simulator draws it, and otherwise outside of heart and lungs, which is a good part of the body too. No
  body is guessed from pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.preprocess import fit_square
from pacx.statistics import bootstrap_mean, paired_mean_difference

__all__ = ["OUTSIDE", "mass_table", "patch_coverage", "summarise_mass"]

OUTSIDE = "outside"
"""Region outside of every mask."""


def mass_table(maps: NDArray[np.float64], store: Store, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Measure attention inside the masks of a store.

    Args:
        maps: (n, grid, grid) attention per patch, each map with sum 1.
        store: holds the masks; without any the table is empty.
        rows: (n,) store rows.

    Returns:
        One row per image and region: image_id, patient_id, region, mass (share of attention), area (share of the
        image).
    """
    columns = ["image_id", "patient_id", "region", "mass", "area"]
    if not store.mask_names:
        return pd.DataFrame(columns=columns)
    ids = store.manifest.iloc[rows][["image_id", "patient_id"]].astype(str).to_numpy()
    records = []
    for row, (image_id, patient_id), attention in zip(rows, ids, maps, strict=True):
        masks = {name: store.mask(name, np.array([row]))[0] for name in store.mask_names}
        masks[OUTSIDE] = ~np.logical_or.reduce(list(masks.values()))
        for region, mask in masks.items():
            coverage = patch_coverage(mask, len(attention))
            records.append((image_id, patient_id, region, float(np.sum(attention * coverage)), float(coverage.mean())))
    return pd.DataFrame.from_records(records, columns=columns)


def summarise_mass(table: pd.DataFrame, *, draws: int) -> dict[str, Any]:
    """Average a `mass_table` over images, with patient-level intervals: mass, area and excess by region."""
    results: dict[str, Any] = {"mass": {}, "area": {}, "excess": {}}
    for region, images in table.groupby("region", sort=False):
        patient = images["patient_id"].to_numpy()
        results["mass"][region] = bootstrap_mean(images["mass"], patient, draws=draws)
        results["area"][region] = float(images["area"].mean())
        results["excess"][region] = paired_mean_difference(images["mass"], images["area"], patient, draws=draws)
    return results


def patch_coverage(mask: NDArray[np.bool_], grid: int) -> NDArray[np.float64]:
    """Return which share of each patch a mask covers.

    Args:
        mask: (S, S). If S is not a multiple of `grid`, the mask is first resized to the next multiple.
        grid: patches along an edge.

    Returns:
        (grid, grid), values in [0, 1].
    """
    size = len(mask)
    pixels = mask.astype(np.float32)
    if size % grid:
        size = -(-size // grid) * grid
        pixels = fit_square(pixels, size)
    edge = size // grid
    return np.asarray(pixels.reshape(grid, edge, grid, edge).mean(axis=(1, 3)), dtype=np.float64)
