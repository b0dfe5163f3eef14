"""A simulated cohort in the form of MIMIC-CXR-JPG 2.1.0: files/ and three compressed tables.

Times of the day are written as the release writes them, without leading zeros. Findings as in the miniature of
CheXpert.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.chexpert import observed, reported
from pacx.data.phantom.miniatures.drawing import picture, save, write_notice
from pacx.data.phantom.miniatures.mimic import images_of, where

__all__ = ["write", "write_images"]


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    images = write_images(simulated, folder)
    keys = ["dicom_id", "subject_id", "study_id"]
    _write(images[[*keys, "split"]], folder, "split")
    told = reported(simulated, observed(simulated))
    labels = pd.concat([images[keys[1:]], told[sorted(told.columns)].reset_index(drop=True)], axis=1)
    _write(labels.drop_duplicates("study_id"), folder, "chexpert")
    write_notice(folder, title="MIMIC-CXR-JPG 2.1.0")


def write_images(simulated: Simulated, folder: Path) -> pd.DataFrame:
    """Write the images and the table of metadata; return the images."""
    images = images_of(simulated)
    for row, path in enumerate(where(images)):
        save(picture(simulated, row), folder / "files" / path)
    clock = [f"{int(time.strftime('%H%M%S'))}.{row % 1000:03d}" for row, time in enumerate(images["taken"])]
    size = len(picture(simulated, 0))
    _write(
        pd.DataFrame(
            {
                **{key: images[key] for key in ("dicom_id", "subject_id", "study_id")},
                "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
                "ViewPosition": images["view"],
                "Rows": size,
                "Columns": size,
                "StudyDate": images["taken"].dt.strftime("%Y%m%d"),
                "StudyTime": clock,
            }
        ),
        folder,
        "metadata",
    )
    return images


def _write(table: pd.DataFrame, folder: Path, name: str) -> None:
    # A fixed time inside the archive: the same cohort gives the same file.
    compression = {"method": "gzip", "mtime": 1}
    table.to_csv(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False, compression=compression)
