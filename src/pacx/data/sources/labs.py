"""Laboratory values without images: a row per subject (patient, admission, ICU stay), to fit a labs teacher on.

The root is one table, long (subject, item, value, unit, time) or wide (a column per lab); MIMIC-IV's labevents and
eICU's lab need no further word. `pacx.data.labs.tables` says how values are found, converted, checked and counted.

A second table, `subject_table`, may describe the subjects: whose patient each is (so that splits keep a patient's stays
together), split, labels, and the time that the window counts from. Without it each subject counts as a patient, and
patients are split at random. Subjects without any value in the window are left out.

Known faults of the public tables: the stays of one patient are separate subjects in both; eICU's labs carry two units,
that of its database (used here) and that of the hospital's interface, and for some values only one of them can be
right; eICU reports bedside glucose as an item of its own, which ready-made tables such as YAIB's mix with the
laboratory's.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.labs.files import key_text
from pacx.data.labs.panel import LabIndex
from pacx.data.labs.percentiles import UNIT, percentile_columns
from pacx.data.labs.tables import LabRows, LabTable
from pacx.data.manifest import Manifest
from pacx.data.sources import Options
from pacx.data.sources.lab_join import LAB_OPTIONS, panel_of, read_labs
from pacx.data.sources.table import check_columns, describe, read_frame
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["OPTIONS", "read"]

OPTIONS = (
    "subject_table",
    "lab_columns",
    "lab_percentiles",
    *LAB_OPTIONS,
    "lab_row_column",
    "patient_column",
    "patients_of",
    "label_columns",
    "multilabel",
    "split_column",
    "age_column",
    "sex_column",
    "split_fractions",
    "seed",
)

_OF_SUBJECTS = (
    "label_columns",
    "multilabel",
    "split_column",
    "age_column",
    "sex_column",
    "lab_reference_column",
    "lab_row_column",
)
log = logging.getLogger("pacx")


def read(root: Path, *, options: Options) -> Manifest:
    """Turn a lab table into a manifest; image ids are the subjects.

    Raises:
        PacxError: options that do not fit together, or a table that cannot be read as asked.
    """
    if root.is_dir():
        raise PacxError(f"{root} is a folder. The source `labs` reads one CSV, TSV (also .gz) or Parquet file.")
    useless = [name for name in _OF_SUBJECTS if options.subject_table is None and getattr(options, name)]
    if useless:
        raise PacxError(
            f"{', '.join(f'--{name}' for name in useless)} name columns of a table of subjects. Give that table with "
            "--subject_table."
        )
    if options.lab_percentiles:
        return _percentiles(root, options)
    if options.lab_columns:
        raise PacxError(
            "The source `labs` takes --lab_columns with --lab_percentiles only; give a --lab_panel instead."
        )
    manifest = Manifest(root.name.split(".")[0], pd.DataFrame(), about=f"laboratory values of the table {root.name}")
    if options.subject_table is None:
        labs = read_labs(root, options, rows=None)
        manifest.table = _alone(labs.values.index, options)
        return _with_labs(manifest, labs)
    return _with_labs(*_described(manifest, root, Path(options.subject_table), options))


def _alone(subjects: pd.Index, options: Options) -> pd.DataFrame:
    table = pd.DataFrame({"image_id": subjects, "patient_id": subjects})
    table["split"] = split_patients(table, fractions=options.split_fractions, seed=options.seed)
    log.info("labs: each of the %d subjects counts as a patient; --subject_table can say otherwise", len(table))
    return table


def _described(manifest: Manifest, root: Path, path: Path, options: Options) -> tuple[Manifest, LabTable]:
    """Read the labs of the subjects that a table lists, and make that table the manifest's."""
    key = options.lab_key or options.lab_subject_column or options.patient_column
    row = options.lab_row_column or key
    source = read_frame(path, text=(key, row, options.patient_column))
    check_columns(path, source, [key, row, options.lab_reference_column])
    names = key_text(source[row])
    times = None if options.lab_reference_column is None else source[options.lab_reference_column]
    labs = read_labs(root, options, rows=LabRows(names.tolist(), source[key], times))
    some = labs.values.notna().any(axis=1).to_numpy()
    if not some.all():
        log.warning("labs: %d of %d subjects have no value and are left out", (~some).sum(), len(some))
    source = source[some].reset_index(drop=True)
    patient = options.patient_column if options.patient_column in source or options.lab_key is None else key
    columns = {
        "patient_id": patient,
        "split": options.split_column,
        "age": options.age_column,
        "sex": options.sex_column,
    }
    manifest.table, manifest.tasks = describe(path, source, names[some].reset_index(drop=True), columns, options)
    return manifest, LabTable(labs.values[some], labs.units, labs.report)


def _with_labs(manifest: Manifest, labs: LabTable) -> Manifest:
    manifest.labs = labs.values.set_axis(pd.Index(manifest.table["image_id"], name="image_id"))
    manifest.lab_units, manifest.lab_report = labs.units, labs.report
    return manifest


def _percentiles(root: Path, options: Options) -> Manifest:
    """Read a wide table of percentiles."""
    key = options.lab_subject_column or options.lab_key or options.patient_column
    source = read_frame(root, text=(key,))
    check_columns(root, source, [key, *options.lab_columns])
    panel = panel_of(options)
    index = None if panel is None else LabIndex(panel)
    columns = options.lab_columns or tuple(
        name
        for name in source.columns
        if name.endswith("_percentile") or (index is not None and index.find(name) is not None)
    )
    columns = tuple(name for name in columns if f"{name}_percentile" not in columns)
    if not columns:
        raise PacxError(f"{root} has no column of percentiles. Name them with --lab_columns.")
    values = percentile_columns(source, columns)
    subjects = key_text(source[key])
    some = values.notna().any(axis=1).to_numpy() & subjects.notna().to_numpy()
    if not some.any():
        raise PacxError(f"No row of {root} has both a subject ({key!r}) and an observed percentile.")
    log.info("labs: %d rows with %d observed percentiles", some.sum(), int(np.isfinite(values[some]).sum().sum()))
    table = _alone(pd.Index(subjects[some]), options)
    labs = LabTable(values[some], dict.fromkeys(values.columns, UNIT), {})
    return _with_labs(Manifest(root.name.split(".")[0], table, about=f"percentiles of the table {root.name}"), labs)
