"""What the sources `table` and `labs` share: reading a lab table as the options say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pacx.data.labs.columns import LabColumns
from pacx.data.labs.panel import PANEL, Lab
from pacx.data.labs.panel_file import read_panel
from pacx.data.labs.tables import LabRows, LabTable, read_lab_table
from pacx.data.sources import Options
from pacx.errors import PacxError

__all__ = ["LAB_OPTIONS", "panel_of", "read_labs"]

LAB_OPTIONS = (
    "lab_key",
    "lab_reference_column",
    "lab_window",
    "lab_panel",
    "lab_subject_column",
    "lab_item_column",
    "lab_value_column",
    "lab_unit_column",
    "lab_time_column",
    "lab_time_unit",
    "lab_units",
    "lab_missing_unit",
)


def read_labs(path: Path, options: Options, *, rows: LabRows | None) -> LabTable:
    """Read a lab table for the rows of a manifest, or for every subject in it.

    Raises:
        PacxError: options that do not fit together, and all that `read_lab_table` and `read_panel` refuse.
    """
    if options.lab_reference_column is not None and options.lab_window is None:
        raise PacxError(
            "--lab_reference_column says what a window counts from, but there is none. Add e.g. --lab_window -24 24."
        )
    columns = LabColumns(
        subject=options.lab_subject_column,
        item=options.lab_item_column,
        value=options.lab_value_column,
        unit=options.lab_unit_column,
        time=options.lab_time_column,
        time_unit=options.lab_time_unit,
    )
    return read_lab_table(
        path,
        panel=panel_of(options),
        columns=columns,
        rows=rows,
        window=options.lab_window,
        units=dict(map(_unit, options.lab_units)),
        missing_unit=options.lab_missing_unit,
    )


def panel_of(options: Options) -> Sequence[Lab] | None:
    """Return the panel that the options name; None for every item."""
    if options.lab_panel is None:
        return PANEL
    return None if options.lab_panel == "all" else read_panel(Path(options.lab_panel))


def _unit(text: str) -> tuple[str, str]:
    item, sign, unit = text.rpartition("=")
    if not sign or not item.strip():
        raise PacxError(f"--lab_units has {text!r}. Write item=unit, e.g. glucose=mmol/L.")
    return item.strip(), unit.strip()
