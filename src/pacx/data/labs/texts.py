"""What the cells of a laboratory table say: a number, a detection limit, a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = ["TIME_UNITS", "Numbers", "TimeKind", "TimeUnit", "read_numbers", "read_times"]

TimeUnit = Literal["minutes", "hours", "days"]
TIME_UNITS: dict[TimeUnit, float] = {"minutes": 60.0, "hours": 3600.0, "days": 86400.0}
"""seconds of each unit"""
TimeKind = Literal["dates", "dates with time zones", "numbers"]

_LIMIT = re.compile(r"(?P<sign><=|>=|<|>|≤|≥|less than|greater than)\s*(?P<number>[-+]?\d*\.?\d+)", re.IGNORECASE)
_ZONE = r"\d\d:\d\d.*(?:Z|[+-]\d\d:?\d\d)$"
_NO_TIME = ("", "nan", "NaN", "NaT", "NA", "null", "NULL", "None", "none")
_BELOW = {"<", "<=", "≤", "less than"}


class Numbers(NamedTuple):
    """Cells read as numbers."""

    value: NDArray[np.float64]
    """NaN where there is none"""
    limit: NDArray[np.int8]
    """-1 for "<0.01", 1 for ">100", else 0; the value is then the limit itself, which keeps its rank"""
    empty: NDArray[np.bool_]
    """nothing is written there, rather than something that is not a number"""


def read_numbers(texts: Sequence[str]) -> Numbers:
    """Read cells; "1,200", "3,5" and "5.2 H" are not numbers, since nobody says what they mean. Neither is infinity."""
    cells = pd.Series(list(texts), dtype="object")
    value = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    value[~np.isfinite(value)] = np.nan
    limit = np.zeros(len(cells), dtype=np.int8)
    empty = np.zeros(len(cells), dtype=np.bool_)
    for position in np.flatnonzero(np.isnan(value)):
        text = cells[position].strip()
        empty[position] = text.casefold() in {"", "nan", "na", "null", "none", "___"}  # MIMIC blanks out with ___
        if match := _LIMIT.fullmatch(text):
            value[position] = float(match["number"])
            limit[position] = -1 if match["sign"].casefold() in _BELOW else 1
    return Numbers(value, limit, empty)


def read_times(texts: Sequence[str], *, unit: TimeUnit, column: str) -> tuple[NDArray[np.float64], TimeKind | None]:
    """Read times in seconds: dates since 1970, numbers since whatever they count from.

    Args:
        texts: numbers, or dates as ISO 8601 writes them ("2180-05-06 22:25:00"); empty for unknown.
        unit: of numbers.
        column: the column's name, for the message.

    Returns:
        Seconds, NaN where empty, and what they were; None where all are empty.

    Raises:
        PacxError: something is neither, or both occur, or some dates have a time zone and some have none.
    """
    cells = pd.Series(list(texts), dtype="object")
    known = ~cells.isin(_NO_TIME)
    cells = cells.where(known)
    if not known.any():
        return np.full(len(cells), np.nan), None
    # A column of dates is not tried as numbers first: with millions of dates that takes longer than reading them.
    is_number = pd.Series(False, index=cells.index)
    if not _is_date(cells[known].iloc[0]):
        numbers = pd.to_numeric(cells, errors="coerce")
        is_number = numbers.notna()
        if is_number[known].all():
            return numbers.to_numpy(dtype=np.float64) * TIME_UNITS[unit], "numbers"
    dates = pd.to_datetime(cells, errors="coerce", format="ISO8601", utc=True)
    wrong = cells[known & dates.isna()]
    if len(wrong):
        wrong = pd.concat([wrong[~is_number[wrong.index]], wrong])  # beside numbers, what is no number either
        raise PacxError(
            f"The column {column!r} holds {wrong.iloc[0]!r}, which is no time. Times are all numbers (hours, or as "
            "--lab_time_unit says), or all dates such as 2180-05-06 22:25:00."
        )
    zoned = cells[known].str.contains(_ZONE, regex=True)
    if zoned.any() and not zoned.all():
        raise PacxError(
            f"The column {column!r} holds {cells[known][zoned].iloc[0]!r} with a time zone and "
            f"{cells[known][~zoned].iloc[0]!r} without one. Write all in one zone, or all with theirs."
        )
    whole = dates.dt.tz_localize(None).astype("datetime64[s]").astype("int64")
    seconds: NDArray[np.float64] = whole.to_numpy().astype(np.float64)
    seconds[~known.to_numpy()] = np.nan
    return seconds, "dates with time zones" if zoned.any() else "dates"


def _is_date(text: str) -> bool:
    return re.match(r"\d{4}-\d", text) is not None
