"""What the sources of public data sets have in common: find the right folder, read a table, check that files are there.

Every message says what was found, what is allowed and what to do; a source's own module only says what is special
about its data set.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.array_rows import split_row
from pacx.data.manifest import Manifest
from pacx.errors import PacxError

__all__ = [
    "SIMULATED_LICENSE",
    "check_columns",
    "check_part",
    "drop_missing_files",
    "find_root",
    "images_below",
    "is_simulated",
    "one_of",
    "places_of",
    "read_table",
    "unique_rows",
]

log = logging.getLogger("pacx")

_SHOWN = 5
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp"})
_NOTICES = ("SIMULATED.txt", "LICENSE.txt")
"""one of them lies in a miniature that `pacx simulate` makes, and begins with the word"""
SIMULATED_LICENSE = "Apache-2.0 (simulated by pacx)"


def find_root(root: Path, *, name: str, needs: Sequence[str]) -> Path:
    """Return the root if all that is needed lies in it, and name the right folder if it is near.

    Args:
        root: what the user gave.
        name: the data set, for messages.
        needs: glob patterns relative to the root, e.g. "images_*/images/*.png"; of "a|b" one is enough.

    Raises:
        PacxError: something is missing; says what, and which folder nearby has it all.
    """
    if root.is_file() and zipfile.is_zipfile(root):
        raise PacxError(f"{root} is a zip file. Unpack it first and give the folder: pacx prepare {name} FOLDER.")
    if not root.is_dir():
        raise PacxError(f"{root} is not a folder. Give the folder of {name}, with {', '.join(needs)} in it.")
    missing = _missing(root, needs)
    if not missing:
        return root
    right = next((folder for folder in _nearby(root) if not _missing(folder, needs)), None)
    packed = sorted(path.name for path in root.iterdir() if path.suffix in {".zip", ".tar", ".gz", ".tgz"})
    if right is not None:
        hint = f"Give {right} instead."
    elif packed:
        hint = f"There are packed files in it ({_some(packed)}): unpack them first."
    else:
        hint = f"Give the folder that holds {', '.join(needs)}."
    raise PacxError(f"{root} is not the root of {name}: {_some(missing)} is not in it. {hint}")


def _missing(folder: Path, needs: Sequence[str]) -> list[str]:
    return [
        need for need in needs if not any(next(folder.glob(choice), None) is not None for choice in need.split("|"))
    ]


def _nearby(root: Path) -> list[Path]:
    """Folders one and two levels up, and one and two levels down."""
    below = sorted(path for path in root.iterdir() if path.is_dir())
    deeper = [path for folder in below[:50] for path in sorted(folder.iterdir()) if path.is_dir()]
    return [*root.absolute().parents[:2], *below, *deeper[:200]]


def one_of(root: Path, *choices: str, what: str) -> Path:
    """Return the first of several paths below the root that exists.

    Raises:
        PacxError: none does.
    """
    for choice in choices:
        found = sorted(root.glob(choice))
        if found:
            return found[0]
    raise PacxError(f"{what} is missing: {root} has none of {', '.join(choices)}. Download it, or check the root.")


def read_table(
    path: Path, *, columns: Sequence[str], text: Sequence[str] = (), separator: str = ",", names: Any = None
) -> pd.DataFrame:
    """Read a CSV of a release whole.

    Args:
        path: the file; .csv or .csv.gz.
        columns: those that it must have; others stay too.
        text: columns of ids, which stay as they are written.
        separator: between columns.
        names: column names of a file without a header.

    Raises:
        PacxError: the file is missing, is no table, ends inside a row, or lacks a column.
    """
    if not path.is_file():
        raise PacxError(f"{path} is missing. Download it, or check that the root is the right one.")
    try:
        table = pd.read_csv(path, sep=separator, low_memory=False, dtype=dict.fromkeys(text, str), names=names)
    except (OSError, EOFError, ValueError) as error:  # ValueError covers Unicode and CSV errors
        raise PacxError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}). It may be cut off; download it again."
        ) from error
    check_columns(path, table, columns)
    _check_end(path, table)
    return table


def _check_end(path: Path, table: pd.DataFrame) -> None:
    """Notice a download that broke off inside a row: pandas fills such a row up with NaN."""
    if path.suffix == ".gz" or len(table) == 0:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        tail = file.read()
    last = tail.splitlines()[-1] if tail.splitlines() else b""
    whole = tail.endswith((b"\n", b"\r"))
    if not whole and bool(table.iloc[-1].isna().to_numpy()[-1]) and not last.endswith(b","):
        raise PacxError(
            f"{path} ends inside a row ({last[:60].decode(errors='replace')!r}). It was cut off; download it again."
        )


def check_columns(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        PacxError: says which one, and which there are.
    """
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise PacxError(
            f"{path} has no column {_some(missing)}. It has: {', '.join(map(str, table.columns[:40]))}. "
            "Give the table as it was published."
        )


def unique_rows(path: Path, table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Drop rows that are there twice in all columns, with a word about it; refuse those that contradict each other.

    Raises:
        PacxError: rows of one key differ.
    """
    twice = table.duplicated()
    if twice.any():
        log.warning("%s: %d rows are there twice and were dropped", path.name, int(twice.sum()))
        table = table[~twice].reset_index(drop=True)
    clash = table.duplicated(list(key), keep=False)
    if clash.any():
        first = table.loc[clash, list(key)].astype(str).agg(" ".join, axis=1).unique().tolist()
        raise PacxError(
            f"{path} has {len(first)} entries with several rows that differ: {_some(first)}. "
            "Give the table as it was published, or remove the wrong rows."
        )
    return table


def drop_missing_files(manifest: Manifest, *, partial: bool, columns: Sequence[str] = ("path", "mask_path")) -> None:
    """Check that the files of a manifest are there; with `partial`, drop the rows of those that are not.

    Raises:
        PacxError: files are missing and `partial` is off, or none is there.
    """
    table = manifest.table
    lists: dict[Path, frozenset[str]] = {}
    there = np.ones(len(table), dtype=bool)
    for column in columns:
        if column in table:
            there &= np.array(
                [pd.isna(path) or _is_there(split_row(manifest.root / str(path))[0], lists) for path in table[column]]
            )
    if there.all():
        return
    missing = table.loc[~there, "path"].astype(str).tolist()
    what = f"{len(missing)} of {len(table)} images of {manifest.name} (or their masks) are not there: {_some(missing)}"
    if not there.any():
        raise PacxError(f"{what}. They should lie below {manifest.root}. Check the root.")
    if not partial:
        raise PacxError(
            f"{what}. They should lie below {manifest.root}. Complete the download, or pass --partial true to prepare "
            "what is there."
        )
    log.warning("%s; their rows are left out because of --partial", what)
    manifest.table = table[there].reset_index(drop=True)
    if manifest.labs is not None:
        manifest.labs = manifest.labs[manifest.labs.index.isin(manifest.table["image_id"])]


def _is_there(path: Path, lists: dict[Path, frozenset[str]]) -> bool:
    """Look a file up in the listing of its folder: one listing is cheaper than a question for each file."""
    folder = path.parent
    if folder not in lists:
        try:
            lists[folder] = frozenset(entry.name for entry in os.scandir(folder))
        except OSError:
            lists[folder] = frozenset()
    return path.name in lists[folder]


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown} and {len(items) - _SHOWN} more"


def images_below(folder: Path, pattern: str = "**/*") -> dict[str, Path]:
    """Find image files by name; hidden files and other kinds are passed over.

    Args:
        folder: where to look.
        pattern: of the files, relative to it.

    Returns:
        File name -> path, in the order of the paths.

    Raises:
        PacxError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() not in _IMAGES or path.name.startswith("."):
            continue
        if path.name in found:
            raise PacxError(
                f"Two files are called {path.name}: {found[path.name]} and {path}. The release has each name once; "
                "remove one."
            )
        found[path.name] = path
    return found


def places_of(root: Path, names: Sequence[str]) -> list[str]:
    """Find images by their names, wherever they lie below the root.

    Returns:
        Paths relative to the root with forward slashes; of images that are not there, the name.
    """
    files = images_below(root)
    return [files[name].relative_to(root).as_posix() if name in files else name for name in names]


def check_part(name: str, part: str | None, allowed: Mapping[str, str]) -> None:
    """Refuse a part that a source does not have.

    Raises:
        PacxError: names those that it has.
    """
    if part is not None and part not in allowed:
        known = "; ".join(f"{one} ({about})" for one, about in allowed.items())
        raise PacxError(f"{name} has no part {part!r}. Leave --part out for everything, or give one of: {known}.")


def is_simulated(root: Path) -> bool:
    """Say whether a folder is a miniature of simulated patients, whose ids are nobody's."""
    notices = [root / name for name in _NOTICES if (root / name).is_file()]
    return any(path.read_text(encoding="utf-8", errors="replace").startswith("Simulated") for path in notices)
