"""From the predictions of a trained head to calibrated probabilities with thresholds: what it takes to use the head.

Calibration and threshold come from the validation rows, what is reported from the test rows. A head is linear and Platt
scaling is too, so calibrated log-odds are again one linear map: slope * (w . x + b) + shift. Nobody who uses the head
can forget the calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from pacx.readout import Calibration, Output, known
from pacx.statistics import bootstrap_auroc, calibration_error, f1_threshold, rates
from pacx.statistics.platt import Platt, fit_platt

__all__ = ["Column", "calibrate", "calibration_of"]


class Column(NamedTuple):
    """One output of a head."""

    task: str
    label: str
    output: str
    """the label again, or the class that is set against the rest"""
    prevalence: float
    """share of positives in training"""


class Calibrated(NamedTuple):
    """One output, ready for use."""

    output: Output
    platt: Platt
    error: float
    """calibration error on the test rows, NaN if undefined"""


def calibrate(
    columns: list[Column], test: pd.DataFrame, val: pd.DataFrame, *, draws: int = 1000
) -> dict[Column, Calibrated]:
    """Calibrate every output that a head has and that can be used.

    Args:
        columns: the outputs.
        test: predictions of one training of the head, as `pacx.scoring` describes them.
        val: the same of the validation rows.
        draws: bootstrap draws of the AUROC's interval.
    """
    names = _names(columns)
    tested, validated = _by_output(test), _by_output(val)
    return {
        column: _calibrated(column, names[column], tested.get(column[:3]), validated.get(column[:3]), draws)
        for column in columns
    }


def calibration_of(found: Mapping[Column, Calibrated]) -> Calibration:
    """Sum up the calibration of all outputs."""
    fitted = sum(one.platt.fitted for one in found.values())
    errors = [one.error for one in found.values() if np.isfinite(one.error)]
    method = "Platt" if fitted == len(found) else f"Platt for {fitted} of {len(found)} outputs" if fitted else "none"
    return Calibration(method, "validation split", known(float(np.mean(errors)) if errors else np.nan))


def _calibrated(
    column: Column, name: str, test: pd.DataFrame | None, val: pd.DataFrame | None, draws: int
) -> Calibrated:
    platt, cut = Platt(1.0, 0.0, fitted=False), np.nan
    if val is not None:
        platt, cut = fit_platt(val["target"], val["score"]), f1_threshold(val["target"], val["score"])
    threshold = _probability(platt, np.array([cut]))[0] if np.isfinite(cut) else 0.5
    measured = {
        "auroc": np.nan,
        "auroc_low": np.nan,
        "auroc_high": np.nan,
        "sensitivity": np.nan,
        "specificity": np.nan,
    }
    error = np.nan
    if test is not None:
        target, score = test["target"].to_numpy(np.float64), test["score"].to_numpy(np.float64)
        interval = bootstrap_auroc(target, score, test["patient_id"].astype(str).to_numpy(), draws=draws)
        at_cut = rates(target, score, threshold=cut if np.isfinite(cut) else 0.0)
        measured = {
            "auroc": interval.value, "auroc_low": interval.low, "auroc_high": interval.high,
            "sensitivity": at_cut["sensitivity"], "specificity": at_cut["specificity"],
        }  # fmt: skip
        error = calibration_error(target, _probability(platt, score))
    output = Output(
        name=name, task=column.task, threshold=float(threshold), prevalence=column.prevalence,
        num_test=0 if test is None else len(test), **{key: known(value) for key, value in measured.items()},
    )  # fmt: skip
    return Calibrated(output, platt, error)


def _probability(platt: Platt, score: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(platt.slope * score + platt.shift))


def _by_output(table: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    groups = table.groupby(["task", "label", "output"], observed=True, sort=False)
    return {(str(task), str(label), str(output)): own for (task, label, output), own in groups}


def _names(columns: list[Column]) -> dict[Column, str]:
    """Call an output by its label; by task and label where two tasks share it, by task and class for classes."""
    labels = [column.label for column in columns if column.output == column.label]
    return {
        column: column.label
        if column.output == column.label and labels.count(column.label) == 1
        else f"{column.task}/{column.output}"
        for column in columns
    }
