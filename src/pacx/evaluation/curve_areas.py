"""Deletion and insertion curves as numbers: areas by the trapezoid rule, in [0, 1], and paired differences of them.

`pacx.evaluation.faithfulness` says what the curves are and makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.integrate import trapezoid

from pacx.statistics import Difference, bootstrap_mean, paired_mean_difference

__all__ = ["ORDERS", "areas", "compare_faithfulness", "summarise_curves"]

ORDERS = ("attention", "random", "reverse")
"""in which patches are taken out: the most attended first, at random, the least attended first"""


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
