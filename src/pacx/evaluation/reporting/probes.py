"""Probes of several encoders side by side, with paired differences to a baseline.

* One entry per store. A task stands for itself by its only label, or by `macro`, the mean over its labels.
* Differences are drawn patient by patient, the same draws for both encoders (`pacx.evaluation.comparison`).
* The mean difference over a group of tasks uses one set of draws over the patients of all its tasks, so the tasks'
  errors, which share patients, are not taken for independent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_probes
from pacx.evaluation.reporting.collect import Record, Run, of_command
from pacx.evaluation.reporting.encoders import encoder_label, store_key, store_name
from pacx.evaluation.scoring import MACRO, QuestionScores, questions, score_seeds
from pacx.statistics import Resamples, difference_of, resample_patients

__all__ = ["headline_labels", "mean_difference", "probe_part"]

log = logging.getLogger("pacx")
_DRAWS = 1000


def probe_part(runs: Sequence[Run], *, baseline: str | None) -> list[Record]:
    """Describe all probes, one entry per store: scores, differences, group_differences, notes."""
    by_store: dict[str, list[Run]] = {}
    for run in of_command(runs, "probe"):
        by_store.setdefault(store_key(run), []).append(run)
    return [_describe(own, baseline=baseline) for own in by_store.values()]


def headline_labels(scores: Sequence[Record]) -> dict[str, str]:
    """Return the label by which each task is summed up."""
    labels: dict[str, list[str]] = {}
    for score in scores:
        labels.setdefault(score["task"], []).append(score["label"])
    return {task: MACRO if MACRO in own else own[0] for task, own in labels.items()}


def _describe(runs: list[Run], *, baseline: str | None) -> Record:
    scores: list[Record] = []
    predictions: dict[str, list[pd.DataFrame]] = {}
    notes: list[str] = []
    for run in runs:
        rows = _summary(run)
        label = _free_label(run, rows, scores)
        scores += [{"encoder": label, "run": run.name, **row} for row in rows]
        path = run.artefact("predictions", "predictions.parquet")
        if path is None:
            notes.append(f"{run.name} has no predictions left, so it could not be compared with the others.")
        else:
            predictions.setdefault(label, []).append(pd.read_parquet(path))
    tables = {label: pd.concat(parts, ignore_index=True) for label, parts in predictions.items()}
    part: Record = {
        "store": store_name(runs[0]),
        "protocol": runs[0].results.get("protocol", {}),
        "scores": scores,
        "differences": [],
        "group_differences": [],
        "notes": notes,
    }
    if baseline in tables:
        for label, table in tables.items():
            if label != baseline:
                _compare(part, label, baseline, table, tables[baseline])
    return part


def _compare(part: Record, label: str, baseline: str, table: pd.DataFrame, reference: pd.DataFrame) -> None:
    """Add the differences of one encoder to the baseline."""
    names = {"encoder": label, "baseline": baseline}
    groups = {score["task"]: score["group"] for score in part["scores"]}
    try:
        rows = compare_probes(table, reference, draws=_DRAWS).to_dict("records")
    except PacxError as error:
        part["notes"].append(f"{label} could not be compared with {baseline}: {error}")
        log.warning("report: %s could not be compared with %s: %s", label, baseline, error)
        return
    part["differences"] += [{**names, "group": groups.get(row["task"], ""), **row} for row in rows]
    headline = headline_labels(part["scores"])
    defined = [row for row in rows if row["label"] == headline[row["task"]] and np.isfinite(row["difference"])]
    keys: dict[tuple[str, float], list[str]] = {}
    for row in defined:
        keys.setdefault((groups.get(row["task"], ""), row["fraction"]), []).append(row["task"])
    for (group, fraction), tasks in keys.items():
        found = mean_difference(table, reference, {task: headline[task] for task in tasks}, fraction=fraction)
        part["group_differences"].append({**names, "group": group, "fraction": fraction, **found})


def mean_difference(
    table_a: pd.DataFrame, table_b: pd.DataFrame, tasks: dict[str, str], *, fraction: float, draws: int = _DRAWS
) -> Record:
    """Average a difference in AUROC over tasks, with a patient-level interval.

    Args:
        table_a: predictions of one encoder.
        table_b: predictions of another one on the same store.
        tasks: the tasks to average over, with the label that stands for each.
        fraction: share of the training labels.
        draws: number of bootstrap draws.

    Returns:
        tasks, value_a, value_b, difference (a minus b), low, high, p_value.
    """
    sides = [_questions(table, tasks, fraction) for table in (table_a, table_b)]
    patients = np.unique(np.concatenate([scores.patient for scores in sides[0].values()]).astype(str))
    weights = resample_patients(patients, draws=draws).weights
    values, drawn = np.zeros((2, len(tasks))), np.zeros((2, len(tasks), draws))
    for column, task in enumerate(tasks):
        a, b = sides[0][task], sides[1][task]
        shared = sorted(set(a.seeds) & set(b.seeds))
        for side, scores in enumerate((a, b)):
            codes = np.searchsorted(patients, scores.patient.astype(str)).astype(np.int64)
            chosen = scores._replace(score=scores.score[[scores.seeds.index(seed) for seed in shared]])
            found = score_seeds(chosen, Resamples(codes, weights))
            values[side, column], drawn[side, column] = found.value.mean(), found.draws.mean(axis=0)
    difference = difference_of(values[0].mean() - values[1].mean(), (drawn[0] - drawn[1]).mean(axis=0))
    return {
        "tasks": list(tasks),
        "value_a": float(values[0].mean()),
        "value_b": float(values[1].mean()),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
    }


def _questions(table: pd.DataFrame, tasks: dict[str, str], fraction: float) -> dict[str, QuestionScores]:
    wanted = table[table["task"].isin(list(tasks)) & (table["fraction"] == fraction)]
    return {task: scores for (task, label, _), scores in questions(wanted) if label == tasks[task]}


def _summary(run: Run) -> list[Record]:
    """The mean over seeds of each question; runs without it give their first seed."""
    rows = run.results.get("summary")
    if rows is None:
        scores = run.results.get("scores", [])
        first = min((row["seed"] for row in scores), default=0)
        rows = [row for row in scores if row["seed"] == first]
    return [{"notes": [], "group": "", **row} for row in rows]


def _free_label(run: Run, rows: Sequence[Record], taken: Sequence[Record]) -> str:
    """The encoder's label, with the run's folder added if another run answers one of the same questions under it."""
    label = encoder_label(run)
    questions_of = {(row["task"], row["label"], row["fraction"]) for row in rows}
    clash = any(
        score["encoder"] == label and (score["task"], score["label"], score["fraction"]) in questions_of
        for score in taken
    )
    return f"{label} ({run.name})" if clash else label
