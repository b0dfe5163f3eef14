"""Symile-MIMIC 1.0.0: a chest X-ray, an ECG and 50 laboratory values of the same hospital admission.

What: 11,622 admissions of MIMIC-IV with the earliest AP or PA X-ray 24 to 72 h after admission, and the earliest ECG
and value of each of 50 labs within 24 h of it. Published as arrays: 10,000 admissions train, 750 val, and 464 test
queries, each with 9 distractors for a retrieval game (4,640 rows). No patient is in two splits.

What is read: train, val, and the queries of test, one row per admission. `image_id` and `study_id` are the admission
(`hadm_id`), `patient_id` is `subject_id`, `split` is the file's. X-rays and ECGs are read row by row from the
memory-mapped arrays. Laboratory values are taken raw from the tables, so that `pacx fit-labs` makes percentiles of its
own; the published percentiles only serve to check the arrays. `val_retrieval`, the distractors and the model checkpoint
are not used and need not be there.

Labels: six findings that CheXpert's labeller found in the X-ray's report. 1 = stated, 0 = denied, empty = not
mentioned; -1 (stated as uncertain) counts as unknown, and how many is logged. `No Finding` has no denials, only
silence.

Who may get it: credentialed users of PhysioNet who signed the MIMIC data use agreement (doi 10.13026/3vvj-s428).
Neither the data nor stores made of it may be passed on.

Known faults of the release:

* `labs_missingness` is 1 where a value was observed. Percentiles of labs that were not measured hold the mean
  percentile of the training set and must not be taken for values.
* The columns of the lab arrays ascend by item id; those of the tables are in another order.
* Each ECG was stretched to [-1, 1] over its 12 leads, so voltages are relative. aVF comes before aVL, as in MIMIC.
* Training X-rays were cropped to a square at a random place, once; val and test in the centre.
* X-rays are MIMIC-CXR images: other sets made of MIMIC (MedMod, CXL-Seg) hold the same patients.

Citation: Saporta et al., Contrasting with Symile: Simple model-agnostic representation learning for unlimited
modalities, NeurIPS 2024.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.labs import PANEL
from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card
from pacx.data.sources.symile_checks import Part, check_part
from pacx.errors import PacxError

__all__ = ["CARD", "FINDINGS", "OPTIONS", "read"]

log = logging.getLogger("pacx")

OPTIONS: tuple[str, ...] = ()

CARD = Card(
    title="Symile-MIMIC 1.0.0",
    access="credentialed",
    where="PhysioNet, doi:10.13026/3vvj-s428",
    license="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Symile-MIMIC 1.0.0, PhysioNet, doi:10.13026/3vvj-s428; Saporta et al., NeurIPS 2024",
    files=("train.csv", "data_npy"),
    patients_of="mimic",
    use="distillation, and alignment with the teachers",
    holds=("image", "ecg", "labs"),
    usual_splits={"train": 10_000, "val": 750, "test": 464},
)

FINDINGS = ("Atelectasis", "Cardiomegaly", "Edema", "Lung Opacity", "No Finding", "Pleural Effusion")

_SPLITS = ("train", "val", "test")
_EVERYBODY = "symile_mimic_data.csv"
_RELEASED = {"train": 10_000, "val": 750, "test": 464}
_ABOUT = "CheXpert's labeller on the X-ray's report: 1 stated, 0 denied; uncertain and not mentioned are unknown"


def read(root: Path, *, options: Options) -> Manifest:
    """Read the tables of a released folder and check that its arrays agree with them.

    Raises:
        PacxError: the folder is not the release, or a file of it is missing, damaged or contradicts another.
    """
    del options  # there is nothing to choose
    _check_root(root)
    parts = []
    for split in _SPLITS:
        part = Part(root, split, _read_table(root / f"{split}.csv"))
        check_part(part)
        parts.append(part.queries())
    source = pd.concat(parts, ignore_index=True)
    _count(source)
    table, license_ = _rows(root, source), _license(root)
    labs = source[[str(lab.item_id) for lab in PANEL]].astype(np.float64)
    labs.columns = pd.Index([lab.name for lab in PANEL])
    return Manifest(
        "symile-mimic",
        table,
        tasks={name: Task(name, (name,), "binary", "finding", _ABOUT) for name in FINDINGS},
        labs=labs.set_axis(pd.Index(table["image_id"], name="image_id")),
        lab_units={lab.name: lab.unit for lab in PANEL},
        license=license_,
        about="chest X-ray, ECG and laboratory values of the same admission, from MIMIC-IV",
        root=root,
        image_reading={"stored": "imagenet"},
        ecg_reading={"layout": "symile"},
    )


def _check_root(root: Path) -> None:
    """Name the right folder when the root is one level too high or too low."""
    if _is_release(root):
        return
    below = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    right = [folder for folder in (*root.absolute().parents[:2], *below) if _is_release(folder)]
    hint = f"Give {right[0]} instead." if right else "Give the folder that holds train.csv and data_npy."
    raise PacxError(f"{root} is not a release of Symile-MIMIC: train.csv and data_npy are not both in it. {hint}")


def _is_release(folder: Path) -> bool:
    return (folder / "data_npy").is_dir() and (folder / "train.csv").is_file()


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise PacxError(f"{path} is missing. The release has train.csv, val.csv and test.csv; download it again.")
    try:
        table = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError) as error:
        raise PacxError(f"{path} cannot be read as a table ({' '.join(str(error).split())}).") from error
    needed = ["subject_id", "hadm_id", *FINDINGS]
    for lab in PANEL:
        needed += [str(lab.item_id), f"{lab.item_id}_percentile"]
    missing = [column for column in needed if column not in table]
    if missing:
        raise PacxError(
            f"{path} lacks {len(missing)} columns of the release: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}. Give the tables as they were published."
        )
    for column in needed:
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise PacxError(f"Column {column!r} of {path} holds text; the release has numbers there.")
    if not (pd.api.types.is_integer_dtype(table["subject_id"]) and pd.api.types.is_integer_dtype(table["hadm_id"])):
        raise PacxError(f"{path} has rows without subject_id or hadm_id; each row of the release has both.")
    return table[[column for column in table if column in {*needed, "label", "label_hadm_id", "cxr_path"}]].copy()


def _count(source: pd.DataFrame) -> None:
    found = {split: int((source["split"] == split).sum()) for split in _SPLITS}
    if found != _RELEASED:
        log.warning(
            "symile-mimic: this is not the full release 1.0.0: it has %s admissions, the release %s",
            ", ".join(f"{count} {split}" for split, count in found.items()),
            ", ".join(f"{count} {split}" for split, count in _RELEASED.items()),
        )


def _rows(root: Path, source: pd.DataFrame) -> pd.DataFrame:
    """Make the manifest's table; who the patients are comes from the table of all admissions, if it is there."""
    admission = source["hadm_id"].astype(str)
    table = pd.DataFrame({"image_id": admission, "patient_id": source["subject_id"].astype(str), "study_id": admission})
    for column, stem in (("path", "cxr"), ("ecg_path", "ecg")):
        table[column] = [
            f"data_npy/{split}/{stem}_{split}.npy::{row}"
            for split, row in zip(source["split"], source["row"], strict=True)
        ]
    table["split"] = source["split"]
    for column, values in _people(root).items():
        table[column] = source["hadm_id"].map(values)
    for name in FINDINGS:
        table[name] = _label(source[name], name)
    if "cxr_path" in source:
        table["cxr_path"] = source["cxr_path"]  # names the image within MIMIC-CXR, for audits against other sets
    return table


def _label(values: pd.Series, name: str) -> pd.Series:
    uncertain = int((values == -1).sum())
    if uncertain:
        log.info("symile-mimic: %s is uncertain (-1) in %d reports, which count as unknown", name, uncertain)
    return values.astype(np.float64).mask(values == -1)


def _people(root: Path) -> dict[str, pd.Series]:
    path = root / _EVERYBODY
    if not path.is_file():
        log.info("symile-mimic: no %s there, so age, sex and view stay unknown", _EVERYBODY)
        return {}
    wanted = {"age": "age", "gender": "sex", "cxr_ViewPosition": "view"}
    try:
        table = pd.read_csv(path, usecols=lambda column: column == "hadm_id" or column in wanted, low_memory=False)
    except (OSError, ValueError) as error:
        raise PacxError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}). Download it again, or take it away."
        ) from error
    if "hadm_id" not in table or table["hadm_id"].duplicated().any():
        raise PacxError(f"{path} has no column hadm_id, or an admission twice. Download it again, or take it away.")
    return {wanted[str(name)]: values for name, values in table.set_index("hadm_id").items()}


def _license(root: Path) -> str:
    """Return the first line of the licence beside the data: a simulated release says there that it is one."""
    path = root / "LICENSE.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    first = next((line.strip() for line in lines if line.strip()), "")
    return first or CARD.license
