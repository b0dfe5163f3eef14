"""TB (Shenzhen): chest X-rays of a hospital in Shenzhen, with and without signs of tuberculosis.

What: 662 PNG files of 662 patients (326 normal, 336 abnormal) and one table with sex, age and a free-text finding.

Labels: task `tuberculosis`, 0 exactly where the finding is "normal", else 1. The last digit of a file's name says the
same.

Split: none is published. The own one is drawn by patient (hash, stratified, 68 / 12 / 20 %, the shares of the published
split); as every patient has one image, `--split reference`, which is drawn by image, does not leak either.

Who may get it: anybody (U.S. National Library of Medicine; Kaggle `raddar/tuberculosis-chest-xrays-shenzhen`).

Known faults: small: 133 test images cannot tell apart what differs by less than some .05 AUROC. A few findings that are
not "normal" are not tuberculosis.

Citation: Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases,
Quantitative Imaging in Medicine and Surgery 2014.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root, places_of, read_table, unique_rows
from pacx.data.sources.splitting import reference_split
from pacx.data.sources.values import parse_age
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["CARD", "OPTIONS", "read"]

OPTIONS = ("seed",)

_TEST, _VAL = 0.2, 0.15  # 15 % of what does not test

CARD = Card(
    title="TB (Shenzhen)",
    access="open",
    where="U.S. National Library of Medicine; Kaggle raddar/tuberculosis-chest-xrays-shenzhen",
    license="open, with acknowledgement of the NLM",
    citation="Jaeger et al., Quantitative Imaging in Medicine and Surgery 2014",
    files=("shenzhen_metadata.csv", "images"),
    expected=Expected(rows=662, positives={"tuberculosis": 336}, source="the release's own table"),
    patients_of="shenzhen",
    use="test: tuberculosis (probe)",
    reference_split="by image, stratified, seed 42: 20 % test, then 15 % of the rest val",
    usual_splits={"train": 449, "val": 80, "test": 133},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read shenzhen_metadata.csv.

    Raises:
        PacxError: the folder is not the release, or a file's name contradicts the table.
    """
    root = find_root(root, name="tb-shenzhen", needs=CARD.files)
    path = root / "shenzhen_metadata.csv"
    source = unique_rows(path, read_table(path, columns=["study_id", "sex", "age", "findings"]), ["study_id"])
    name = source["study_id"].astype(str)
    label = (source["findings"].astype(str).str.strip().str.lower() != "normal").astype(np.float64)
    told = name.str.extract(r"_([01])(?:\.png)?$")[0].astype(np.float64)
    wrong = name[told.notna() & (told != label)].tolist()
    if wrong:
        raise PacxError(
            f"{path} contradicts the names of {len(wrong)} files ({', '.join(wrong[:3])}), which end in 0 for normal "
            "and 1 for abnormal. Give the table as it was published."
        )
    file = name.where(name.str.endswith(".png"), name + ".png")
    table = pd.DataFrame(
        {
            "image_id": file.str.removesuffix(".png"),
            "path": places_of(root, file.tolist()),
            "patient_id": file.str.removesuffix(".png"),
            "age": parse_age(source["age"]),
            "sex": source["sex"].astype(str).str.strip().str[:1].str.upper().where(lambda sex: sex.isin(["F", "M"])),
            "tuberculosis": label,
        }
    )
    if options.split == "reference":
        table["split"] = reference_split(table, test=_TEST, val=_VAL, stratify=label)
    else:
        shares = ((1 - _TEST) * (1 - _VAL), (1 - _TEST) * _VAL, _TEST)
        table["split"] = split_patients(table, fractions=shares, seed=options.seed, stratify="tuberculosis")
    return Manifest(
        "tb-shenzhen",
        table,
        tasks={"tuberculosis": Task("tuberculosis", ("tuberculosis",), "binary", "finding", "finding is not normal")},
        about="chest X-rays with and without tuberculosis",
        root=root,
    )
