"""Scores and measures, every task and fraction for itself, on all cores.

Nothing differs from `pacx.scoring.summarise` and `pacx.measures.measure` of the whole: both look at one task
and fraction at a time. Resampling thousands of patients a thousand times is most of a large probe's work.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from pacx.measures.subgroups import KINDS
from pacx.measures.table import COLUMNS, measure
from pacx.scoring import Scored, summarise
from pacx.side_by_side import map_side_by_side

__all__ = ["measure_all", "summarise_all"]


def summarise_all(predictions: pd.DataFrame, *, draws: int, level: float) -> Scored:
    """Score all predictions; arguments and result as those of `pacx.scoring.summarise`."""
    parts = map_side_by_side(
        lambda own: summarise(own, draws=draws, level=level),
        list(_questions(predictions)),
        size=len,
        label="intervals",
        unit="question",
    )
    together = Scored({}, {})
    for part in parts:
        together.single.update(part.single)
        together.mean.update(part.mean)
    return together


def measure_all(
    predictions: pd.DataFrame, val_predictions: pd.DataFrame | None, manifest: pd.DataFrame, *, draws: int, level: float
) -> pd.DataFrame:
    """Measure all predictions; arguments and result as those of `pacx.measures.measure`."""
    facts = manifest[["image_id", *(column for column in KINDS if column in manifest)]]
    largest = dict(predictions.groupby("task", observed=True)["fraction"].max())

    def measured(own: pd.DataFrame) -> pd.DataFrame:
        task, fraction = own["task"].iloc[0], own["fraction"].iloc[0]
        # Subgroups are measured at a task's largest fraction.
        known = facts if fraction == largest[task] else facts[["image_id"]]
        return measure(own, val_predictions, known, draws=draws, level=level)

    parts = map_side_by_side(measured, list(_questions(predictions)), size=len, label="measures", unit="question")
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def _questions(predictions: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Split predictions by task and fraction."""
    for _, own in predictions.groupby(["task", "fraction"], observed=True, sort=False):
        yield own
