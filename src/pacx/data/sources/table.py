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

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task, TaskKind
from pacx.data.sources import Options
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["OPTIONS", "read"]

OPTIONS = (
    "path_column",
    "patient_column",
    "label_columns",
    "multilabel",
    "split_column",
    "mask_column",
    "mask_name",
    "ecg_column",
    "lab_columns",
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
    source = _read_table(root)
    columns = {
        "path": options.path_column,
        "patient_id": options.patient_column,
        "split": options.split_column,
        "mask_path": options.mask_column,
        "ecg_path": options.ecg_column,
        "view": options.view_column,
        "age": options.age_column,
        "sex": options.sex_column,
    }
    _check_columns(root, source, [*columns.values(), *options.label_columns, *options.lab_columns])
    table = pd.DataFrame({name: source[column] for name, column in columns.items() if column is not None})
    table.insert(0, "image_id", table["path"].astype("str"))
    table["patient_id"] = table["patient_id"].map(str, na_action="ignore")
    tasks = _add_labels(table, source, options)
    if options.split_column is None:
        first = next((task.labels[0] for task in tasks.values()), None)
        table["split"] = split_patients(table, fractions=options.split_fractions, seed=options.seed, stratify=first)
    return Manifest(
        root.stem,
        table,
        tasks=tasks,
        labs=_labs(table, source, options),
        root=root.parent,
        mask_name=options.mask_name,
        about=f"rows of the table {root.name}",
    )


def _read_table(root: Path) -> pd.DataFrame:
    if root.is_dir():
        raise PacxError(
            f"{root} is a folder. The source `table` reads one CSV, TSV or Parquet file; `folder` reads folders."
        )
    try:
        if root.suffix.lower() in {".parquet", ".pq"}:
            return pd.read_parquet(root)
        separator = "\t" if root.suffix.lower() == ".tsv" else ","
        return pd.read_csv(root, sep=separator, low_memory=False, keep_default_na=False, na_values=_EMPTY)
    except (OSError, ValueError) as error:  # ValueError covers Unicode, CSV and Arrow errors
        raise PacxError(
            f"{root} cannot be read as a table ({' '.join(str(error).split())}). Give a CSV, TSV or Parquet file."
        ) from error


def _check_columns(root: Path, source: pd.DataFrame, wanted: list[str | None]) -> None:
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


def _labs(table: pd.DataFrame, source: pd.DataFrame, options: Options) -> pd.DataFrame | None:
    if not options.lab_columns:
        return None
    labs = source[list(options.lab_columns)].set_axis(pd.Index(table["image_id"], name="image_id"))
    wrong = [column for column in labs.columns if not pd.api.types.is_numeric_dtype(labs[column])]
    if wrong:
        raise PacxError(
            f"The lab columns {', '.join(map(repr, wrong))} are not numeric. Remove signs such as '<' and units first."
        )
    return labs.astype(np.float64)
