"""The unfinished store: which arrays it will hold, and where it keeps them until it is finished.

`STORE/.partial/` holds one array file per modality with one fixed slot per row, two state files with one byte per
row (`done.npy`: todo, written or rejected; `has.npy`: which modalities the row has), and `plan.json`, written last,
which fixes the layout.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pacx.errors import PacxError
from pacx.preprocess import Geometry
from pacx.runs import write_json

__all__ = [
    "ECG_SHAPE",
    "REJECT_LINES",
    "STEP_LINES",
    "STORE_VERSION",
    "Plan",
    "allocate",
    "check_space",
    "full_disk_is_a_user_error",
    "make_array",
    "read_plan",
]

STORE_VERSION = 1

ECG_SHAPE = (12, 5000)
"""leads x samples: 10 s at 500 Hz"""

REJECT_LINES = "reject-lines.csv"
"""row, file, reason of every file that cannot be used, appended by all processes in any order"""

STEP_LINES = "step-lines.csv"
"""row and step of everything that a reader did to a row's ECG or found odd in it, likewise"""

_RESERVE_BYTES = 16 * 1024**2  # for the tables and meta beside the arrays


@dataclass(frozen=True)
class Plan:
    """What the arrays of an unfinished store look like; must not change before it is finished."""

    name: str
    num_rows: int
    image_size: int | None
    geometry: Geometry
    mask_names: tuple[str, ...]
    ecg: bool
    fingerprint: str
    """identifies the rows, so that an unfinished store is only continued with the same ones"""

    def arrays(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Return file name -> (shape, dtype) of the arrays that the finished store keeps."""
        files: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {}
        if self.image_size is not None:
            files["images.npy"] = ((self.num_rows, self.image_size, self.image_size), np.uint8)
            if self.mask_names:
                files["masks.npy"] = ((self.num_rows, self.image_size, self.image_size), np.uint8)
        if self.ecg:
            files["ecg.npy"] = ((self.num_rows, *ECG_SHAPE), np.float16)
        return files

    def states(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Return file name -> (shape, dtype) of the state files, which never leave `.partial/`."""
        return {"done.npy": ((self.num_rows,), np.uint8), "has.npy": ((self.num_rows,), np.uint8)}

    def num_bytes(self) -> int:
        """Return the space that all files together need."""
        files = {**self.arrays(), **self.states()}
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in files.values())


def allocate(partial: Path, plan: Plan) -> None:
    """Make the empty arrays of a plan, or continue with those that an earlier process left.

    Raises:
        PacxError: too little free space, or an unfinished store of another plan is in the way.
    """
    if (partial / "plan.json").is_file():
        _check_same(read_plan(partial), plan, store=partial.parent)
        return
    if (partial.parent / "meta.json").is_file():
        raise PacxError(
            f"{partial.parent} already holds a finished store. Choose another --out, or delete that folder."
        )
    if plan.num_rows < 1:
        raise ValueError("a store needs at least one row")
    with full_disk_is_a_user_error(partial.parent):
        partial.mkdir(parents=True, exist_ok=True)
        check_space(partial, plan.num_bytes())
        for file, (shape, dtype) in {**plan.arrays(), **plan.states()}.items():
            make_array(partial / file, shape, dtype)
        write_json(partial / "plan.json", plan)


def read_plan(partial: Path) -> Plan:
    """Read the plan of an unfinished store."""
    content = json.loads((partial / "plan.json").read_text(encoding="utf-8"))
    return Plan(**{**content, "mask_names": tuple(content["mask_names"])})


def make_array(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """Make an `.npy` file of zeros that takes no space until it is written to."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        PacxError: the free space is too small; says how much is needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _RESERVE_BYTES:
        raise PacxError(
            f"The store needs {num_bytes / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free at {folder.parent}. "
            "Free some space, choose a smaller --size, or write to another disk with --out."
        )


@contextmanager
def full_disk_is_a_user_error(store: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a message."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise PacxError(
            f"The disk of {store} is full ({error.strerror}). Nothing there counts as finished; free some space and "
            "run the same command again: it goes on where it stopped."
        ) from error


def _check_same(old: Plan, new: Plan, *, store: Path) -> None:
    differing = [key for key, value in asdict(new).items() if asdict(old)[key] != value]
    if differing:
        raise PacxError(
            f"{store} holds an unfinished store that was begun with other settings "
            f"(different: {', '.join(differing)}). "
            "Run the first command again to finish it, delete the folder, or choose another --out."
        )
