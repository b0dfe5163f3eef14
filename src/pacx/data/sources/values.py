"""What the columns of public data sets hold: codes that are checked, labels with what is unknown or uncertain, ages."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pacx.errors import PacxError

__all__ = ["as_labels", "check_values", "parse_age", "settle_uncertain"]

log = logging.getLogger("pacx")

_OLDEST = 120


def check_values(path: Path, values: pd.Series, allowed: Collection[Any]) -> None:
    """Refuse a column with values that the release does not have; NaN passes.

    Raises:
        PacxError: says which, how often, and what is allowed.
    """
    wrong = values[~values.isin(list(allowed)) & values.notna()]
    if len(wrong):
        raise PacxError(
            f"The column {values.name!r} of {path} holds {', '.join(map(str, wrong.unique()[:5]))} "
            f"({len(wrong)} rows); the release has {', '.join(map(str, allowed))} there. "
            "Give the table as it was published."
        )


def as_labels(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return 0/1 columns as float64, NaN = unknown.

    Raises:
        PacxError: a column holds something else.
    """
    for column in columns:
        check_values(path, table[column], (0, 1))
    return table[list(columns)].astype(np.float64)


def settle_uncertain(
    path: Path, table: pd.DataFrame, columns: Sequence[str], *, policy: Literal["unknown", "zero", "one"]
) -> pd.DataFrame:
    """Return columns of 1, 0, -1 (uncertain) and empty as labels, and say how many were uncertain.

    Args:
        path: the table, for messages.
        table: its content.
        columns: the label columns.
        policy: what uncertain counts as: unknown (NaN), zero or one.

    Raises:
        PacxError: a column holds something else.
    """
    for column in columns:
        check_values(path, table[column], (0, 1, -1))
    labels = table[list(columns)].astype(np.float64)
    uncertain = labels == -1
    if uncertain.to_numpy().any():
        counted = {"unknown": np.nan, "zero": 0.0, "one": 1.0}[policy]
        log.info("%s: %d labels are uncertain and count as %s", path.name, int(uncertain.to_numpy().sum()), policy)
        labels = labels.mask(uncertain, counted)
    return labels


def parse_age(values: pd.Series) -> pd.Series:
    """Read ages in years, also written as 058Y, 011M or 023D; what no human reaches is NaN."""
    text = values.astype("str").str.strip()
    parts = text.str.extract(r"^0*(\d+)\s*([YMWD]?)$")
    years = parts[0].astype(np.float64) / parts[1].map({"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}).fillna(1.0)
    return years.where(years <= _OLDEST)
