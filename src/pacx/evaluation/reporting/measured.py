"""All measures of the probes on one store, and calibration curves, as `report.json` holds them.

Probes write a long table of measures (`pacx.measures`); of it, those that the page shows are kept: the label
that stands for each task and its single labels, at all fractions, and subgroups of the former. Calibration curves are
made from the predictions, at the largest label fraction, all outputs of a task together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import pandas as pd
from scipy.special import expit

from pacx.evaluation.reporting.collect import Record, Run
from pacx.scoring import MACRO
from pacx.statistics import calibration_curve

__all__ = ["SHOWN", "calibration_curves", "measures_of"]

SHOWN: dict[tuple[str, str], str] = {
    ("auroc", ""): "AUROC",
    ("average_precision", ""): "AUPRC",
    ("f1", "half"): "F1 at .5",
    ("f1", "argmax"): "F1, highest score",
    ("f1", "val_f1"): "F1 at validation threshold",
    ("sensitivity", "val_specificity"): "sensitivity at .9",
    ("specificity", "val_specificity"): "specificity found",
    ("calibration_error", ""): "ECE",
    ("brier", ""): "Brier",
}
"""measures on the page, by metric and rule, and what they are called"""

_KEYS = (
    "task", "label", "output", "fraction", "subgroup_kind", "subgroup", "metric", "rule", "value", "low", "high",
    "threshold", "num", "positives", "num_patients", "note",
)  # fmt: skip


def measures_of(encoder: str, runs: Iterable[Run], headline: Mapping[str, str]) -> list[Record]:
    """Keep the measures that are shown of an encoder's runs; of subgroups, those of the label that stands for the task.

    Args:
        encoder: its label.
        runs: its probes.
        headline: the label that stands for each task.
    """
    rows = [row for run in runs for row in run.results.get("measures") or []]
    return [
        {"encoder": encoder, **{key: row.get(key) for key in _KEYS}}
        for row in rows
        if (row["metric"], row["rule"]) in SHOWN
        and (not row["subgroup_kind"] or row["label"] == headline.get(row["task"]))
        and (row["output"] in {MACRO, row["label"]} or not row["subgroup_kind"])
    ]


def calibration_curves(tables: Mapping[str, pd.DataFrame]) -> list[Record]:
    """Make the calibration curve of every encoder and task that has positives and negatives.

    Args:
        tables: predictions, by label of the encoder.

    Returns:
        Entries of encoder, task, fraction, num (scores, over outputs and seeds), points (predicted, observed, num).
    """
    found = []
    for encoder, table in tables.items():
        for task, own in table.groupby("task", observed=True, sort=False):
            fraction = float(cast("float", own["fraction"].max()))
            rows = own[(own["fraction"] == fraction) & own["target"].notna()]
            target, probability = rows["target"].to_numpy(np.float64), expit(rows["score"].to_numpy(np.float64))
            if 0 < target.sum() < len(target):
                points = [point._asdict() for point in calibration_curve(target, probability)]
                names = {"encoder": encoder, "task": str(task), "fraction": fraction}
                found.append({**names, "num": len(rows), "points": points})
    return found
