"""Which columns of a laboratory table hold what: recognised by name, or as the user says.

A long table has a column of items and one of values. Names are matched without regard to case, in this order, so that
MIMIC-IV's labevents (subject_id, itemid, charttime, value, valuenum, valueuom, storetime) and eICU's lab
(patientunitstayid, labname, labresult, labresulttext, labmeasurenamesystem, labresultoffset, labresultrevisedoffset;
minutes) need no word. Anything else is a wide table: a column per lab, with the unit in brackets at the end of the
header, such as `glucose (mmol/L)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from pacx.data.labs.panel import LabIndex, item_key
from pacx.data.labs.texts import TimeUnit
from pacx.errors import PacxError

__all__ = ["LabColumns", "LongLayout", "WideColumn", "WideLayout", "find_layout", "read_header"]

_KNOWN = {
    "subject": (
        "subject", "subject_id", "patient_id", "patientunitstayid", "stay_id", "icustay_id", "hadm_id", "study_id",
    ),
    "item": ("item", "itemid", "item_id", "labname", "loinc", "lab", "name"),
    "value": ("valuenum", "labresult", "value", "result"),
    "unit": ("unit", "valueuom", "labmeasurenamesystem", "units", "uom"),
    "time": ("time", "charttime", "labresultoffset", "datetime", "offset"),
}  # fmt: skip
_TEXT_OF = {"valuenum": "value", "labresult": "labresulttext"}
_REVISED_OF = {"charttime": "storetime", "labresultoffset": "labresultrevisedoffset"}
_IN_MINUTES = {"labresultoffset"}
_HEADER = re.compile(r"(?P<name>.*\S)\s*[\[(](?P<unit>[^\[\]()]*)[\])]\s*")


@dataclass(frozen=True)
class LabColumns:
    """What the user says about a table's columns; None = recognise it."""

    subject: str | None = None
    item: str | None = None
    value: str | None = None
    unit: str | None = None
    time: str | None = None
    time_unit: TimeUnit | None = None
    """of times that are numbers; hours unless the column is known to hold minutes"""


class LongLayout(NamedTuple):
    """A table with a row per value."""

    subject: str
    item: str
    value: str
    text: str | None
    unit: str | None
    time: str | None
    revised: str | None
    time_unit: TimeUnit


class WideColumn(NamedTuple):
    """One lab column of a wide table."""

    column: str
    item: str
    """the header without its unit"""
    unit: str


class WideLayout(NamedTuple):
    """A table with a row per subject (and time) and a column per lab."""

    subject: str
    labs: tuple[WideColumn, ...]
    time: str | None
    others: tuple[str, ...]
    """columns that are no lab of the panel"""
    time_unit: TimeUnit


def find_layout(
    path: Path, present: Sequence[str], *, given: LabColumns, index: LabIndex | None, units: Mapping[str, str]
) -> LongLayout | WideLayout:
    """Say which columns hold what.

    Args:
        path: the table, for messages.
        present: its column names.
        given: what the user says.
        index: the panel; None for every item of the table.
        units: unit by `item_key` of column or item, from the user; wins over the header's.

    Raises:
        PacxError: a named column is absent, no column is the subject, or no column is a lab.
    """
    for field in fields(given):
        name = getattr(given, field.name)
        if field.name != "time_unit" and name is not None and name not in present:
            raise PacxError(
                f"{path} has no column {name!r}. It has: {', '.join(present[:40])}. Name the right one with "
                f"--lab_{field.name}_column."
            )
    subject, item, value, unit, time = (
        getattr(given, what) or _recognise(present, what) for what in ("subject", "item", "value", "unit", "time")
    )
    if subject is None:
        raise PacxError(
            f"{path} has no column that names the subject. It has: {', '.join(present[:40])}. Name the column that "
            "says whose values these are with --lab_subject_column."
        )
    time_unit = given.time_unit or ("minutes" if (time or "").lower() in _IN_MINUTES else "hours")
    if item is not None and value is not None:
        text, revised = _beside(present, value, _TEXT_OF), _beside(present, time, _REVISED_OF)
        return LongLayout(subject, item, value, text, unit, time, revised, time_unit)
    columns = [name for name in present if name not in {subject, time}]
    labs = [read_header(name, index=index, units=units) for name in columns]
    known = tuple(lab for lab in labs if index is None or index.find(lab.item) is not None)
    if not known:
        raise PacxError(
            f"{path} is neither a long nor a wide laboratory table. A long one has columns such as item and value "
            "(name them with --lab_item_column and --lab_value_column); a wide one has a column per lab, by item id, "
            f"LOINC code or name. It has: {', '.join(present[:40])}."
        )
    _refuse_twice(path, known, index)
    taken = {lab.column for lab in known}
    return WideLayout(subject, known, time, tuple(name for name in columns if name not in taken), time_unit)


def read_header(column: str, *, index: LabIndex | None, units: Mapping[str, str]) -> WideColumn:
    """Split a header into item and unit; `INR(PT)` and `Creatine Kinase (CK)` are names as they stand."""
    item, unit = column, ""
    match = _HEADER.fullmatch(column)
    if match and (index is None or index.find(column) is None):
        item, unit = match["name"], match["unit"].strip()
    return WideColumn(column, item, units.get(item_key(column), units.get(item_key(item), unit)))


def _recognise(present: Sequence[str], what: str) -> str | None:
    by_name = {name.lower(): name for name in reversed(present)}
    return next((by_name[name] for name in _KNOWN[what] if name in by_name), None)


def _beside(present: Sequence[str], column: str | None, pairs: Mapping[str, str]) -> str | None:
    partner = pairs.get((column or "").lower())
    return next((name for name in present if name.lower() == partner), None)


def _refuse_twice(path: Path, labs: Sequence[WideColumn], index: LabIndex | None) -> None:
    seen: dict[int | str | None, str] = {}
    for lab in labs:
        position = lab.item if index is None else index.find(lab.item)
        other = seen.setdefault(position, lab.column)
        if other != lab.column:
            raise PacxError(
                f"The columns {other!r} and {lab.column!r} of {path} are the same lab. Remove one, or put them in a "
                "long table, where the earliest value counts."
            )
