"""The `prepare` command: any source -> store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from pacx.data.images import MAX_PIXELS
from pacx.data.labs import drop_implausible
from pacx.data.labs.gather import MissingUnit
from pacx.data.labs.texts import TimeUnit
from pacx.data.manifest import Manifest, crossing_patients, validate
from pacx.data.packing import Job, Settings, make_jobs, pack
from pacx.data.shards import Shard
from pacx.data.sources import Options, read_source
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.preprocess import Geometry
from pacx.runs import open_run

__all__ = ["prepare"]

log = logging.getLogger("pacx")


def prepare(
    source: str,
    root: Path,
    *,
    part: str | None = None,
    partial: bool = False,
    split: Literal["own", "reference"] = "own",
    uncertain: Literal["unknown", "zero", "one"] = "unknown",
    annotations: Path | None = None,
    images: Path | None = None,
    exclude: list[Path] | None = None,
    patient_from: Literal["file", "folder", "top-folder"] = "file",
    path_column: str = "path",
    patient_column: str = "patient_id",
    patients_of: str = "",
    label_columns: list[str] | None = None,
    multilabel: str | None = None,
    split_column: str | None = None,
    mask_column: str | None = None,
    mask_name: str = "mask",
    ecg_column: str | None = None,
    ecg_leads: list[str] | None = None,
    ecg_rate: float | None = None,
    ecg_unit: str | None = None,
    ecg_layout: str | None = None,
    lab_columns: list[str] | None = None,
    lab_percentiles: bool = False,
    lab_table: Path | None = None,
    subject_table: Path | None = None,
    lab_key: str | None = None,
    lab_row_column: str | None = None,
    lab_reference_column: str | None = None,
    lab_window: tuple[float, float] | None = None,
    lab_panel: str | None = None,
    lab_subject_column: str | None = None,
    lab_item_column: str | None = None,
    lab_value_column: str | None = None,
    lab_unit_column: str | None = None,
    lab_time_column: str | None = None,
    lab_time_unit: TimeUnit | None = None,
    lab_units: list[str] | None = None,
    lab_missing_unit: MissingUnit = "drop",
    view_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    redraw_split: bool = False,
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
    size: int = 256,
    geometry: Geometry = "squash",
    max_pixels: int = MAX_PIXELS,
    allow_patient_overlap: bool = False,
    strict: bool = False,
    shard: str | None = None,
    workers: int | None = None,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Turn files on disk into a store.

    Files are read on all cores. Those that cannot be read, and blank images, are listed with the reason in
    rejects.csv and left out. When the command is interrupted, the same command goes on where it stopped.

    Args:
        source: what lies there: folder (every image below it), table (a CSV, TSV or Parquet file with a column of image
            paths), labs (a table of laboratory values, without images), open-sample (the openly licensed sample
            bundle), or a public data set; `pacx data list` names them all.
        root: the folder or table to read.
        part: open-sample: which part of the bundle (cxr, seg, ecg or labs).
        partial: public data sets: accept less than the full release and say what is missing.
        split: public data sets: own is the official split, or one by patient where there is none; reference is the one
            that the published implementation used, which may have patients in several parts.
        uncertain: data sets with labels that a reader was unsure of: what these count as.
        annotations: data sets whose labels are published elsewhere than their images: the folder or file of labels.
        exclude: lists of patients and images to leave out, as `pacx data audit` writes them.
        images: data sets whose images are those of another data set: that one's folder.
        patient_from: folder: who is one patient: each file, each folder with files in it, or each folder directly
            below the root, with all that it holds (studies, series).
        path_column: table: image files, relative to the table's folder or absolute.
        patient_column: table: who is on the image; splits never separate a patient's images.
        patients_of: folder, table, labs: whose patient ids these are, e.g. mimic, chexpert, nih. Stores of one name
            share patients, stores of different names do not; where none is given, equal ids count as equal patients. An
            encoder is not tested on patients that it was trained on.
        label_columns: table: columns to predict. 0/1/empty makes a binary task, class numbers or words a multiclass
            task; empty means unknown.
        multilabel: table: gather the 0/1 columns of label_columns in one multilabel task of this name.
        split_column: table: train, val or test; without it patients are split at random.
        mask_column: table: mask files, one thing outlined in each.
        mask_name: table: what the masks outline, e.g. lung.
        ecg_column: table: ECG files of the same patient (WFDB records, .npy or CSV files).
        ecg_leads: table: lead names in the order of the files, for files that do not say or say it wrongly.
        ecg_rate: table: samples per second, likewise.
        ecg_unit: table: unit, e.g. mV, likewise.
        ecg_layout: table: name of a known layout in place of leads, rate and unit, e.g. symile.
        lab_columns: table, labs: laboratory values, a column per lab, numbers in one unit per column.
        lab_percentiles: table, labs: the lab columns hold percentiles in [0, 1]; a column X_observed (1 = observed)
            beside X is its mask.
        lab_table: table: laboratory values of the patients in a file of their own: long (subject, item, value, unit,
            time) or wide (a column per lab); CSV, TSV (also .gz) or Parquet.
        subject_table: labs: a table with a row per subject (stay, admission), for patients, splits, labels and times.
        lab_key: table, labs: the column of the image or subject table whose values are the subjects of the lab table;
            by default the patient column.
        lab_row_column: labs: the column of the subject table that names its rows, where a subject has several (stays of
            a patient); by default the one of lab_key.
        lab_reference_column: table, labs: time in the image or subject table that lab_window counts from; without it
            the window counts from 0 or, with dates, from the subject's first value.
        lab_window: table, labs: earliest and latest hour, both included; the earliest value in it counts.
        lab_panel: table, labs: a panel file (YAML or CSV) of the labs wanted, or `all` for every item of the table; by
            default the 50 labs of Symile-MIMIC.
        lab_subject_column: lab table: whose value; like the next four recognised in the tables of MIMIC and eICU.
        lab_item_column: lab table: item id, LOINC code or name.
        lab_value_column: lab table: the number.
        lab_unit_column: lab table: its unit.
        lab_time_column: lab table: when it was taken: dates, or numbers in lab_time_unit.
        lab_time_unit: lab table: minutes, hours or days; by default hours, and minutes in eICU's tables.
        lab_units: lab table: units where the table has none, as item=unit, e.g. glucose=mmol/L.
        lab_missing_unit: lab table: drop values without a unit, or take them to be in the panel's unit.
        view_column: table: projection, e.g. PA or AP.
        age_column: table: age in years.
        sex_column: table: sex, e.g. F or M.
        split_fractions: shares of patients in train, val and test where the data bring no split.
        redraw_split: draw a split by patient even where the data bring one.
        folds: cross-validation: deal the patients out to so many folds, whatever split the data bring. Stores of the
            same patients agree in it.
        fold: the one that tests, counted from 0; the others are divided by the first two of split_fractions.
        seed: another seed draws another split.
        size: edge of the stored images in pixels; a little more than the encoder's input leaves room for crops.
        geometry: how rectangles become squares: squash (aspect ratio not kept), crop (centre), or pad (black bars).
        max_pixels: images with more pixels are rejected by their header, before they are decoded.
        allow_patient_overlap: accept a given split in which patients are in several parts.
        strict: stop at the first file that cannot be used.
        shard: prepare a part only, e.g. 3/8 for the third of eight, for job arrays; `pacx store merge` joins the parts.
        workers: reading processes; by default one per core.
        out: the store folder.
        overwrite: replace a finished store there.

    Returns:
        The content of result.json; results are counts: name, num_images, num_patients, splits, rejects, tasks.

    Raises:
        PacxError: the root or table cannot be used, patients cross splits, nothing could be read, or the disk is full.

    Example:
        pacx prepare table labels.csv --patient_column subject --label_columns edema --out stores/mine
    """
    options = _options(locals())
    if size < 1:
        raise PacxError(f"--size is {size}; give the edge of the stored images in pixels, e.g. 256.")
    manifest = read_source(source, Path(root), options=options)
    allow_patient_overlap = allow_patient_overlap or split == "reference"
    validate(manifest, allow_patient_overlap=allow_patient_overlap)
    crossing = crossing_patients(manifest.table)
    if crossing:
        log.warning(
            "prepare: %d patients of %s are in several splits; scores on it are too good, and reports will say so",
            crossing, manifest.name,
        )  # fmt: skip
    _keep_plausible_labs(manifest)
    jobs = make_jobs(manifest)
    readings = (manifest.image_reading, manifest.ecg_reading)
    settings = Settings(size, geometry, max_pixels, manifest.mask_name, strict, *readings)
    part_of = None
    if shard is not None:
        part_of = Shard.parse(shard, num_rows=len(jobs), fingerprint=_fingerprint(manifest, jobs, settings))
        manifest = part_of.take(manifest)
        jobs = make_jobs(manifest)
    origin = {"command": "prepare", "source": source, "root": root, **asdict(options)}
    config = {**origin, **settings._asdict(), "allow_patient_overlap": allow_patient_overlap, "workers": workers}
    config |= {} if shard is None else {"shard": shard}
    with open_run(out, command="prepare", config=config, overwrite=overwrite) as run:
        run.read("root", path=root, source=source)
        log.info("prepare: %d rows of %s", len(jobs), manifest.name)
        if not (out / "meta.json").is_file():
            writer = _make_writer(out, manifest, jobs, settings)
            pack(writer, jobs, settings, workers=workers)
            writer.finish(manifest, source=origin, allow_patient_overlap=allow_patient_overlap, shard=part_of)
        summary = _check_finished(Store.open(out), fingerprint=_fingerprint(manifest, jobs, settings), strict=strict)
        log.info(
            "prepare: %(num_patients)d patients, %(num_images)d images, %(num_masks)d with masks, "
            "%(num_ecgs)d with ECGs, %(num_labs)d with labs; splits %(splits)s",
            summary,
        )
        if summary["rejects"]:
            log.warning("prepare: %d files were left out; %s says why", summary["rejects"], out / "rejects.csv")
        return run.finish(summary)


def _options(arguments: Mapping[str, Any]) -> Options:
    """Take what a source may want; lists become tuples, so that what was given can be told from the defaults."""
    wanted: dict[str, Any] = {}
    for field in fields(Options):
        value = arguments[field.name]
        wanted[field.name] = tuple(value or ()) if field.default == () else value
    return Options(**wanted)


def _keep_plausible_labs(manifest: Manifest) -> None:
    """Hold the labs of any source against the limits of the default panel, where their unit is known."""
    if manifest.labs is None:
        return
    manifest.labs, dropped = drop_implausible(manifest.labs, units=manifest.lab_units)
    if dropped:
        manifest.lab_report = {**manifest.lab_report, "implausible": dropped}


def _make_writer(out: Path, manifest: Manifest, jobs: list[Job], settings: Settings) -> StoreWriter:
    has_images = any(job.image for job in jobs)
    return StoreWriter(
        out,
        name=manifest.name,
        num_rows=len(jobs),
        image_size=settings.size if has_images else None,
        geometry=settings.geometry,
        mask_names=(settings.mask_name,) if has_images and any(job.mask for job in jobs) else (),
        ecg=any(job.ecg for job in jobs),
        fingerprint=_fingerprint(manifest, jobs, settings),
    )


def _fingerprint(manifest: Manifest, jobs: list[Job], settings: Settings) -> str:
    """Identify what the arrays are made of: which files, in which order, read and resized how."""
    identity = [*manifest.table["image_id"].astype(str), repr(jobs), repr(settings._replace(strict=False))]
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()


def _check_finished(store: Store, *, fingerprint: str, strict: bool) -> dict[str, Any]:
    """Summarise the store; an interrupted run may have left one of other files, or one with rejects."""
    summary = store.summary()
    if store.meta["fingerprint"] != fingerprint or (strict and summary["rejects"]):
        raise PacxError(
            f"{store.path} holds a store that was made of other files, with other settings, or without --strict. "
            "Delete that folder or choose another --out."
        )
    return summary
