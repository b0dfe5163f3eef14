"""The openly licensed sample bundle: four stores, one for each `part`.

cxr (1140 images, 696 patients): frontal X-rays of NIH ChestX-ray14 (922) and the Hannover COVID-19 image repository
(218), with the Hannover patients' blood values. Tasks:

* `pneumonia`, NIH only: Pneumonia against No Finding (459 and 463 images). Labels are text-mined from reports.
* `findings`, NIH only, multilabel: those of the 14 NIH findings with at least 20 positive training and 5 positive test
  images. Every one of these images also carries the pneumonia label, as the sample holds nothing else with findings:
  the task is partly "ill or not".
* `sex` (1 = female) and `view` (1 = AP), both hospitals: controls that any encoder should solve.
* `high_crp`, Hannover: C-reactive protein at least 50 mg/l, next to the median of the training values (57).
* `low_po2`, Hannover: pO2 below 60 mmHg, the usual limit of respiratory failure, and about the training median (55).
  The source does not say whether the blood was arterial.
* `icu_stay`, Hannover: in intensive care on the day of the X-ray. All such images are AP, so the projection gives part
  of it away; read it beside `view`.

COVID against normal is not offered: hospital and diagnosis coincide, so the hospital's look alone would solve it.

seg (70 images, 41 patients): X-rays with human outlines of both lungs, as mask `lung`. The patients of Hannover are
split as in cxr.

ecg (456 records, 424 patients): PTB-XL, 10 s, read from the 100 Hz files throughout (only 24 records also have 500 Hz;
mixing the two would let a network tell records apart by their bandwidth). Task `superclass`: NORM, MI, STTC, CD, HYP.

labs (2399 ICU stays): first value in the first 24 h of 39 labs of the eICU and MIMIC-III demo databases. Task
`mortality`: died in the ICU later (91 of 1466 known). No patient ids are published, so a stay counts as a patient and
somebody with two stays may be in two splits. The 9 vital signs of the table are not labs and are left out.

The blood values of cxr carry the names and units of part labs where the two measure the same thing (crp, pco2, po2),
so that a network that was fitted on the ICU stays can read them; the others keep names of their own. NIH images have
none. Values further than 2 days from the X-ray are dropped: C-reactive protein halves within a day. A value beyond a
detection limit (-inf or inf in the source) becomes the smallest or largest number that was seen of that lab, which
keeps its rank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.errors import PacxError

__all__ = ["OPTIONS", "read"]

OPTIONS = ("part",)

_FINDINGS = ("Infiltration", "Atelectasis", "Edema", "Effusion", "Consolidation")
_SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_HIGH_CRP = 50.0  # mg/l
_LOW_PO2 = 60.0  # mmHg
_MAX_LAB_DAYS = 2.0
# Column stem in the Hannover table -> (name here, unit). The first three are the ICU panel's own names and units.
_HANNOVER_LABS = {
    "crp": ("crp", "mg/L"),
    "pco2": ("pco2", "mmHg"),
    "po2": ("po2", "mmHg"),
    "d-dimer": ("d_dimer", "mg/L"),
    "factor_xii": ("factor_xiii", "%"),  # misspelt in the source; its readme says coagulation factor XIII
    "ldh": ("ldh", "U/L"),
    "lymphocytes": ("lymphocytes_abs", "K/uL"),  # the ICU panel's lymph and neut are shares of the white cells
    "neutrophils": ("neutrophils_abs", "K/uL"),
}


def read(root: Path, *, options: Options) -> Manifest:
    """Read one part of the bundle.

    Raises:
        PacxError: no part or an unknown one is named, or the root is not the bundle's folder.
    """
    if options.part not in _PARTS:
        raise PacxError(f"The open sample has the parts {', '.join(_PARTS)}; found --part {options.part}. Name one.")
    folder = root / options.part / "manifest.csv"
    if not folder.is_file():
        raise PacxError(
            f"{root} is not the open sample: {folder} is missing. Give the folder that holds cxr, seg, ecg and labs."
        )
    manifest = _PARTS[options.part](root)
    manifest.name = f"open-sample-{options.part}"
    manifest.patients_of = "open-sample"  # its ids name the data set that a patient comes from
    manifest.root = root
    manifest.table = manifest.table.reset_index(drop=True)
    return manifest


def _read_cxr(root: Path) -> Manifest:
    source = pd.read_csv(root / "cxr/manifest.csv", dtype={"image_id": str})
    source = source[source["role"] == "train_pool"].set_index("image_id", drop=False)
    blood = pd.read_csv(root / "labs/hannover_cxr_paired_labs.csv", dtype={"image_id": str}).set_index("image_id")
    table = source[["image_id", "path", "patient_id", "view", "age", "sex", "split", *_FINDINGS]].copy()
    table["study_id"] = source["study_no"].map(lambda number: f"{number:.0f}", na_action="ignore")
    table["dataset"] = source["dataset"]
    table["pneumonia"] = source["Pneumonia"].where((source["Pneumonia"] == 1) | (source["no_finding"] == 1))
    table["female"] = _is(source["sex"], "F")
    table["view_ap"] = _is(source["view"], "AP")
    labs = _hannover_labs(blood)
    table["high_crp"] = _compare(labs["crp"] >= _HIGH_CRP, labs["crp"])
    table["low_po2"] = _compare(labs["po2"] < _LOW_PO2, labs["po2"])
    # Offsets count from the X-ray; without an ICU stay they are empty.
    table["icu_stay"] = ((blood["icu_admission_offset"] <= 0) & (blood["icu_release_offset"] >= 0)).astype(np.float64)
    tasks = [
        Task("pneumonia", ("pneumonia",), "binary", "finding", "NIH: Pneumonia against No Finding, text-mined"),
        Task("findings", _FINDINGS, "multilabel", "finding", "NIH: text-mined findings"),
        Task("sex", ("female",), "binary", "control", "female against male"),
        Task("view", ("view_ap",), "binary", "control", "AP against PA"),
        Task("high_crp", ("high_crp",), "binary", "physiology", f"Hannover: CRP at least {_HIGH_CRP:.0f} mg/l"),
        Task("low_po2", ("low_po2",), "binary", "physiology", f"Hannover: pO2 below {_LOW_PO2:.0f} mmHg"),
        Task(
            "icu_stay",
            ("icu_stay",),
            "binary",
            "physiology",
            "Hannover: in the ICU on the day of the X-ray (always AP)",
        ),
    ]
    return Manifest(
        "",
        table,
        tasks={task.name: task for task in tasks},
        labs=labs,
        lab_units=dict(_HANNOVER_LABS.values()),
        license=_all_of(source["license"]),
        citation=_all_of(source["attribution"]),
        about="frontal X-rays of NIH ChestX-ray14 and of the Hannover COVID-19 image repository, with blood values",
    )


def _hannover_labs(blood: pd.DataFrame) -> pd.DataFrame:
    """Return the values near the X-ray in time, finite, under our names; index image_id."""
    labs = pd.DataFrame(index=blood.index)
    for stem, (name, _) in _HANNOVER_LABS.items():
        value = blood[f"{stem}_val"].where(blood[f"{stem}_offset"].abs() <= _MAX_LAB_DAYS)
        finite = value[np.isfinite(value)]
        labs[name] = value.clip(finite.min(), finite.max())
    return labs


def _read_seg(root: Path) -> Manifest:
    source = pd.read_csv(root / "seg/manifest.csv", dtype={"image_id": str})
    columns = ["image_id", "image", "mask", "patient_id", "view", "age", "sex", "split"]
    table = source[columns].rename(columns={"image": "path", "mask": "mask_path"})
    return Manifest(
        "",
        table,
        license=_all_of(source["image_license"], source["mask_license"]),
        citation=_all_of(source["image_attribution"], source["mask_attribution"]),
        about="frontal X-rays with human outlines of both lungs",
        mask_name="lung",
    )


def _read_ecg(root: Path) -> Manifest:
    source = pd.read_csv(root / "ecg/manifest.csv")
    table = source[["patient_id", "age", "sex", "split", *_SUPERCLASSES]].astype(
        dict.fromkeys(_SUPERCLASSES, np.float64)
    )
    table["image_id"] = source["ecg_id"].map("ptbxl{:05d}".format)
    table["ecg_path"] = source["record_100hz"]
    task = Task(
        "superclass", _SUPERCLASSES, "multilabel", "physiology", "PTB-XL diagnostic superclasses, any likelihood"
    )
    return Manifest(
        "",
        table,
        tasks={"superclass": task},
        license=_all_of(source["license"]),
        citation=_all_of(source["attribution"]),
        about="12-lead ECGs of PTB-XL",
    )


def _read_labs(root: Path) -> Manifest:
    source = pd.read_csv(root / "labs/icu_first24h_labs.csv")
    columns = pd.read_csv(root / "labs/columns.csv")
    panel = columns[columns["kind"] == "lab"]
    listing = pd.read_csv(root / "labs/manifest.csv").iloc[0]
    table = source[["age", "split"]].copy()
    table["sex"] = source["sex"].map({"Female": "F", "Male": "M"})
    table["image_id"] = source["database"] + "-" + source["stay_id"].astype(str)
    table["patient_id"] = table["image_id"]
    table["mortality"] = source["died_in_icu_after24h"]
    labs = source[panel["column"].tolist()].astype(np.float64).set_axis(pd.Index(table["image_id"], name="image_id"))
    task = Task("mortality", ("mortality",), "binary", "physiology", "died in the ICU after the first 24 h")
    return Manifest(
        "",
        table,
        tasks={"mortality": task},
        labs=labs,
        lab_units=dict(zip(panel["column"], panel["unit"], strict=True)),
        license=str(listing["license"]),
        citation=str(listing["attribution"]),
        about="laboratory values of the first 24 h in intensive care, eICU and MIMIC-III demo databases",
    )


_PARTS: dict[str, Callable[[Path], Manifest]] = {
    "cxr": _read_cxr,
    "seg": _read_seg,
    "ecg": _read_ecg,
    "labs": _read_labs,
}


def _is(values: pd.Series, yes: str) -> pd.Series:
    return _compare(values == yes, values)


def _compare(result: pd.Series, values: pd.Series) -> pd.Series:
    """Return a comparison as 1 and 0, unknown where the value is."""
    return result.astype(np.float64).where(values.notna())


def _all_of(*columns: pd.Series) -> str:
    return " | ".join(sorted({str(value) for column in columns for value in column.dropna().unique()}))
