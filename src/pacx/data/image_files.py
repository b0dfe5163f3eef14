"""Which images a user means: files, folders, patterns, tables of paths, rows of arrays."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pacx.data.array_rows import split_row
from pacx.data.sources.folder import find_images
from pacx.data.sources.table import read_frame
from pacx.errors import PacxError

__all__ = ["ImageFile", "list_images"]

_TABLES = {".csv", ".tsv", ".parquet"}


class ImageFile(NamedTuple):
    """An image that is asked for."""

    image_id: str
    """the path as the user gave it, or the table's image_id"""
    path: str


def list_images(sources: Sequence[str | Path]) -> list[ImageFile]:
    """List images in the order in which they are asked for, each once.

    Args:
        sources: files (DICOM, PNG, JPEG, TIFF, whatever they are called); folders, searched to the bottom; patterns
            such as `scans/**/*.dcm`; tables (CSV, TSV, Parquet) with a column `path`, relative to the table, and
            perhaps `image_id`; rows of arrays, `FILE.npy::17`.

    Raises:
        PacxError: nothing is asked for, a source does not exist, names no image, or is a store.
    """
    if not sources:
        raise PacxError(
            "No images are given. Name files, folders, patterns such as 'scans/*.dcm', or a table of paths."
        )
    found: dict[str, ImageFile] = {}
    for source in sources:
        for image in _expand(str(source)):
            found.setdefault(image.path, image)
    return list(found.values())


def _expand(source: str) -> Iterator[ImageFile]:
    if not source.strip():
        # Path("") is the working directory, which nobody means who gives an empty variable.
        raise PacxError(f"An image is named {source!r}. Give files, folders, patterns or a table; `.` for this folder.")
    path, row = split_row(source)
    if row is not None:
        yield ImageFile(source, source)
    elif path.is_dir():
        yield from (ImageFile(file.as_posix(), str(file)) for file in find_images(path))
    elif path.suffix.lower() in _TABLES:
        yield from _of_table(path)
    elif path.exists():
        yield ImageFile(path.as_posix(), str(path))
    elif any(letter in source for letter in "*?["):
        # Path.glob takes no absolute patterns.
        files = sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())  # noqa: PTH207
        if not files:
            raise PacxError(f"No file fits the pattern {source!r}.")
        yield from (ImageFile(Path(file).as_posix(), file) for file in files)
    else:
        raise PacxError(f"{source} does not exist. Give files, folders, patterns or a table with a column `path`.")


def _of_table(path: Path) -> Iterator[ImageFile]:
    table = read_frame(path, text=("path", "image_id"))
    if "path" not in table:
        raise PacxError(f"{path} has no column `path`; its columns are {', '.join(map(str, table.columns))}.")
    if not len(table):
        raise PacxError(f"{path} has no rows. Give a table with one row per image.")
    blank = table["path"].isna() | (table["path"].astype(str).str.strip() == "")
    if blank.any():
        raise PacxError(f"{path}: row {int(blank.to_numpy().argmax())} (from 0) has no path. Fill it or drop it.")
    names = table["image_id"] if "image_id" in table else table["path"]
    for name, file in zip(names, table["path"], strict=True):
        yield ImageFile(str(file) if pd.isna(name) else str(name), str(path.parent / str(file)))
