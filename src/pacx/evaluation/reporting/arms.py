"""Arms side by side: one row per method, what it scores and what it costs, in one table.

Made when three or more encoders were probed on one store, as in an ablation. An arm is an encoder, or a pool of the
encoders that one method made (`pacx pool`).

* A column is a group of tasks at one label fraction: the mean AUROC over those of its tasks that the baseline could be
  scored on, so that all arms are averaged over the same ones. An arm that lacks one of them has no value there.
* Differences to the baseline are paired, like everywhere in the report.
* What distillation says of itself (size, speed, retrieval) is the mean over the arm's runs; their spread is beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from pacx.evaluation.reporting.collect import Record, Run, of_command
from pacx.evaluation.reporting.encoders import describe_encoders
from pacx.evaluation.reporting.lineage import distillations_behind
from pacx.evaluation.reporting.probes import StoreProbes, headline_labels
from pacx.evaluation.reporting.ways import is_fine_tuning
from pacx.statistics import holm

__all__ = ["ENOUGH", "arms_part"]

ENOUGH = 3
"""encoders on one store from which on a table is worth its place"""
_SIZES = ("trainable_parameters", "trainable_encoder_parameters", "images_per_second")


def arms_part(
    stores: Sequence[StoreProbes], parts: Sequence[Record], *, runs: Sequence[Run], baseline: str | None
) -> list[Record]:
    """Describe the arms, one entry per store with enough of them.

    Args:
        stores: the probes.
        parts: what `probe_part` says of each store; encoders that it could not compare are not compared here either.
        runs: all runs; those of distillation say what an arm cost.
        baseline: label of the encoder that the others are compared with.

    Returns:
        Entries of store, baseline (None if it was not probed there), columns (group, fraction, tasks), teachers, and
        arms: encoder, fine_tuned (else probed), pooled, num_runs, num_folds, scores (one for each column, or None:
        value, low, high, sd_over_runs, difference), training (None without a distillation run: runs, sizes, retrieval
        by teacher).
    """
    distilled = of_command(runs, "distill")
    return [
        _describe(probes, {row["encoder"] for row in part["group_differences"]}, distilled, baseline)
        for probes, part in zip(stores, parts, strict=True)
        if len(probes.tables) >= ENOUGH
    ]


def _describe(probes: StoreProbes, comparable: set[str], distilled: Sequence[Run], baseline: str | None) -> Record:
    reference = baseline if baseline in probes.tables else None
    labels = [one["label"] for one in describe_encoders(probes.tables)]
    columns = _columns(probes, reference or labels[0])
    arms = [
        {
            "encoder": label,
            **_design(probes.runs[label][0]),
            "scores": [_score(probes, label, column, reference if label in comparable else None) for column in columns],
            "training": _training(probes.runs[label], distilled),
        }
        for label in labels
    ]
    for arm in arms:
        _adjust(arm["scores"])
    teachers = dict.fromkeys(name for arm in arms if arm["training"] for name in arm["training"]["retrieval"])
    named = [{**column, "tasks": list(column["tasks"])} for column in columns]
    return {"store": probes.store, "baseline": reference, "columns": named, "teachers": list(teachers), "arms": arms}


def _columns(probes: StoreProbes, reference: str) -> list[Record]:
    """List groups and fractions, with the tasks that the reference is defined for and the label of each."""
    headline = headline_labels(probes.scores)
    columns: dict[tuple[str, float], dict[str, str]] = {}
    for row in probes.scores:
        if row["encoder"] == reference and row["label"] == headline[row["task"]] and _is_known(row["value"]):
            columns.setdefault((row["group"], row["fraction"]), {})[row["task"]] = row["label"]
    return [{"group": group, "fraction": fraction, "tasks": tasks} for (group, fraction), tasks in columns.items()]


def _score(probes: StoreProbes, label: str, column: Record, baseline: str | None) -> Record | None:
    known = {
        (row["task"], row["label"], row["fraction"])
        for row in probes.scores
        if row["encoder"] == label and _is_known(row["value"])
    }
    tasks, fraction = column["tasks"], column["fraction"]
    if not all((task, stands, fraction) in known for task, stands in tasks.items()):
        return None
    found = probes.group_scores.score(label, tasks, fraction=fraction, among=[baseline or label])
    if baseline is None:
        return {**found, "difference": None}
    compared = probes.group_scores.difference(label, baseline, tasks, fraction=fraction)
    return {**found, "difference": {key: compared[key] for key in ("difference", "low", "high", "p_value")}}


def _adjust(scores: Iterable[Record | None]) -> None:
    """Add p-values adjusted (Holm) over the columns of one arm to its differences."""
    different = [score["difference"] for score in scores if score and score["difference"]]
    for one, adjusted in zip(different, holm([one["p_value"] for one in different]), strict=True):
        one["p_holm"] = float(adjusted)


def _is_known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _design(run: Run) -> Record:
    """Say what runs stand behind an arm, and how many: a probe is one."""
    protocol = run.results.get("protocol") or {}
    return {
        "fine_tuned": is_fine_tuning(protocol),
        "pooled": protocol.get("pooled"),
        "num_runs": protocol.get("num_runs", 1),
        "num_folds": protocol.get("num_folds", 1),
    }


def _training(probes: Iterable[Run], distilled: Sequence[Run]) -> Record | None:
    """Average what the distillation runs behind an arm say of themselves."""
    behind = {made.name: made for run in probes for made in distillations_behind(run, distilled)}
    if not behind:
        return None
    results = [run.results for run in behind.values()]
    teachers = dict.fromkeys(name for one in results for name in one.get("teachers", {}))
    return {
        "runs": list(behind),
        "shuffled_teachers": any(one.get("shuffled_teachers") for one in results),
        **{key: _mean(one.get(key) for one in results) for key in _SIZES},
        "retrieval": {name: _retrieval([one["teachers"].get(name) or {} for one in results]) for name in teachers},
    }


def _retrieval(found: Sequence[Record]) -> Record:
    """R@10 from image to teacher: mean and spread over runs, and for one run its interval."""
    ways = [one.get("image_to_teacher") or {} for one in found]
    tens = [way.get("r10") or {} for way in ways]
    values = [ten["value"] for ten in tens if _is_known(ten.get("value"))]
    chance = [(way.get("chance") or one.get("chance") or {}).get("r10") for one, way in zip(found, ways, strict=True)]
    alone = tens[0] if len(tens) == 1 else {}
    return {
        "value": _mean(values),
        "low": alone.get("low"),
        "high": alone.get("high"),
        "sd_over_runs": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "chance": _mean(chance),
    }


def _mean(values: Iterable[object]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(known) / len(known) if known else None
