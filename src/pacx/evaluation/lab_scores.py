"""From predicted to known laboratory values: rank correlation and skill, with patient-level intervals.

`predictions.parquet` of a physiology run holds one row per test image and lab with a known value:

    image_id, patient_id, lab
    value       the laboratory value, raw
    truth       its percentile among the training values of this store, [0, 1]
    score       what the read-out says, in any unit: only its ranks are used
    predicted   the same as a percentile, [0, 1], calibrated without test rows
    baseline    the mean percentile of the training rows
    read_out    ridge or heads
    fold, run   where several runs are pooled: of which fold of a cross-validation, which training seed

* **Spearman**: how well `score` orders the patients by `value`. 0 = not at all, whatever the scale.
* **Skill** = 1 - mean((truth - predicted)^2) / mean((truth - baseline)^2). 0 is what the training mean scores, below 0
  is worse than that.
* **Pools.** Ranks are compared within each run, since every run has a read-out of its own, and the correlations are
  averaged with the number of rows as weights; patients are drawn over all folds. Squared errors are simply pooled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.errors import PacxError
from pacx.statistics import (
    Resamples,
    difference_of,
    interval_of,
    mean_draws,
    resample_patients,
    spearman_draws,
)

__all__ = ["COLUMNS", "ENOUGH", "ENOUGH_PATIENTS", "METRICS", "compare_physiology", "summarise_physiology"]

ENOUGH, ENOUGH_PATIENTS = 30, 10
"""test values, and patients, from which on a lab counts in the share of labs above 0; those with fewer are marked"""
COLUMNS = ("image_id", "patient_id", "lab", "value", "truth", "score", "predicted", "baseline", "read_out")
METRICS = ("spearman", "skill")

_POOLED_BY = ("fold", "run")
Array = NDArray[np.float64]


class _Scored(NamedTuple):
    """A metric on the data, then on every draw."""

    value: float
    draws: Array


def summarise_physiology(
    predictions: pd.DataFrame, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Score every lab of a physiology run, or of several runs pooled.

    Args:
        predictions: as described at the top of this module; without columns `fold` and `run` it is one run.
        draws: number of bootstrap draws.
        seed: seed of the draws; the same test patients get the same draws whatever the encoder.
        level: coverage of the intervals.

    Returns:
        read_out; labs, the best ordered first: lab, n, num_patients, num_runs, few (too few to judge by),
        spearman and skill (Intervals), mse, mse_baseline; share_above_zero: for each metric the share of the labs with
        enough values whose interval lies above 0; num_labs (with enough values), num_listed.

    Raises:
        PacxError: a column is missing.
    """
    _check(predictions)
    labs: list[dict[str, Any]] = []
    for lab, rows in predictions.groupby("lab", sort=True, observed=True):
        resamples = resample_patients(rows["patient_id"].astype(str), draws=draws, seed=seed)
        labs.append(
            {
                "lab": str(lab),
                "n": int(rows["image_id"].nunique()),
                "num_patients": int(rows["patient_id"].nunique()),
                "num_runs": len(set(_runs(rows))),
                "few": _few(rows),
                **{
                    metric: interval_of(found.value, found.draws, level=level)
                    for metric, found in _score(rows, resamples).items()
                },
                "mse": float(_error(rows, "predicted").mean()),
                "mse_baseline": float(_error(rows, "baseline").mean()),
            }
        )
    labs.sort(key=lambda one: -np.nan_to_num(one["spearman"].value, nan=-2.0))
    judged = [one for one in labs if not one["few"]]
    return {
        "read_out": " and ".join(sorted(predictions["read_out"].astype(str).unique())),
        "labs": labs,
        "share_above_zero": {
            metric: float(np.mean([one[metric].low > 0 for one in judged])) if judged else float("nan")
            for metric in METRICS
        },
        "num_labs": len(judged),
        "num_listed": len(labs),
    }


def compare_physiology(
    predictions_a: pd.DataFrame,
    predictions_b: pd.DataFrame,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare two encoders lab by lab on the same test rows.

    Both are scored on the same patients in every draw, so what both find hard cancels out. The p-values are not
    corrected for the number of labs.

    Args:
        predictions_a: predictions of a physiology run, or pooled ones.
        predictions_b: the same of another encoder, on the same stores.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the intervals.

    Returns:
        One row per lab that both have and metric: lab, metric, value_a, value_b, difference (a minus b), low, high,
        p_value, n, few.

    Raises:
        PacxError: a column is missing, no lab is shared, or the two were tested on other rows.
    """
    _check(predictions_a)
    _check(predictions_b)
    theirs = dict(iter(predictions_b.groupby("lab", sort=True, observed=True)))
    pairs = [
        (lab, a, theirs[lab]) for lab, a in predictions_a.groupby("lab", sort=True, observed=True) if lab in theirs
    ]
    if not pairs:
        raise PacxError("The two runs share no lab. Read the same labs off both encoders.")
    found = []
    for lab, ours, others in pairs:
        a, b = _in_order(ours), _in_order(others)
        if not (_runs(a) == _runs(b) and a["image_id"].equals(b["image_id"]) and a["value"].equals(b["value"])):
            raise PacxError(
                f"The two runs were not tested on the same values of {lab!r} ({len(a)} against {len(b)}): a paired "
                "comparison needs both on the same store, and pools over the same folds."
            )
        resamples = resample_patients(a["patient_id"].astype(str), draws=draws, seed=seed)
        scored_a, scored_b = _score(a, resamples), _score(b, resamples)
        for metric in METRICS:
            one, other = scored_a[metric], scored_b[metric]
            difference = difference_of(one.value - other.value, one.draws - other.draws, level=level)
            found.append(
                {
                    "lab": str(lab),
                    "metric": metric,
                    "value_a": one.value,
                    "value_b": other.value,
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "p_value": difference.p_value,
                    "n": int(a["image_id"].nunique()),
                    "few": _few(a),
                }
            )
    return pd.DataFrame(found)


def _score(rows: pd.DataFrame, resamples: Resamples) -> dict[str, _Scored]:
    """Score one lab on the data and on every draw; the data is the draw in which every patient occurs once."""
    patients = resamples.weights.shape[1]
    with_data = Resamples(resamples.codes, np.concatenate([np.ones((1, patients)), resamples.weights]))
    error, reference = (mean_draws(_error(rows, name), with_data) for name in ("predicted", "baseline"))
    skill = 1 - np.divide(error, reference, out=np.full(len(error), np.nan), where=reference > 0)
    found = {"spearman": _within_runs(rows, with_data), "skill": skill}
    return {metric: _Scored(float(values[0]), values[1:]) for metric, values in found.items()}


def _within_runs(rows: pd.DataFrame, resamples: Resamples) -> Array:
    """Average the rank correlations of the runs, weighted by their (drawn) rows; undefined ones are left out."""
    total, weights = np.zeros(len(resamples.weights)), np.zeros(len(resamples.weights))
    run = np.array(_runs(rows))
    for name in np.unique(run):
        part = np.flatnonzero(run == name)
        own = Resamples(resamples.codes[part], resamples.weights)
        found = spearman_draws(rows["score"].to_numpy()[part], rows["value"].to_numpy()[part], own)
        drawn = np.where(np.isfinite(found), resamples.weights[:, own.codes].sum(axis=1), 0.0)
        total += drawn * np.nan_to_num(found)
        weights += drawn
    mean: Array = np.divide(total, weights, out=np.full(len(total), np.nan), where=weights > 0)
    return mean


def _runs(rows: pd.DataFrame) -> list[str]:
    """Name the run that each row is of."""
    parts = [rows[name].astype(str) for name in _POOLED_BY if name in rows]
    return [" ".join(one) for one in zip(*parts, strict=True)] if parts else [""] * len(rows)


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values([*(name for name in _POOLED_BY if name in rows), "image_id"], ignore_index=True)


def _few(rows: pd.DataFrame) -> bool:
    return rows["image_id"].nunique() < ENOUGH or rows["patient_id"].nunique() < ENOUGH_PATIENTS


def _error(rows: pd.DataFrame, name: str) -> Array:
    return np.asarray((rows["truth"] - rows[name]) ** 2, dtype=np.float64)


def _check(predictions: pd.DataFrame) -> None:
    absent = [name for name in COLUMNS if name not in predictions]
    if absent:
        raise PacxError(
            f"These are no predictions of `pacx physiology`: the columns {', '.join(absent)} are missing. Give the "
            "predictions.parquet of such a run."
        )
