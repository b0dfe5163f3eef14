"""A simulated cohort in the form of VinDr-CXR 1.0.0 on PhysioNet: DICOM files and tables of image labels.

    annotations/image_labels_train.csv   three readers per image, "Other diseases"
    annotations/image_labels_test.csv    one row per image, "Other disease"
    train/IMAGE_ID.dicom   test/IMAGE_ID.dicom   every third MONOCHROME1
    png/train/IMAGE_ID.png  png/test/IMAGE_ID.png   the same as the PNG mirror has them, without tables

The cohort's test patients are the test images. Each reader sees the truth through an error of his own; readings that
the simulated state says nothing of are drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import hex_name, overt, picture, save, write_notice

__all__ = ["READINGS", "write"]

READINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation",
    "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
    "Other diseases", "No finding",
)  # fmt: skip
_RULES = {
    "Cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "Aortic enlargement": (lambda t: t["lv_hypertrophy"], 0.8),
    "Pleural effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.2),
    "Edema": (lambda t: t["congestion"], 1.2),
    "Pneumonia": (lambda t: t["infection"], 1.2),
    "Infiltration": (lambda t: t["infection"], 0.9),
    "Nodule/Mass": (lambda t: 2.0 * t["nodule"], 1.0),
    "COPD": (lambda t: t["hyperinflation"], 1.2),
    "Emphysema": (lambda t: t["hyperinflation"], 1.4),
    "Rib fracture": (lambda t: 2.0 * t["rib_fracture"], 1.0),
}
_MISREAD, _AT_RANDOM, _READERS = 0.05, 0.08, 3


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    seen = simulated.store.manifest
    rng = random_stream("vindr", simulated.seed)
    truth = overt(simulated, _RULES)
    others = [name for name in READINGS[:-1] if name not in truth]
    truth = truth.assign(**{name: rng.binomial(1, _AT_RANDOM, len(seen)) for name in others})
    names = [hex_name(f"{simulated.seed}:{one}", 32) for one in seen["image_id"]]
    tests = (seen["split"] == "test").to_numpy()
    for row, name in enumerate(names):
        place = f"{'test' if tests[row] else 'train'}/{name}"
        pixels = picture(simulated, row)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_dicom(pixels, folder / f"{place}.dicom", inverted=row % 3 == 2)
        save(pixels, folder / "png" / f"{place}.png")
    (folder / "annotations").mkdir()
    test = _complete(truth[tests]).rename(columns={"Other diseases": "Other disease"})
    test.insert(0, "image_id", np.array(names)[tests])
    test.to_csv(folder / "annotations" / "image_labels_test.csv", index=False)
    readings = [_reading(truth, names, int(row), rng) for row in np.flatnonzero(~tests)]
    pd.concat(readings).to_csv(folder / "annotations" / "image_labels_train.csv", index=False)
    write_notice(folder, title="VinDr-CXR 1.0.0")


def _complete(truth: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the tables, with `No finding`."""
    return truth.assign(**{"No finding": (truth.sum(axis=1) == 0).astype(np.int64)})[list(READINGS)]


def _reading(truth: pd.DataFrame, names: list[str], row: int, rng: np.random.Generator) -> pd.DataFrame:
    wrong = rng.uniform(size=(_READERS, truth.shape[1])) < _MISREAD
    read = pd.DataFrame(truth.iloc[row].to_numpy() ^ wrong, columns=truth.columns)
    table = _complete(read.astype(np.int64))
    table.insert(0, "rad_id", [f"R{1 + (row + reader) % 17}" for reader in range(_READERS)])
    table.insert(0, "image_id", names[row])
    return table


def write_dicom(pixels: NDArray[np.uint8], path: Path, *, inverted: bool) -> None:
    """Write 12-bit DICOM without any name or date; `inverted` as MONOCHROME1, where 0 is white."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    content.Modality = "DX"
    content.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    content.Rows, content.Columns = pixels.shape
    content.SamplesPerPixel, content.BitsAllocated, content.BitsStored, content.HighBit = 1, 16, 12, 11
    content.PixelRepresentation = 0
    levels = np.rint(pixels.astype(np.float64) * (4095 / 255)).astype("<u2")
    content.PixelData = (4095 - levels if inverted else levels).astype("<u2").tobytes()
    pydicom.dcmwrite(path, content, enforce_file_format=True)
