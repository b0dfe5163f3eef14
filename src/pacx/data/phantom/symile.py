"""A simulated cohort in the form of Symile-MIMIC 1.0.0: the same files, shapes, types and value ranges, no patients.

    train.csv val.csv val_retrieval.csv test.csv symile_mimic_data.csv labs_means.json LICENSE.txt SHA256SUMS.txt
    data_npy/{train,val,val_retrieval,test}/
      cxr_SPLIT.npy               float32 (N, 3, 320, 320)  gray, three times, normalised with ImageNet's mean and std
      ecg_SPLIT.npy               float32 (N, 1, 5000, 12)  time x lead, MIMIC's order, record stretched to [-1, 1]
      labs_percentiles_SPLIT.npy  float32 (N, 50)           items ascending; training mean where not measured
      labs_missingness_SPLIT.npy  int64 (N, 50)             1 = measured
      hadm_id_SPLIT.npy           int64 (N,)                and label_hadm_id, label in val_retrieval and test

Known differences from the release: no model checkpoint and no code; `symile_mimic_data.csv` has only some of its
columns, in an order of our own; X-rays are square from the start, so nothing is cropped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.array_images import IMAGENET_MEAN, IMAGENET_STD
from pacx.data.labs import PANEL
from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import LAST, Simulated
from pacx.data.phantom.symile_tables import CANDIDATES, CSV_ITEMS, make_tables
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.preprocess import fit_square
from pacx.runs import write_json, write_text

__all__ = ["LICENSE", "check", "write"]

_EDGE = 320
_MIMIC_LEADS = [0, 1, 2, 3, 5, 4, *range(6, 12)]  # aVF before aVL
_BYTES_PER_ROW = 4 * (3 * _EDGE**2 + 5000 * 12) + 12 * 50 + 24
_CANDIDATE_SPLITS = ("val_retrieval", "test")

LICENSE = """Simulated data in the form of Symile-MIMIC 1.0.0, made by pacx. No patient, no MIMIC data. Apache-2.0.

Every X-ray, ECG, laboratory value and id in this folder was drawn by `pacx simulate`. Nothing that is measured on it
says anything about Symile-MIMIC or about patients.
"""


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort that the release's files cannot hold.

    Raises:
        PacxError: a modality is missing, a split has too few admissions, or the disk is too small.
    """
    for name, allowed in {"ecg": True, "labs": True, "missing_ecg": 0, "missing_labs": 0}.items():
        if config[name] != allowed:
            raise PacxError(
                f"--{name} {config[name]} does not go with --format symile-mimic: every admission there has an X-ray, "
                f"an ECG and labs. Leave --{name} out; single labs are missing anyway."
            )
    counts = manifest.table["split"].value_counts()
    num = {split: int(counts.get(split, 0)) for split in ("train", "val", "test")}
    if num["train"] < 1 or min(num["val"], num["test"]) < 2:
        raise PacxError(
            f"{config['patients']} patients give {num['train']} training, {num['val']} validation and {num['test']} "
            "test admissions; a release needs 1, 2 and 2: a query has a distractor. Give more --patients, e.g. 20."
        )
    rows = num["train"] + num["val"] + CANDIDATES * (num["val"] + num["test"])
    folder = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < rows * _BYTES_PER_ROW:
        raise PacxError(
            f"The release would take {rows * _BYTES_PER_ROW / 1e9:.1f} GB ({rows} rows of 320 px in 32-bit floats); "
            f"{free / 1e9:.1f} GB are free at {folder}. Give fewer --patients, or another --out."
        )


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    tables = make_tables(simulated)
    means = tables["train"][[f"{item}_percentile" for item in CSV_ITEMS]].mean()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        if name != "symile_mimic_data":
            _write_arrays(folder / "data_npy" / name, name, table, simulated.store, means)
    write_json(folder / "labs_means.json", means.to_dict())
    write_text(folder / "LICENSE.txt", LICENSE)
    write_text(folder / LAST, "".join(_checksums(folder)))


def _write_arrays(folder: Path, split: str, table: pd.DataFrame, store: Store, means: pd.Series) -> None:
    folder.mkdir(parents=True)
    rows = table.index.to_numpy()
    _write_rows(folder / f"cxr_{split}.npy", rows, (3, _EDGE, _EDGE), lambda row: _image(store, row))
    _write_rows(folder / f"ecg_{split}.npy", rows, (1, 5000, 12), lambda row: _ecg(store, row))
    items = [str(lab.item_id) for lab in PANEL]
    ranks = table[[f"{item}_percentile" for item in items]]
    filled = ranks.fillna(means).fillna(0.5)  # one half for a lab that no training row has
    np.save(folder / f"labs_percentiles_{split}.npy", filled.to_numpy(dtype=np.float32))
    np.save(folder / f"labs_missingness_{split}.npy", table[items].notna().to_numpy(dtype=np.int64))
    for column in ("hadm_id", *(("label_hadm_id", "label") if split in _CANDIDATE_SPLITS else ())):
        np.save(folder / f"{column}_{split}.npy", table[column].to_numpy(dtype=np.int64))


def _write_rows(
    path: Path, rows: NDArray[np.int64], shape: tuple[int, ...], make: Callable[[int], NDArray[np.float32]]
) -> None:
    """Write an array row by row, so that it never is in memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            values = make(int(row))
            assert values.shape == shape
            file.write(values.astype("<f4").tobytes())


def _image(store: Store, row: int) -> NDArray[np.float32]:
    assert store.images is not None
    gray = store.images[row].astype(np.float32) / np.float32(255)
    square = gray if len(gray) == _EDGE else fit_square(gray, _EDGE)
    mean, std = (np.asarray(value, dtype=np.float32)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    normalised: NDArray[np.float32] = (square - mean) / std
    return normalised


def _ecg(store: Store, row: int) -> NDArray[np.float32]:
    assert store.ecg is not None
    leads = np.asarray(store.ecg[row], dtype=np.float32)[_MIMIC_LEADS]
    low, high = leads.min(), leads.max()
    stretched: NDArray[np.float32] = 2 * (leads - low) / (high - low) - 1
    return stretched.T[None]


def _checksums(folder: Path) -> Iterator[str]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield f"{digest} {path.relative_to(folder).as_posix()}\n"
