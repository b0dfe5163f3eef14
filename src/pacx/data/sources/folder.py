"""Every image below a folder, without labels: for pre-training, and for embedding one's own images.

Every file counts as an image unless its name says that it is something else (a table, a text, an archive) or is
hidden; the content decides when it is read, and what is no image ends in `rejects.csv`. So DICOM files without any
suffix are found.

Who is the same patient decides about leaks between the splits. `patient_from=file` takes each file for a patient of
its own; with several images per patient put them in one folder per patient and use `patient_from=folder`, or
`patient_from=top-folder` where that folder has others inside (CheXpert: patient00001/study1/view1_frontal.jpg).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.sources import Options
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["OPTIONS", "find_images", "read"]

OPTIONS = ("patient_from", "patients_of", "split_fractions", "seed")

# fmt: off
_OTHER = frozenset({
    ".7z", ".bz2", ".cfg", ".ckpt", ".csv", ".dat", ".db", ".doc", ".docx", ".exe", ".gz", ".h5", ".hea", ".htm",
    ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy", ".npz", ".onnx", ".parquet", ".pdf", ".pt",
    ".pth", ".py", ".rst", ".safetensors", ".sh", ".sqlite", ".tar", ".tgz", ".toml", ".tsv", ".txt", ".xls", ".xlsx",
    ".xml", ".xz", ".yaml", ".yml", ".zip",
})
# fmt: on
log = logging.getLogger("pacx")


def read(root: Path, *, options: Options) -> Manifest:
    """List the images below `root`; image ids are paths relative to it.

    Raises:
        PacxError: the root is not a folder, cannot be listed, holds no image, or is or holds a store.
    """
    images = find_images(root)
    relative = [file.relative_to(root) for file in images]
    if options.patient_from == "file":
        log.warning(
            "folder: each of the %d files counts as a patient of its own. If some show the same patient, training and "
            "test will share patients: use --patient-from folder, or the source `table` with a patient column.",
            len(images),
        )
    table = pd.DataFrame(
        {
            "image_id": [path.as_posix() for path in relative],
            "path": [path.as_posix() for path in relative],
            "patient_id": [_patient(path, options.patient_from) for path in relative],
        }
    )
    table["split"] = split_patients(table, fractions=options.split_fractions, seed=options.seed)
    return Manifest(root.resolve().name, table, root=root, about=f"every image below the folder {root.resolve().name}")


def find_images(root: Path) -> list[Path]:
    """List the files below a folder that are images or whose names do not say that they are something else.

    Raises:
        PacxError: the root is not a folder, cannot be listed, holds no image, or is or holds a store.
    """
    if not root.is_dir():
        raise PacxError(f"{root} is not a folder. For a table of image paths use the source `table`.")
    files = _list(root)
    images = [file for file in files if file.suffix.lower() not in _OTHER and file.name != "DICOMDIR"]
    if not images:
        found = f"{len(files)} files, none of which can be an image by its name" if files else "no files"
        raise PacxError(f"{root} holds {found}. Give a folder with DICOM, PNG, JPEG or TIFF files, at any depth.")
    if len(images) < len(files):
        log.info("folder: left out %d files that are not images by their names", len(files) - len(images))
    return images


def _patient(relative: Path, patient_from: str) -> str:
    if patient_from == "top-folder":
        return relative.parts[0]
    return (relative.parent if patient_from == "folder" else relative).as_posix()


def _list(root: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise PacxError(f"{error.filename} cannot be listed ({error.strerror}). Make it readable, or move it away.")

    files = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        _refuse_store(Path(folder), names)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _refuse_store(folder: Path, names: list[str]) -> None:
    """Refuse a store: its images are rows of an array, and the pictures beside it are figures."""
    if {"meta.json", "manifest.parquet"} <= set(names):
        raise PacxError(
            f"{folder} is a store of pacx, no folder of files: its images are rows of an array. `pacx probe`, `align` "
            "and `explain --store` read stores, and `pacx store merge` joins them. Give the files that it was made of; "
            f"commands that take images also take single ones of it, as {folder / 'images.npy'}::0."
        )
