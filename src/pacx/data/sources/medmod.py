"""MedMod: stays in intensive care with a chest X-ray, and what was diagnosed and who died (MIMIC-IV, MIMIC-CXR-JPG).

What: nothing is released. Its authors' program `mimic4extract` makes `all_stays.csv` and `phenotype_labels.csv` (a row
per stay) out of MIMIC-IV 3.1; the images are those of MIMIC-CXR-JPG 2.1.0. Give the folder with both tables as root,
and MIMIC-CXR-JPG as `--images`.

Labels: task `phenotypes`, 25 diagnosis groups (HCUP-CCS 2015) in alphabetical order; task `mortality`: in the unit
(mortality_inunit), in the hospital (mortality and mortality_inhospital, which are equal). They are discharge diagnoses:
an X-ray of the first day is asked about all that came later.

Which image: the latest AP image within the stay in intensive care, as MedMod defines it; stays without one are left
out. `--split reference` does as the published implementation: the earliest image of any view, laterals too, between the
first of admission and stay and the last of their ends; each image used once, in the order of the stays' numbers.

Split: by the official list of test patients, if `testset_iv.csv` lies beside the tables (ids, with a 0/1 flag behind
each or not, with a header or not: its form is not published with the code); 12.5 % of the other patients validate.
Without the list it is drawn by patient, 70 / 10 / 20 %. `--split reference` is by stay, stratified by the rarest label,
seed 42, 70 / 10 / 20 %: patients cross it.

Who may get it: credentialed users of PhysioNet who signed the MIMIC data use agreement.

Known faults: the published AUROC of .722 is of the reference variant and cannot be compared with papers on MedMod. The
patients are those of MIMIC (namespace `mimic`): leave out whoever was distilled on (`pacx data audit`, `--exclude`).

Citation: Elsharief et al., MedMod: Multimodal Benchmark for Medical Prediction Tasks, CHIL 2025.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card
from pacx.data.sources.mimic_cxr_jpg import image_path, read_metadata
from pacx.data.sources.reading import find_root, read_table, unique_rows
from pacx.data.sources.splitting import reference_split
from pacx.data.sources.values import as_labels
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["CARD", "MORTALITY", "OPTIONS", "PHENOTYPES", "choose_images", "read"]

OPTIONS = ("images", "seed")

PHENOTYPES = (
    "Acute and unspecified renal failure",
    "Acute cerebrovascular disease",
    "Acute myocardial infarction",
    "Cardiac dysrhythmias",
    "Chronic kidney disease",
    "Chronic obstructive pulmonary disease and bronchiectasis",
    "Complications of surgical procedures or medical care",
    "Conduction disorders",
    "Congestive heart failure; nonhypertensive",
    "Coronary atherosclerosis and other heart disease",
    "Diabetes mellitus with complications",
    "Diabetes mellitus without complication",
    "Disorders of lipid metabolism",
    "Essential hypertension",
    "Fluid and electrolyte disorders",
    "Gastrointestinal hemorrhage",
    "Hypertension with complications and secondary hypertension",
    "Other liver diseases",
    "Other lower respiratory disease",
    "Other upper respiratory disease",
    "Pleurisy; pneumothorax; pulmonary collapse",
    "Pneumonia (except that caused by tuberculosis or sexually transmitted disease)",
    "Respiratory failure; insufficiency; arrest (adult)",
    "Septicemia (except in labor)",
    "Shock",
)
MORTALITY = ("mortality_inunit", "mortality", "mortality_inhospital")
_RAREST = "Other upper respiratory disease"
_TIMES = ("intime", "outtime", "admittime", "dischtime")
_TEST_LIST = "testset_iv.csv"

CARD = Card(
    title="MedMod",
    access="credentialed",
    where="PhysioNet: MIMIC-IV 3.1 and MIMIC-CXR-JPG 2.1.0, then MedMod's own extraction",
    license="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Elsharief et al., MedMod, CHIL 2025",
    files=("all_stays.csv", "phenotype_labels.csv"),
    patients_of="mimic",
    use="test: 25 phenotypes (probe, label efficiency)",
    reference_split="earliest image of any view; by stay, stratified by the rarest label, seed 42: 70 / 10 / 20 %",
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the two tables of stays, and MIMIC-CXR-JPG's metadata for the images.

    Raises:
        PacxError: a folder or table is missing, the tables do not name the same stays, or a label is not 0 or 1.
    """
    root = find_root(root, name="medmod", needs=CARD.files)
    if options.images is None:
        raise PacxError("medmod has no images of its own: give the folder of MIMIC-CXR-JPG 2.1.0 with --images.")
    images = find_root(Path(options.images), name="mimic-cxr-jpg", needs=("files", "mimic-cxr-2.0.0-metadata.csv*"))
    stays = _stays(root)
    chosen = choose_images(stays, read_metadata(images), reference=options.split == "reference")
    stays = stays.loc[chosen.index].join(chosen)
    if not len(stays):
        raise PacxError(f"No stay of {root} has an image in {images}. Check that both are of the same MIMIC.")
    table = pd.DataFrame(
        {
            "image_id": stays["dicom_id"],
            "path": [(images.resolve() / "files" / one).as_posix() for one in image_path(stays)],
            "patient_id": stays["subject_id"],
            "study_id": stays["study_id"],
            "view": stays["view"],
            "stay_id": stays["stay_id"],
            **({"age": stays["age"].astype(np.float64)} if "age" in stays else {}),
        }
    ).reset_index(drop=True)
    labels = stays[[*PHENOTYPES, *MORTALITY]].reset_index(drop=True)
    table = pd.concat([table, labels], axis=1)
    table["split"] = _split(root, table, options)
    return Manifest(
        "medmod",
        table,
        tasks={
            "phenotypes": Task("phenotypes", PHENOTYPES, "multilabel", "physiology", "diagnoses at discharge"),
            "mortality": Task("mortality", MORTALITY, "multilabel", "physiology", "death in the unit or hospital"),
        },
        about="chest X-rays of stays in intensive care, with discharge diagnoses",
        root=root,
    )


def _stays(root: Path) -> pd.DataFrame:
    """Join both tables by stay; their rows need not be in the same order."""
    ids = ("subject_id", "hadm_id", "stay_id")
    stays_file, labels_file = root / "all_stays.csv", root / "phenotype_labels.csv"
    stays = read_table(stays_file, columns=[*ids, *_TIMES, *MORTALITY], text=ids)
    stays = unique_rows(stays_file, stays, ["stay_id"])
    labels = read_table(labels_file, columns=PHENOTYPES, text=ids)
    if "stay_id" not in labels:
        if len(labels) != len(stays):
            raise PacxError(
                f"{labels_file} has {len(labels)} rows and no stay_id, {stays_file} has {len(stays)} stays: which "
                "label belongs to which stay cannot be told. Make both tables in one run of mimic4extract."
            )
        # The program writes the labels sorted by stay.
        order = stays["stay_id"].astype(np.int64).sort_values().index
        labels = labels.set_axis(order).assign(stay_id=stays["stay_id"])
    labels = unique_rows(labels_file, labels[["stay_id", *PHENOTYPES]], ["stay_id"])
    labels[list(PHENOTYPES)] = as_labels(labels_file, labels, PHENOTYPES)
    stays[list(MORTALITY)] = as_labels(stays_file, stays, MORTALITY)
    strangers = set(labels["stay_id"]) ^ set(stays["stay_id"])
    if strangers:
        raise PacxError(
            f"{len(strangers)} stays are in one of {stays_file.name} and {labels_file.name} only "
            f"({', '.join(sorted(strangers)[:3])}). Make both tables in one run of mimic4extract."
        )
    for column in _TIMES:
        stays[column] = pd.to_datetime(stays[column], errors="coerce")
    joined = stays.merge(labels, on="stay_id", validate="one_to_one")
    return joined.sort_values("stay_id", key=lambda ids: ids.astype(np.int64), ignore_index=True)


def choose_images(stays: pd.DataFrame, meta: pd.DataFrame, *, reference: bool) -> pd.DataFrame:
    """Choose an image for each stay.

    Args:
        stays: subject_id, intime, outtime, admittime, dischtime.
        meta: of `read_metadata`.
        reference: as the published implementation, not as MedMod.

    Returns:
        dicom_id, study_id, view of the stays that have one, indexed as those.
    """
    pairs = stays[["subject_id", *_TIMES]].reset_index(names="stay").merge(meta, on="subject_id")
    if not reference:
        within = (pairs["taken"] >= pairs["intime"]) & (pairs["taken"] <= pairs["outtime"]) & pairs["view"].eq("AP")
        latest = pairs[within].sort_values(["taken", "dicom_id"], kind="stable").drop_duplicates("stay", keep="last")
        return latest.set_index("stay").sort_index()[["dicom_id", "study_id", "view"]]
    begin, end = pairs[["intime", "admittime"]].min(axis=1), pairs[["outtime", "dischtime"]].max(axis=1)
    within = (pairs["taken"] >= begin) & (pairs["taken"] <= end)
    used: set[str] = set()
    chosen = {}
    for stay, own in pairs[within].sort_values(["stay", "taken"], kind="stable").groupby("stay"):
        free = own[~own["dicom_id"].isin(used)]
        if len(free):
            chosen[stay] = free.iloc[0]
            used.add(str(free.iloc[0]["dicom_id"]))
    return pd.DataFrame.from_dict(chosen, orient="index").reindex(columns=["dicom_id", "study_id", "view"])


def _split(root: Path, table: pd.DataFrame, options: Options) -> pd.Series:
    if options.split == "reference":
        return reference_split(table, test=0.2, val=0.125, stratify=table[_RAREST])
    if not (root / _TEST_LIST).is_file():
        return split_patients(table, fractions=(0.7, 0.1, 0.2), seed=options.seed)
    tests = table["patient_id"].isin(_tested(root / _TEST_LIST))
    split = pd.Series("test", index=table.index)
    split[~tests] = split_patients(table[~tests], fractions=(0.875, 0.125, 0.0), seed=options.seed)
    return split


def _tested(path: Path) -> set[str]:
    """Read the ids of the list; those with a 0 behind them are not tested."""
    ids = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        patient, _, flag = (part.strip() for part in line.partition(","))
        if patient.isdigit() and flag not in {"0", "0.0", "False"}:
            ids.add(patient)
    if not ids:
        raise PacxError(f"{path} names no patient. It should hold a subject_id in each line.")
    return ids
