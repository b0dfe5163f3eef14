"""Laboratory tables, long or wide, to one value per subject and lab, with an account of every other value.

    values = read_lab_table(Path("labevents.csv.gz"), rows=admissions, window=(-24, 24))

Item ids, LOINC codes and names are looked up in a panel, values are converted to its units and held against its limits,
and of what lies in the window the earliest value counts. The columns of the result are the panel's labs in the panel's
order; units, counts and their reasons come along. What is done with

* an **unknown unit**: the value is dropped. So is a value without a unit, unless all usual units of that lab give the
  same number (pH, INR, sodium) or `missing_unit="panel"` says that the panel's unit is meant.
* a **detection limit** ("<0.01"): the limit counts as the value, which keeps its rank.
* an item **twice at the same time**: equal values are one; for different ones see `pacx.data.labs.gather`.

The table is read in pieces, once for its subjects where nobody names them and once for its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.labs.columns import LabColumns, LongLayout, WideLayout, find_layout
from pacx.data.labs.files import key_text, table_columns
from pacx.data.labs.gather import Gather, MissingUnit
from pacx.data.labs.panel import PANEL, Lab, LabIndex, item_key
from pacx.data.labs.pieces import Survey, look_over, read_pieces
from pacx.data.labs.report import LabReport
from pacx.data.labs.rows import Rows
from pacx.data.labs.texts import read_times
from pacx.errors import PacxError

__all__ = ["LabRows", "LabTable", "read_lab_table"]


@dataclass(frozen=True)
class LabRows:
    """The rows that values are wanted for."""

    names: Sequence[str]
    """one per row, each different; the index of the result"""
    subjects: pd.Series
    """whose values each row gets; missing for none"""
    times: pd.Series | None = None
    """what each row's window counts from: dates, or numbers in `time_unit`"""


@dataclass(frozen=True)
class LabTable:
    """One value per row and lab."""

    values: pd.DataFrame
    """(rows, labs) in `units`, index the subjects or the rows' names, NaN = not measured"""
    units: dict[str, str]
    report: dict[str, Any]
    """what became of every value: see `pacx.data.labs.report`"""


def read_lab_table(
    path: Path,
    *,
    panel: Sequence[Lab] | None = PANEL,
    columns: LabColumns | None = None,
    rows: LabRows | None = None,
    window: tuple[float, float] | None = None,
    units: Mapping[str, str] | None = None,
    missing_unit: MissingUnit = "drop",
) -> LabTable:
    """Read a laboratory table.

    Args:
        path: CSV, TSV (also .gz) or Parquet; long (a row per value) or wide (a column per lab).
        panel: the labs wanted; None for every item of the table, in its most usual unit, without limits.
        columns: which column holds what; recognised where not said.
        rows: what values are gathered for; without it every subject of the table is a row.
        window: earliest and latest hour, both included, counted from each row's time; without such times from 0 where
            the table's times are numbers, else from the subject's first time in the table. None for any time.
        units: unit by item or column, for tables that do not say.
        missing_unit: drop values without a unit, or take them to be in the panel's unit.

    Raises:
        PacxError: the file is no such table, its units are nowhere said, a window is asked for without times, or no
            value could be used.
    """
    path, columns = Path(path), columns or LabColumns()
    units = {item_key(item): unit for item, unit in (units or {}).items()}
    _check_window(window)
    index = None if panel is None else LabIndex(panel)
    layout = find_layout(path, table_columns(path), given=columns, index=index, units=units)
    _check_layout(path, layout, index, window=window, units=units, missing_unit=missing_unit)
    survey = None
    if rows is None or index is None or (window is not None and rows.times is None):
        survey = look_over(path, layout, index, units=units)
    if index is None:
        assert survey is not None
        index = LabIndex(survey.every_item())
    report = LabReport(index.panel)
    names, targets = _targets(layout, rows, survey)
    gather = Gather(index, targets, report=report, window=window, missing_unit=missing_unit, time_unit=layout.time_unit)
    for piece in read_pieces(path, layout, units=units):
        gather.add(piece)
    values = gather.finish(len(names))
    table = pd.DataFrame(values, index=pd.Index(names), columns=[lab.name for lab in index.panel])
    if rows is None:
        table = table[table.notna().any(axis=1)]
    if panel is None:
        table = table.loc[:, table.notna().any()]
    content = report.to_dict()
    if isinstance(layout, WideLayout):
        content["columns_that_are_no_labs"] = list(layout.others)
    if not report.used:
        raise PacxError(
            f"None of the {report.rows_read} values of {path} could be used. Not a lab of the panel: "
            f"{report.unknown_items.total()}; of no wanted subject: {report.without_subject}; "
            f"dropped: {content['dropped'] or 'none'}."
        )
    report.log()
    return LabTable(table, {lab.name: lab.unit for lab in index.panel if lab.name in table}, content)


def _check_window(window: tuple[float, float] | None) -> None:
    if window is not None and not window[0] <= window[1]:
        raise PacxError(f"The window {window[0]:g} to {window[1]:g} h is empty. Give its start first, e.g. -24 24.")


def _check_layout(
    path: Path,
    layout: LongLayout | WideLayout,
    index: LabIndex | None,
    *,
    window: tuple[float, float] | None,
    units: Mapping[str, str],
    missing_unit: MissingUnit,
) -> None:
    """Refuse a table that cannot give what is asked for, before it is read."""
    if window is not None and layout.time is None:
        raise PacxError(f"{path} has no column of times, so no window can be cut. Name it with --lab_time_column.")
    if missing_unit == "panel" or index is None:
        return
    remedy = (
        "or give them with --lab_units, e.g. glucose=mmol/L; or, if all values are in the panel's units, say so with "
        "--lab_missing_unit panel."
    )
    if isinstance(layout, LongLayout):
        if layout.unit is None and not units:
            raise PacxError(f"{path} has no column of units. Name it with --lab_unit_column; {remedy}")
        return
    bare = [lab.column for lab in layout.labs if not (lab.unit or _panel_lab(index, lab.item).unit_may_lack)]
    if bare and len(bare) == len(layout.labs):
        raise PacxError(
            f"The columns of {path} do not say their units: {', '.join(bare[:5])}. Write them into the header, e.g. "
            f"'glucose (mmol/L)'; {remedy}"
        )


def _panel_lab(index: LabIndex, item: str) -> Lab:
    position = index.find(item)
    assert position is not None, item
    return index.panel[position]


def _targets(layout: LongLayout | WideLayout, rows: LabRows | None, survey: Survey | None) -> tuple[list[str], Rows]:
    """Return the rows' names, and whose each is with what its window counts from."""
    if rows is None:
        assert survey is not None
        names = list(survey.first.index)
        return names, Rows(names, survey.first.to_numpy(dtype=np.float64), kind=survey.kind)
    subjects = key_text(rows.subjects).fillna("").tolist()
    if rows.times is not None:
        texts = rows.times.map(str, na_action="ignore").fillna("").tolist()
        times, kind = read_times(texts, unit=layout.time_unit, column=str(rows.times.name))
        return list(rows.names), Rows(subjects, times, kind=kind)
    times = np.zeros(len(subjects)) if survey is None else survey.first.reindex(subjects).to_numpy(dtype=np.float64)
    return list(rows.names), Rows(subjects, times, kind=None if survey is None else survey.kind)
