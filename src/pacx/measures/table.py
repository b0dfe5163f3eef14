"""Everything that is measured of predictions, with patient-level intervals, in one long table.

* **Per output, per label, per task.** A class of a multiclass label is judged one against the rest; the label by the
  mean over its classes (output `macro`) and by accuracy and F1 of the class with the highest score; a task with several
  labels by the mean over all their outputs (label `macro`). Means are over the columns in which a measure is defined:
  a column of one class is NaN and left out, never .5.
* **Thresholds come from the validation rows**, one for each seed, never from the rows that are judged; `rule` says
  which (`pacx.measures.columns.RULES`). `half` is the published way, `test_roc` the usual optimistic one.
* **Seeds and runs are averaged draw by draw**, as in `pacx.scoring`. All outputs of a task share their
  draws, so an interval may differ from that of `summary` in the last digit where patients have unknown labels.
* **DeLong's interval** stands beside the bootstrap's where every patient has one image (rule `delong`).
* **Subgroups** by sex, age and view are measured at the largest label fraction, with the thresholds of the whole; a
  group with fewer than ten positives or negatives is NaN and says so. Means over outputs are, in all groups of a kind,
  over the outputs that each of them can be measured by: else a group might differ by its outputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from pacx.measures.columns import (
    KEYS,
    Array,
    Cuts,
    Key,
    choose_cuts,
    measure_classes,
    measure_column,
    with_the_data,
)
from pacx.measures.subgroups import FEWEST, Subgroup, subgroups
from pacx.scoring import FOLD, MACRO, QuestionScores, arrange
from pacx.statistics import Resamples, delong_interval, interval_of, mean_of_defined, one_row_each, resample_patients

__all__ = ["COLUMNS", "measure"]

COLUMNS = (
    "task", "label", "output", "fraction", "subgroup_kind", "subgroup", "metric", "rule", "value", "low", "high",
    "threshold", "num", "positives", "num_patients", "num_seeds", "note",
)  # fmt: skip
_OF_SUBGROUPS = {
    ("auroc", ""), ("average_precision", ""), ("brier", ""), ("calibration_error", ""), ("f1", "val_f1"),
    ("sensitivity", "val_f1"), ("specificity", "val_f1"), ("sensitivity", "val_specificity"),
    ("specificity", "val_specificity"),
}  # fmt: skip


class _Measured(NamedTuple):
    """All columns of a task at one fraction, on all test rows or on some."""

    scores: QuestionScores
    group: Subgroup
    """which rows were measured"""
    resamples: Resamples
    """over these rows; the data themselves first"""
    found: dict[Key, Array]
    """by metric and rule (S, K, 1 + draws)"""
    cuts: list[list[Cuts]]
    """by seed and column"""
    shared: NDArray[np.bool_]
    """(K,) the columns that means are over"""


def measure(
    predictions: pd.DataFrame,
    val_predictions: pd.DataFrame | None,
    manifest: pd.DataFrame,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    specificity: float = 0.9,
) -> pd.DataFrame:
    """Measure all predictions.

    Args:
        predictions: scores of the test images, as `pacx.scoring` describes them.
        val_predictions: the same of the validation images; without them there are no thresholds but .5.
        manifest: image_id, and of sex, age and view what there is.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the intervals.
        specificity: at which the sensitivity is measured.

    Returns:
        One row per task, label, output, fraction, subgroup and measure, with the columns `COLUMNS`. subgroup_kind and
        subgroup are empty for all test images. threshold is a probability, the mean over the seeds. num counts the
        images with a known label, positives those of the (rarest) output. note says why a value is NaN.

    Raises:
        PacxError: a label that is not 0 or 1, a NaN score, a specificity outside [0, 1].
    """
    tables = []
    largest = dict(predictions.groupby("task", observed=True)["fraction"].max())
    for (task, share), own in predictions.groupby(["task", "fraction"], observed=True, sort=False):
        fraction = cast("float", share)
        scores = arrange(own)
        resamples = with_the_data(resample_patients(scores.patient, draws=draws, seed=seed))
        cuts = _cuts(scores, _validation(val_predictions, str(task), fraction), specificity=specificity)
        everyone = Subgroup("", "", np.ones(len(scores.image_id), dtype=bool))
        groups = subgroups(manifest, scores.image_id) if fraction == largest[task] else ()
        shared = _shared_outputs(scores, groups)
        for group in (everyone, *groups):
            measured = _measure(scores, group, resamples, cuts, shared[group.kind], specificity=specificity)
            table = pd.DataFrame(_rows(measured, level=level))
            tables.append(table.assign(task=str(task), fraction=fraction))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)] if tables else pd.DataFrame(columns=list(COLUMNS))


def _shared_outputs(scores: QuestionScores, groups: Sequence[Subgroup]) -> dict[str, NDArray[np.bool_]]:
    """Return by kind of group the columns that each of its groups can be measured by; who has none is not asked."""
    shared = {"": np.ones(len(scores.outputs), dtype=bool)}
    for group in groups:
        measurable = _rarer(scores.target[group.rows]) >= FEWEST
        before = shared.get(group.kind, shared[""])
        shared[group.kind] = before & measurable if measurable.any() else before
    return shared


def _rarer(target: Array) -> NDArray[np.int64]:
    """Count the positives or negatives of each column, whichever are fewer."""
    return np.asarray(np.minimum((target == 1).sum(axis=0), (target == 0).sum(axis=0)))


def _validation(table: pd.DataFrame | None, task: str, fraction: float) -> QuestionScores | None:
    if table is None:
        return None
    own = table[(table["task"] == task) & (table["fraction"] == fraction)]
    return None if own.empty else arrange(own)


def _cuts(scores: QuestionScores, val: QuestionScores | None, *, specificity: float) -> list[list[Cuts]]:
    """Choose thresholds for every seed and column."""
    columns = list(zip(scores.labels, scores.outputs, strict=True))
    seeds = list(zip(scores.runs, scores.seeds, strict=True))
    known = {} if val is None else {key: place for place, key in enumerate(zip(val.runs, val.seeds, strict=True))}
    places = {} if val is None else {key: place for place, key in enumerate(zip(val.labels, val.outputs, strict=True))}

    def choose(seed: tuple[int, int], column: tuple[str, str]) -> Cuts:
        if val is None or seed not in known or column not in places:
            return Cuts(0.0, np.nan, np.nan)
        target, score = val.target[:, places[column]], val.score[known[seed], :, places[column]]
        return choose_cuts(target, score, specificity=specificity)

    return [[choose(seed, column) for column in columns] for seed in seeds]


def _measure(
    scores: QuestionScores,
    group: Subgroup,
    resamples: Resamples,
    cuts: list[list[Cuts]],
    shared: NDArray[np.bool_],
    *,
    specificity: float,
) -> _Measured:
    drawn, target = resamples.of(group.rows), scores.target[group.rows]
    shape = (len(scores.seeds), target.shape[1], len(resamples.weights))
    keys = [key for key in KEYS if key in _OF_SUBGROUPS] if group.kind else KEYS
    found = {key: np.full(shape, np.nan) for key in keys}
    smaller = _rarer(target)
    for number, of_seed in enumerate(scores.score[:, group.rows]):
        for column in np.flatnonzero(smaller >= (FEWEST if group.kind else 1)):
            predicted = np.isfinite(of_seed[:, column])
            if predicted.any():  # else this seed could not learn this output
                known = np.where(predicted, target[:, column], np.nan)
                values = measure_column(known, of_seed[:, column], drawn, cuts[number][column], specificity=specificity)
                for key in keys:
                    found[key][number, column] = values[key]
    return _Measured(scores, group, drawn, found, cuts, shared)


def _rows(measured: _Measured, *, level: float) -> Iterator[dict[str, Any]]:
    """Outputs one by one, then labels of several outputs, then the task."""
    scores = measured.scores
    for column, (label, output) in enumerate(zip(scores.labels, scores.outputs, strict=True)):
        yield from _means(measured, label, output, [column], level=level)
        if not measured.group.kind and one_row_each(scores.patient[np.isfinite(scores.target[:, column])]):
            yield _delong(measured, label, output, column, level=level)
    labels = list(dict.fromkeys(scores.labels))
    for label in labels:
        columns = [place for place, own in enumerate(scores.labels) if own == label]
        if len(columns) > 1:
            yield from _means(measured, label, MACRO, columns, level=level)
            if not measured.group.kind:
                yield from _classes(measured, label, columns, level=level)
    if len(labels) > 1:
        yield from _means(measured, MACRO, MACRO, list(range(len(scores.outputs))), level=level)


def _means(
    measured: _Measured, label: str, output: str, columns: list[int], *, level: float
) -> Iterator[dict[str, Any]]:
    """Average each measure over columns and seeds."""
    kept = [column for column in columns if measured.shared[column]] if len(columns) > 1 else columns
    left_out = f"mean over {len(kept)} of {len(columns)}: the others are too rare in a group"
    for (metric, rule), values in measured.found.items():
        mean = mean_of_defined(mean_of_defined(values[:, kept].swapaxes(0, 1)))
        yield {
            **_facts(measured, label, output, columns),
            "metric": metric,
            "rule": rule,
            **interval_of(float(mean[0]), mean[1:], level=level)._asdict(),
            "threshold": _threshold(measured, rule, columns),
            "note": _why(measured, rule, columns)
            if np.isnan(mean[0])
            else left_out
            if len(kept) < len(columns)
            else "",
        }


def _classes(measured: _Measured, label: str, columns: list[int], *, level: float) -> Iterator[dict[str, Any]]:
    """Measure which class has the highest score; classes of each fold of a cross-validation by themselves."""
    scores = measured.scores
    folds: dict[str, list[int]] = {}
    for column in columns:
        folds.setdefault(scores.outputs[column].partition(FOLD)[2], []).append(column)
    exclusive = all(len(own) > 1 and np.nansum(scores.target[:, own], axis=1).max() <= 1 for own in folds.values())
    if not exclusive:
        return
    of_folds: dict[Key, list[Array]] = {}
    for own in folds.values():
        for score in scores.score:
            for key, values in measure_classes(scores.target[:, own], score[:, own], measured.resamples).items():
                of_folds.setdefault(key, []).append(values)
    for (metric, rule), drawn in of_folds.items():
        mean = mean_of_defined(np.stack(drawn))
        yield {
            **_facts(measured, label, MACRO, columns),
            "metric": metric,
            "rule": rule,
            **interval_of(float(mean[0]), mean[1:], level=level)._asdict(),
            "threshold": np.nan,
            "note": "" if np.isfinite(mean[0]) else _why(measured, rule, columns),
        }


def _delong(measured: _Measured, label: str, output: str, column: int, *, level: float) -> dict[str, Any]:
    scores = measured.scores
    predicted = np.isfinite(scores.score[:, :, column]).any(axis=1)
    known = np.isfinite(scores.target[:, column])
    interval = delong_interval(scores.target[known, column], scores.score[predicted][:, known, column].T, level=level)
    return {
        **_facts(measured, label, output, [column]),
        "metric": "auroc",
        "rule": "delong",
        **interval._asdict(),
        "threshold": np.nan,
        "note": "" if np.isfinite(interval.low) else _why(measured, "delong", [column]),
    }


def _facts(measured: _Measured, label: str, output: str, columns: list[int]) -> dict[str, Any]:
    scores, group = measured.scores, measured.group
    target = scores.target[group.rows][:, columns]
    known = np.isfinite(target).any(axis=1)
    predicted = np.isfinite(scores.score[:, group.rows][:, :, columns])
    return {
        "label": label,
        "output": output,
        "subgroup_kind": group.kind,
        "subgroup": group.name,
        "num": int(known.sum()),
        "positives": int(np.nansum(target, axis=0).min()),
        "num_patients": len(set(scores.patient[group.rows][known])),
        "num_seeds": len({seed for seed, score in zip(scores.seeds, predicted, strict=True) if score.any()}),
    }


def _threshold(measured: _Measured, rule: str, columns: list[int]) -> float:
    """Average thresholds over seeds, as a probability; several columns have none in common."""
    if rule not in Cuts._fields or len(columns) > 1:
        return 0.5 if rule == "half" else np.nan
    return float(mean_of_defined(np.array([expit(getattr(of_seed[columns[0]], rule)) for of_seed in measured.cuts])))


def _why(measured: _Measured, rule: str, columns: list[int]) -> str:
    """Say why a measure is undefined."""
    if measured.group.kind:
        return f"fewer than {FEWEST} positives or negatives"
    target = measured.scores.target[:, columns]
    if not ((target == 1).any(axis=0) & (target == 0).any(axis=0)).any():
        return "one class in the test split"
    if rule.startswith("val_"):
        return "no validation scores of both classes"
    return "every positive outranks every negative, or too few of either" if rule == "delong" else "not learnt"
