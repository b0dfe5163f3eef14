"""Any CSV, TSV or Parquet table with one row per image: your own data set.

The user names the columns. Paths are relative to the table's folder, or absolute. The kind of a label follows from
its values:

* only 0, 1 and empty: a binary task of the column's name (or one of the labels of the multilabel task `multilabel`),
* whole numbers from 0 with more than two values: a multiclass task,
* words: a multiclass task whose classes are the words in alphabetical order.

Empty (or NA, NaN, null) means unknown, never 0. Other codes, such as -1 for "uncertain", are refused: what they should
count as is a decision about the study, to be taken in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.ecg.signal import check_rate
from pacx.data.labs.percentiles import UNIT, percentile_columns
from pacx.data.labs.tables import LabRows
from pacx.data.manifest import Manifest, Task, TaskKind
from pacx.data.sources import Options
from pacx.data.sources.lab_join import LAB_OPTIONS, read_labs
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["OPTIONS", "check_columns", "describe", "read", "read_frame"]

OPTIONS = (
    "path_column",
    "patient_column",
    "patients_of",
    "label_columns",
    "multilabel",
    "split_column",
    "mask_column",
    "mask_name",
    "ecg_column",
    "ecg_leads",
    "ecg_rate",
    "ecg_unit",
    "ecg_layout",
    "lab_columns",
    "lab_percentiles",
    "lab_table",
    *LAB_OPTIONS,
    "view_column",
    "age_column",
    "sex_column",
    "split_fractions",
    "seed",
)

_EMPTY = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]  # pandas would count "None" too, which is a finding's absence


def read(root: Path, *, options: Options) -> Manifest:
    """Turn a table into a manifest; image ids are the paths in it.

    Raises:
        PacxError: the file is not a table, or a named column is missing or holds what it cannot hold.
    """
    source = read_frame(root, text=(options.patient_column, options.lab_key))
    columns = {
        "path": None if options.path_column == options.ecg_column else options.path_column,  # a table of ECGs alone
        "patient_id": options.patient_column,
        "split": options.split_column,
        "mask_path": options.mask_column,
        "ecg_path": options.ecg_column,
        "view": options.view_column,
        "age": options.age_column,
        "sex": options.sex_column,
    }
    check_columns(root, source, [*columns.values(), *options.lab_columns])
    table, tasks = describe(root, source, source[options.path_column], columns, options)
    manifest = Manifest(
        root.stem,
        table,
        tasks=tasks,
        root=root.parent,
        mask_name=options.mask_name,
        about=f"rows of the table {root.name}",
        ecg_reading=_ecg_reading(options),
    )
    _add_labs(manifest, root, source, options)
    return manifest


def describe(
    root: Path, source: pd.DataFrame, image_ids: pd.Series, columns: Mapping[str, str | None], options: Options
) -> tuple[pd.DataFrame, dict[str, Task]]:
    """Make the table of a manifest, with its tasks and splits.

    Args:
        root: the table, for messages.
        source: its content.
        image_ids: name of each row.
        columns: reserved column -> column of the source.
        options: name label columns and how to split.

    Raises:
        PacxError: a named column is missing or holds what it cannot hold.
    """
    check_columns(root, source, [*columns.values(), *options.label_columns])
    table = pd.DataFrame({name: source[column] for name, column in columns.items() if column is not None})
    table.insert(0, "image_id", image_ids.astype("str"))
    table["patient_id"] = table["patient_id"].map(str, na_action="ignore")
    tasks = _add_labels(table, source, options)
    if options.split_column is None:
        first = next((task.labels[0] for task in tasks.values()), None)
        table["split"] = split_patients(table, fractions=options.split_fractions, seed=options.seed, stratify=first)
    return table, tasks


def read_frame(root: Path, *, text: Sequence[str | None] = ()) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet file; NA, NaN and null are empty, None is a word.

    Args:
        root: the file.
        text: columns of ids, which stay as they are written: 007 is not 7.

    Raises:
        PacxError: the file is not a table.
    """
    if root.is_dir():
        raise PacxError(
            f"{root} is a folder. The source `table` reads one CSV, TSV or Parquet file; `folder` reads folders."
        )
    try:
        if root.suffix.lower() in {".parquet", ".pq"}:
            return pd.read_parquet(root)
        separator = "\t" if root.suffix.lower() == ".tsv" else ","
        kinds = {column: str for column in text if column is not None}
        return pd.read_csv(root, sep=separator, low_memory=False, keep_default_na=False, na_values=_EMPTY, dtype=kinds)
    except (OSError, ValueError) as error:  # ValueError covers Unicode, CSV and Arrow errors
        raise PacxError(
            f"{root} cannot be read as a table ({' '.join(str(error).split())}). Give a CSV, TSV or Parquet file."
        ) from error


def check_columns(root: Path, source: pd.DataFrame, wanted: Sequence[str | None]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        PacxError: says which one, and which there are.
    """
    missing = [column for column in wanted if column is not None and column not in source.columns]
    if missing:
        raise PacxError(
            f"{root} has no column {', '.join(map(repr, missing))}. "
            f"It has: {', '.join(map(str, source.columns[:40]))}. "
            "Name the right ones with --path_column, --patient_column, --label_columns and so on. If every image is of "
            "another patient, give the path column as the patient column."
        )


def _add_labels(table: pd.DataFrame, source: pd.DataFrame, options: Options) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    binary = []
    for column in options.label_columns:
        table[column], kind, classes = _label(source[column])
        if kind == "binary" and options.multilabel is not None:
            binary.append(column)
        else:
            tasks[column] = Task(column, (column,), kind, classes=classes)
    if options.multilabel is not None:
        if not binary:
            raise PacxError(
                f"--multilabel {options.multilabel} needs 0/1 columns, and none of --label_columns "
                f"({', '.join(options.label_columns) or 'none given'}) is one."
            )
        tasks[options.multilabel] = Task(options.multilabel, tuple(binary), "multilabel")
    return tasks


def _label(values: pd.Series) -> tuple[pd.Series, TaskKind, tuple[str, ...]]:
    """Return a label column as float, its kind, and the names of its classes where it has words."""
    if set(values.dropna().unique()) <= {True, False}:  # also 0 and 1; and true/false with gaps, which are objects
        return values.map(float, na_action="ignore").astype(np.float64), "binary", ()
    if not pd.api.types.is_numeric_dtype(values):
        classes = sorted(values.dropna().astype(str).unique())
        numbers = values.astype("str").map({name: float(number) for number, name in enumerate(classes)})
        return numbers.where(values.notna()), "multiclass", tuple(classes)
    numbers = values.astype("Float64").astype(np.float64)
    return numbers, "multiclass" if numbers.max() > 1 else "binary", ()


def _add_labs(manifest: Manifest, root: Path, source: pd.DataFrame, options: Options) -> None:
    """Add the labs of the table's own columns, or of a table beside it."""
    ids = pd.Index(manifest.table["image_id"], name="image_id")
    given = [name for name in LAB_OPTIONS if getattr(options, name) != getattr(Options(), name)]
    if options.lab_table is not None:
        if options.lab_columns:
            raise PacxError("Give either --lab_columns of the table of images or a --lab_table, not both.")
        key, reference = options.lab_key or options.patient_column, options.lab_reference_column
        check_columns(root, source, [key, reference])
        rows = LabRows(list(ids), source[key], None if reference is None else source[reference])
        labs = read_labs(Path(options.lab_table), options, rows=rows)
        manifest.labs, manifest.lab_units, manifest.lab_report = labs.values.set_axis(ids), labs.units, labs.report
    elif given:
        raise PacxError(f"{', '.join(f'--{name}' for name in given)} say how to read a --lab_table; none is given.")
    elif options.lab_columns:
        values = _lab_columns(source, options)
        manifest.labs = values.astype(np.float64).set_axis(ids)
        manifest.lab_units = dict.fromkeys(values.columns, UNIT) if options.lab_percentiles else {}


def _lab_columns(source: pd.DataFrame, options: Options) -> pd.DataFrame:
    if options.lab_percentiles:
        return percentile_columns(source, options.lab_columns)
    labs = source[list(options.lab_columns)]
    wrong = [column for column in labs.columns if not pd.api.types.is_numeric_dtype(labs[column])]
    if wrong:
        raise PacxError(
            f"The lab columns {', '.join(map(repr, wrong))} are not numeric. Remove signs such as '<' and units first, "
            "or read the table with --lab_table, which knows them."
        )
    return labs


def _ecg_reading(options: Options) -> dict[str, Any]:
    """Return the arguments of `read_ecg` that were given.

    Raises:
        PacxError: the rate is none; `read_ecg` would refuse one file after the other.
    """
    if options.ecg_rate is not None:
        check_rate(options.ecg_rate, "--ecg-rate")
    given = {
        "leads": options.ecg_leads or None,
        "rate": options.ecg_rate,
        "unit": options.ecg_unit,
        "layout": options.ecg_layout,
    }
    return {name: value for name, value in given.items() if value is not None}
