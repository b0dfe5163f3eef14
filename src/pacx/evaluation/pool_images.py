"""Pools of what was judged image by image: alignment, segmentation, attention.

An image's value is its mean over the runs that judged it (training seeds), so the interval over patients is that of the
method's mean; over folds the images are simply joined. What is no mean of images (R2, scores pooled by batch) is
averaged over the runs, without an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pacx.evaluation.curve_areas import summarise_curves
from pacx.evaluation.members import CURVES, Member
from pacx.evaluation.regions import summarise_mass
from pacx.statistics import bootstrap_mean

__all__ = ["TABLES", "pool_alignment", "pool_attention", "pool_segmentation"]

TABLES = {"align": "alignment", "segment": "scores", "explain": "mass"}
"""command -> the table that it leaves: a row per image, and per teacher or region"""

_OVERLAPS = ("dice", "iou", "surface_distance", "hausdorff_95")


def pool_alignment(members: Sequence[Member], draws: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Pool read-outs of teachers: results as of `pacx align`, and the table of images.

    Each fold has a gallery of its own: retrieval looks an image up among the test images of its fold. `chance` is the
    mean of the runs', weighted by their images as the scores are; `n` counts the images that were looked up, not a
    gallery.
    """
    table = _mean(members, ["teacher", "image_id", "patient_id"])
    teachers = {}
    for name in dict.fromkeys(table["teacher"]):
        own = table[table["teacher"] == name]
        single = [member.results["teachers"][name] for member in members]
        found = {key: bootstrap_mean(own[key], own["patient_id"], draws=draws) for key in ("cosine", "cosine_centred")}
        hits = {f"r{k}": bootstrap_mean(own[f"r{k}"], own["patient_id"], draws=draws) for k in (1, 5, 10)}
        teachers[name] = {
            **{key: _average(one.get(key) for one in single) for key in _MEANS},
            **found,
            "sd_over_runs": _spread(one["cosine_centred"]["value"] for one in single),
            "retrieval": {"image_to_teacher": {**hits, "chance": _chance(members, name), "n": len(own)}},
            "n_test": len(own),
            "shuffled": {"cosine_centred": _plain(one["shuffled"]["cosine_centred"]["value"] for one in single)},
        }
    shuffled = any(member.results.get("shuffled_teachers") for member in members)
    return {"shuffled_teachers": shuffled, "teachers": teachers}, {"alignment": table}


def _chance(members: Sequence[Member], teacher: str) -> dict[str, float]:
    """Average the runs' chance levels over the images that each looked up; depths that a run does not know are out."""
    ways = [member.results["teachers"][teacher]["retrieval"]["image_to_teacher"] for member in members]
    weights = [int((member.predictions["teacher"] == teacher).sum()) for member in members]
    levels = [way.get("chance") or {} for way in ways]
    shared = [key for key in levels[0] if all(level.get(key) is not None for level in levels)]
    return {key: float(np.average([level[key] for level in levels], weights=weights)) for key in shared}


_MEANS = ("r2", "r2_pooled", "random_pair_cosine", "random_pair_cosine_centred")


def pool_segmentation(members: Sequence[Member], draws: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Pool predicted masks: results as of `pacx segment`, and the table of images."""
    table = _mean(members, ["image_id", "patient_id"])
    first = members[0].results
    results: dict[str, Any] = {key: first.get(key) for key in ("mask", "split", "num_train", "distance_unit")}
    for metric in _OVERLAPS:
        if metric in table:
            results[metric] = bootstrap_mean(table[metric], table["patient_id"], draws=draws)
    published = [member.results.get("published") or {} for member in members]
    return {
        **results,
        "sd_over_runs": _spread(member.results["dice"]["value"] for member in members),
        "published": {key: _average(one.get(key) for one in published) for key in ("dice", "iou")},
        "num_test": len(table),
        "num_test_patients": int(table["patient_id"].nunique()),
    }, {"scores": table}


def pool_attention(members: Sequence[Member], draws: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Pool maps: results as of `pacx explain`, the table of regions and, where heads were asked, that of curves."""
    keys = ["image_id", "patient_id", "region"]
    mass = _mean(members, keys)
    tables = {"mass": mass}
    first = members[0].results
    results = {
        **summarise_mass(mass, draws=draws),
        "num_images": _num_images(members),
        "method": first.get("method"),
        "split": first.get("split"),
        "sd_over_runs": {
            region: _spread(member.results["mass"][region]["value"] for member in members)
            for region in dict.fromkeys(mass["region"])
        },
    }
    curves = [member.folder / f"{CURVES}.parquet" for member in members]
    if all(path.is_file() for path in curves):
        tables[CURVES] = _mean_of([pd.read_parquet(path) for path in curves], [*keys[:2], "order", "fraction"])
        results["head"] = {"task": (first.get("head") or {}).get("task")}
        results["faithfulness"] = summarise_curves(tables[CURVES], draws=draws)
    return results, tables


def _num_images(members: Sequence[Member]) -> int:
    """Count the images that were explained; by what the runs say, for a store without masks leaves an empty table."""
    of_fold = {member.fold: int(member.results["num_images"]) for member in members}  # runs of a fold share its images
    return sum(of_fold.values())


def _mean(members: Sequence[Member], keys: list[str]) -> pd.DataFrame:
    return _mean_of([member.predictions for member in members], keys)


def _mean_of(tables: Sequence[pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Average the numbers of the rows that are called alike."""
    table = pd.concat(tables, ignore_index=True)
    numbers = [column for column in table.select_dtypes("number") if column not in keys]
    return table.groupby(keys, sort=False, as_index=False)[numbers].mean()


def _average(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Any) -> float:
    return float(np.std(list(values), ddof=1))


def _plain(values: Any) -> dict[str, float | None]:
    return {"value": _average(values), "low": None, "high": None}
