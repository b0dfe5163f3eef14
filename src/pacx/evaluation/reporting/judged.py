"""Alignment, attention and segmentation of several encoders side by side, with paired differences to a baseline.

A pool (`pacx pool`) counts as one encoder, and the runs that it joins are not shown beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_attention
from pacx.evaluation.curve_areas import compare_faithfulness
from pacx.evaluation.reporting.collect import Record, Run, judged_by
from pacx.evaluation.reporting.encoders import describe_encoders, encoder_label, same_store, store_name
from pacx.statistics import paired_mean_difference

__all__ = ["alignment_part", "attention_part", "segmentation_part"]

log = logging.getLogger("pacx")
_Compare = Callable[[pd.DataFrame, pd.DataFrame], list[Record]]


def alignment_part(runs: Sequence[Run], *, baseline: str | None) -> list[Record]:
    """Describe all `align` runs, one entry per store: encoders with their teachers' numbers, differences."""
    return [
        _side_by_side(own, _alignment_entry, table="alignment", compare=_compare_alignment, baseline=baseline)
        for own in same_store(judged_by(runs, "align"))
    ]


def attention_part(runs: Sequence[Run], *, baseline: str | None) -> list[Record]:
    """Describe all `explain` runs, one entry per store: encoders with mass and area by region, differences.

    `faithfulness` of an encoder holds the areas of its deletion curves, `faithfulness_differences` those to the
    baseline; each encoder is judged by its own head.
    """
    parts = []
    for own in same_store(judged_by(runs, "explain")):
        part = _side_by_side(own, _attention_entry, table="mass", compare=_compare_attention, baseline=baseline)
        curves = _side_by_side(own, _attention_entry, table="curves", compare=_compare_curves, baseline=baseline)
        parts.append({**part, "faithfulness_differences": curves["differences"]})
    return parts


def segmentation_part(runs: Sequence[Run], *, baseline: str | None) -> list[Record]:
    """Describe all `segment` runs, one entry per store and mask: encoders with Dice and IoU, differences."""
    parts = []
    for on_store in same_store(judged_by(runs, "segment")):
        masks = list(dict.fromkeys(str(run.results.get("mask", "mask")) for run in on_store))
        for mask in masks:
            own = [run for run in on_store if str(run.results.get("mask", "mask")) == mask]
            part = _side_by_side(
                own, _segmentation_entry, table="scores", compare=_compare_segmentation, baseline=baseline
            )
            parts.append({**part, "mask": mask})
    return parts


def _side_by_side(
    runs: list[Run], entry: Callable[[Run], Record], *, table: str, compare: _Compare, baseline: str | None
) -> Record:
    labels = _labels(runs)
    part: Record = {
        "store": store_name(runs[0]),
        "encoders": [{"encoder": label, "run": run.name, **entry(run)} for label, run in labels.items()],
        "differences": [],
        "notes": [],
    }
    if baseline not in labels:
        return part
    tables = {label: _table(run, table) for label, run in labels.items()}
    reference = tables[baseline]
    for label, own in tables.items():
        if label == baseline or own is None or reference is None:
            continue
        try:
            rows = compare(own, reference)
        except PacxError as error:
            part["notes"].append(f"{label} could not be compared with {baseline}: {error}")
            log.warning("report: %s could not be compared with %s: %s", label, baseline, error)
            continue
        part["differences"] += [{"encoder": label, "baseline": baseline, **row} for row in rows]
    return part


def _labels(runs: Sequence[Run]) -> dict[str, Run]:
    labels: dict[str, Run] = {}
    for run in runs:
        label = encoder_label(run)
        if run.results.get("shuffled_teachers"):
            label = f"{label} (shuffled teachers)"
        labels[f"{label} ({run.name})" if label in labels else label] = run
    return {one["label"]: labels[one["label"]] for one in describe_encoders(labels)}


def _table(run: Run, name: str) -> pd.DataFrame | None:
    path = run.artefact(name, f"{name}.parquet")
    return None if path is None else pd.read_parquet(path)


def _alignment_entry(run: Run) -> Record:
    return {"teachers": run.results.get("teachers", {}), "protocol": run.results.get("protocol")}


def _attention_entry(run: Run) -> Record:
    found = run.results.get("faithfulness")
    return {
        **{key: run.results.get(key) for key in ("mass", "area", "excess", "num_images", "method", "head", "split")},
        "faithfulness": {key: item for key, item in found.items() if key != "curves"} if found else None,
    }


def _segmentation_entry(run: Run) -> Record:
    scores = ("dice", "iou", "surface_distance", "hausdorff_95", "published")
    facts = ("num_train", "num_test", "num_test_patients", "split")
    return {key: run.results.get(key) for key in (*scores, *facts)}


def _compare_alignment(table: pd.DataFrame, reference: pd.DataFrame) -> list[Record]:
    keys = ["teacher", "image_id", "patient_id"]
    both = table.merge(reference, on=keys, suffixes=("_a", "_b"))
    return [
        {"teacher": str(teacher), **_paired(rows, metric)}
        for teacher, rows in both.groupby("teacher", sort=False)
        for metric in ("cosine_centred", "r1", "r5", "r10")
        if f"{metric}_a" in rows
    ]


def _compare_attention(table: pd.DataFrame, reference: pd.DataFrame) -> list[Record]:
    if table.empty or reference.empty:
        return []
    return [
        {str(key): item for key, item in row.items()} for row in compare_attention(table, reference).to_dict("records")
    ]


def _compare_curves(table: pd.DataFrame, reference: pd.DataFrame) -> list[Record]:
    return [
        {"metric": metric, "difference": one.value, "low": one.low, "high": one.high, "p_value": one.p_value}
        for metric, one in compare_faithfulness(table, reference).items()
    ]


def _compare_segmentation(table: pd.DataFrame, reference: pd.DataFrame) -> list[Record]:
    both = table.merge(reference, on=["image_id", "patient_id"], suffixes=("_a", "_b"))
    if both.empty:
        raise PacxError("The two runs share no scored image. Segment both encoders on the same store.")
    return [_paired(both, metric) for metric in ("dice", "iou")]


def _paired(both: pd.DataFrame, metric: str) -> Record:
    """Compare what is defined on both sides, with the means of the same images."""
    defined = both[both[f"{metric}_a"].notna() & both[f"{metric}_b"].notna()]
    a, b = defined[f"{metric}_a"], defined[f"{metric}_b"]
    difference = paired_mean_difference(a, b, defined["patient_id"].astype(str))
    found: dict[str, Any] = {
        "metric": metric,
        "value_a": float(a.mean()),
        "value_b": float(b.mean()),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
        "num_images": len(defined),
    }
    return found
