"""One row of a NumPy file, by reference: `cxr_train.npy::17` is row 17 of that array.

Some data sets are published as arrays of many gigabytes. A manifest names their rows as it names files, and whoever
reads one gets that row alone:

* The file is never loaded: a row of 1.2 MB costs 1.2 MB, whatever the array's size and however many rows were read.
* Each process reads a file's header once, and again when the file on disk changes.
* Objects (pickles) are refused, since loading them runs code.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = ["SEPARATOR", "open_array", "read_row", "split_row"]

SEPARATOR = "::"


def split_row(reference: str | Path) -> tuple[Path, int | None]:
    """Split a reference into the file and the row; the row is None for a whole file.

    Raises:
        PacxError: what follows `.npy::` is not a row number.
    """
    text = str(reference)
    file, separator, row = text.rpartition(SEPARATOR)
    if not separator or not file.endswith(".npy"):
        return Path(text), None
    if not (row.isascii() and row.isdigit()):
        raise PacxError(f"{text}: {row!r} is no row number. Write FILE.npy{SEPARATOR}17 for row 17, counted from 0.")
    return Path(file), int(row)


def read_row(path: Path, row: int) -> NDArray[Any]:
    """Copy one row out of an array file.

    Args:
        path: a `.npy` file of shape (N, ...).
        row: 0 to N - 1.

    Returns:
        The row, shape (...), in the file's type and the machine's byte order.

    Raises:
        PacxError: see `open_array`; or there is no such row.
    """
    array = open_array(path)
    if array.ndim == 0 or not 0 <= row < len(array):
        rows = f"rows 0 to {len(array) - 1}" if array.ndim and len(array) else "no rows"
        raise PacxError(f"{path} has {rows} (shape {array.shape}); row {row} is asked for.")
    native = array.dtype.newbyteorder("=")
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        # Read, not copied out of the map: pages of a map stay with the process, up to the size of the whole file.
        start = array.offset + row * array.strides[0]
        values = np.fromfile(path, array.dtype, count=math.prod(array.shape[1:]), offset=start)
        return values.reshape(array.shape[1:]).astype(native, copy=False)
    return np.array(array[row], dtype=native)


def open_array(path: Path) -> NDArray[Any]:
    """Memory-map an array file, read-only; a file that was opened before is not opened again.

    Raises:
        PacxError: the file is absent, shorter than its header says, not a `.npy` file, or holds Python objects.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise PacxError(f"{path} cannot be opened ({error.strerror}).") from error
    return _open(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _open(path: Path, changed: int, size: int) -> NDArray[Any]:
    """Open a file, once for each state of it on disk (`changed` only makes another key)."""
    try:
        # A memory map refuses objects and files that end too early, both before anything is read.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise PacxError(f"{path} cannot be used: {_reason(path, str(error), size)}") from error
    return array


def _reason(path: Path, message: str, size: int) -> str:
    if "Python objects" in message:
        return "it holds Python objects; pacx reads numbers only, since loading objects can run code."
    if "length is greater" in message or "EOF" in message:
        return f"it is cut off ({size:,} bytes, fewer than its header announces). Copy or download {path.name} again."
    if "magic string" in message:
        return "it is not a .npy file, whatever its name says."
    return " ".join(message.split())
