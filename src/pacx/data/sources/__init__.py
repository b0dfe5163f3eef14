"""One short module per data set: what lies on disk -> manifest.

A source is a module here with

* a docstring: what the data set is, its size, what the labels mean, who may get it, citation, known faults,
* `OPTIONS`, the names of the options that it uses,
* `read(root, *, options) -> Manifest`, which lists files and reads tables but no pixels, and
* for a public data set `CARD`: access, counts of the full release, and what `read_source` adds to the manifest, which
  is licence, citation and whose the patient ids are,

and one line in `SOURCES`. Paths in the table are relative to `Manifest.root`. Reading pixels, in parallel and
restartable, is the same for all of them: `pacx.data.prepare`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

from pacx.data.labs.gather import MissingUnit
from pacx.data.labs.texts import TimeUnit
from pacx.data.manifest import Manifest
from pacx.data.sources.card import Card, check_counts
from pacx.data.sources.exclusion import exclude_listed
from pacx.data.sources.reading import SIMULATED_LICENSE, drop_missing_files, is_simulated
from pacx.data.splits import fold_patients, split_patients
from pacx.errors import PacxError

__all__ = ["SOURCES", "Options", "read_source", "source_module"]

SOURCES = {
    "folder": "every image below a folder; no labels",
    "table": "a CSV or Parquet table with a column of image paths",
    "labs": "a table of laboratory values, long or wide; no images",
    "chestx6": "ChestX6: six classes from several data sets",
    "chexchonet": "CheXchoNet 1.0.0: X-rays within a year of an echocardiogram",
    "chexpert": "CheXpert 1.0, full or small",
    "covid-qu-ex": "COVID-QU-Ex: three classes, with lung masks",
    "covidx": "COVIDx CXR-4: COVID-19 or not",
    "cxl-seg": "CXL-Seg 1.0.0: lung masks for MIMIC-CXR",
    "kermany": "Kermany: pneumonia in children",
    "medmod": "MedMod: stays in intensive care with phenotypes and mortality",
    "mimic-cxr-jpg": "MIMIC-CXR-JPG 2.1.0: findings read off the reports",
    "nih": "NIH ChestX-ray14",
    "open-sample": "the openly licensed sample bundle: parts cxr, seg, ecg, labs",
    "open-i": "Open-i: chest X-rays of Indiana University with their reports' headings",
    "padchest": "PadChest: X-rays of San Juan Hospital with findings read off the reports",
    "qata-cov19": "QaTa-COV19 v2: masks of infected regions",
    "symile-mimic": "Symile-MIMIC 1.0.0: X-ray, ECG and labs of the same admission, as released",
    "tb-shenzhen": "TB (Shenzhen): tuberculosis",
    "vindr": "VinDr-CXR 1.0.0, DICOM or PNG: 19 findings by three readers",
}
"""name on the command line -> what it reads; the module has the same name with underscores"""


@dataclass(frozen=True)
class Options:
    """What a user may tell a source; each uses some of it and refuses the rest. See `pacx prepare --help`."""

    part: str | None = None
    partial: bool = False
    split: Literal["own", "reference"] = "own"
    uncertain: Literal["unknown", "zero", "one"] = "unknown"
    annotations: Path | None = None
    images: Path | None = None
    exclude: tuple[Path, ...] = ()
    patient_from: Literal["file", "folder", "top-folder"] = "file"
    path_column: str = "path"
    patient_column: str = "patient_id"
    label_columns: tuple[str, ...] = ()
    multilabel: str | None = None
    split_column: str | None = None
    mask_column: str | None = None
    mask_name: str = "mask"
    ecg_column: str | None = None
    ecg_leads: tuple[str, ...] = ()
    ecg_rate: float | None = None
    ecg_unit: str | None = None
    ecg_layout: str | None = None
    lab_columns: tuple[str, ...] = ()
    lab_percentiles: bool = False
    lab_table: Path | None = None
    subject_table: Path | None = None
    lab_key: str | None = None
    lab_row_column: str | None = None
    lab_reference_column: str | None = None
    lab_window: tuple[float, float] | None = None
    lab_panel: str | None = None
    lab_subject_column: str | None = None
    lab_item_column: str | None = None
    lab_value_column: str | None = None
    lab_unit_column: str | None = None
    lab_time_column: str | None = None
    lab_time_unit: TimeUnit | None = None
    lab_units: tuple[str, ...] = ()
    lab_missing_unit: MissingUnit = "drop"
    view_column: str | None = None
    age_column: str | None = None
    sex_column: str | None = None
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    patients_of: str = ""
    redraw_split: bool = False
    folds: int | None = None
    fold: int = 0
    seed: int = 0


def read_source(name: str, root: Path, *, options: Options) -> Manifest:
    """Read a data set's tables and file names with the source of that name.

    Raises:
        PacxError: there is no such source, it has no use for an option that was given, the root does not exist, or
            what is there is not what the source expects.
    """
    module = source_module(name)
    card: Card | None = getattr(module, "CARD", None)
    default = Options()
    given = [field.name for field in fields(options) if getattr(options, field.name) != getattr(default, field.name)]
    # Every source's split can be drawn anew, or be a fold of a cross-validation.
    redrawn = options.redraw_split or options.folds is not None
    usable = {*module.OPTIONS, "folds", *(("redraw_split", "split_fractions", "seed") if redrawn else ())}
    usable |= {"fold"} if options.folds is not None else set()
    usable |= {"exclude"} | ({"partial"} if card else set())
    usable |= {"split"} if card and card.reference_split else set()
    useless = [option for option in given if option not in usable]
    if useless:
        raise PacxError(
            f"The source {name!r} has no use for {', '.join(f'--{option}' for option in useless)}. "
            f"It takes: {', '.join(f'--{option}' for option in dict.fromkeys((*module.OPTIONS, *sorted(usable))))}."
        )
    if not root.exists():
        raise PacxError(f"{root} does not exist. Give the folder or table that `pacx prepare {name}` should read.")
    manifest: Manifest = module.read(root, options=options)
    if card is not None:
        simulated = is_simulated(root) or is_simulated(manifest.root)
        manifest.license = manifest.license or (SIMULATED_LICENSE if simulated else card.license)
        manifest.citation = manifest.citation or card.citation
        manifest.patients_of = "" if simulated else card.patients_of  # of a miniature, they are nobody's ids
        own_split = options.split == "own" and not redrawn
        check_counts(manifest, card, partial=options.partial, own_split=own_split, part=options.part)
        drop_missing_files(manifest, partial=options.partial)
    manifest.patients_of = options.patients_of or manifest.patients_of
    table, shares, seed = manifest.table, options.split_fractions, options.seed
    if options.folds is not None:
        table["split"] = fold_patients(table, folds=options.folds, fold=options.fold, fractions=shares, seed=seed)
        manifest.split_about = f"fold {options.fold} of {options.folds}, by patient, seed {seed}"
    elif options.redraw_split:
        table["split"] = split_patients(table, fractions=shares, seed=seed)
        manifest.split_about = f"by patient, seed {seed}"
    elif options.split == "reference" and card is not None:
        manifest.split_about = f"as the published implementation: {card.reference_split}"
    if options.exclude:
        exclude_listed(manifest, [Path(path) for path in options.exclude])
    return manifest


def source_module(name: str) -> ModuleType:
    """Import the module of a source.

    Raises:
        PacxError: there is no such source.
    """
    if name not in SOURCES:
        known = "; ".join(f"{source} ({about})" for source, about in SOURCES.items())
        raise PacxError(f"There is no source {name!r}. The sources are: {known}.")
    return import_module(f"{__name__}.{name.replace('-', '_')}")
