"""Arrays with one row per row of a store, computed when asked for and kept on disk.

    CACHE/<kind>-<key>/
      NAME.npy    float16 (N, ...), memory-mapped, row i belongs to store row i; sparse where nothing is there yet
      NAME.rest.npy   where it was asked for: float16, what rounding took away
      scales.npz  centre and scale of each array (`pacx.frozen.half`), from the first rows of the store
      done.npy    bool (N,), which rows are there
      meta.json   what the key stands for

* The key hashes whatever could change a value, so a cache is never stale; a change of layout is another key too.
* A folder appears whole or not at all, with its scales in it: these depend on the store and not on which rows were
  asked for first, and two processes cannot disagree about them.
* Rows are added as they are asked for; `done.npy` is written after the rows that it vouches for, so an interrupted run
  goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from pacx.errors import PacxError
from pacx.frozen.half import HalfScale
from pacx.runs import write_json

__all__ = ["CACHE_VARIABLE", "Compute", "KeptRows", "Rows", "feature_cache", "keep", "row_bytes"]

Rows = NDArray[np.int64]
Compute = Callable[[Rows], Mapping[str, NDArray[np.float32]]]
"""makes the values of some rows: by name of the array, float32 (n, ...)"""

CACHE_VARIABLE = "PACX_CACHE"
_VERSION = 2
_ROWS_BETWEEN_SAVES = 2048


def feature_cache(out: Path) -> Path:
    """Return the folder for what is kept: $PACX_CACHE, or `.features` beside the run folder `out`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(out).absolute().parent / ".features"


class KeptRows:
    """The rows of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: NDArray[np.bool_] = np.load(folder / "done.npy", allow_pickle=False)
        with np.load(folder / "scales.npz", allow_pickle=False) as scales:
            names = {key.partition(".")[0] for key in scales.files}
            self._scales = {name: HalfScale(scales[f"{name}.centre"], scales[f"{name}.scale"]) for name in names}
        self._halves = {name: _readable(folder, name) for name in names}
        self._rests = {name: _readable(folder, _rest(name)) for name in names if _file(folder, _rest(name)).is_file()}

    def read(self, name: str, rows: ArrayLike, *, exact: bool = False) -> NDArray[np.float32]:
        """Return rows of one array, float32 (n, ...), if exact with their remainders; they must have been filled."""
        wanted = np.asarray(rows, dtype=np.int64)
        assert self.done[wanted].all(), "rows are filled before they are read"
        rest = self._rests[name][wanted] if exact else None
        return self._scales[name].unpack(self._halves[name][wanted], rest)

    def fill(self, rows: Rows, compute: Compute, *, batch_size: int) -> None:
        """Compute rows that are not there yet."""
        assert batch_size > 0, "or rows would count as done that nobody computed"
        missing = np.unique(rows[~self.done[rows]])
        with tqdm(total=len(missing), desc="features", unit="image", leave=False, disable=None) as progress:
            for start in range(0, len(missing), _ROWS_BETWEEN_SAVES):
                part = missing[start : start + _ROWS_BETWEEN_SAVES]
                arrays = {name: _writable(self.folder, name) for name in (*self._scales, *map(_rest, self._rests))}
                for first in range(0, len(part), batch_size):
                    batch = part[first : first + batch_size]
                    for name, values in compute(batch).items():
                        _write(arrays, name, batch, values, self._scales[name])
                    progress.update(len(batch))
                for array in arrays.values():
                    array.flush()
                self.done[part] = True
                self._save_done()

    def _save_done(self) -> None:
        temporary = self.folder / f".done.{os.getpid()}.npy"
        np.save(temporary, self.done)
        temporary.replace(self.folder / "done.npy")


def keep(
    cache: Path,
    kind: str,
    *,
    facts: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    num_rows: int,
    reference: Rows,
    rows: Rows,
    compute: Compute,
    batch_size: int,
    remainders: bool = False,
) -> KeptRows:
    """Find or make the folder of some facts, and fill in the rows that are asked for.

    Args:
        cache: the folder that holds all of them; made if absent.
        kind: what is kept, the first word of the folder's name.
        facts: all that the values depend on, as JSON types.
        shapes: the arrays by name, each with the shape of one row.
        num_rows: rows of the store, N.
        reference: the rows that set centre and scale; the same for the same facts. They are filled too.
        rows: (n,) the rows that must be there in the end.
        compute: makes the values of some rows.
        batch_size: rows per call of `compute`.
        remainders: whether what rounding takes away is kept too, so that `read` can be exact; twice the space.

    Raises:
        PacxError: the cache cannot be written, there is no space for these rows, or a value is not finite.
    """
    facts = {"version": _VERSION, **facts, **({"remainders": True} if remainders else {})}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    folder = Path(cache) / f"{kind}-{key[:24]}"
    new = not (folder / "meta.json").is_file()
    done = np.zeros(num_rows, dtype=bool) if new else KeptRows(folder).done
    wanted = np.union1d(rows, reference) if new else np.unique(rows)
    num_missing = int(np.count_nonzero(~done[wanted]))
    if num_missing:  # a cache in which all is there need not be writable
        _check_space(Path(cache), num_missing * row_bytes(shapes) * (2 if remainders else 1))
    if new:
        batches = [compute(reference[first : first + batch_size]) for first in range(0, len(reference), batch_size)]
        values = {name: np.concatenate([batch[name] for batch in batches]) for name in shapes}
        _make_folder(folder, facts, num_rows=num_rows, reference=reference, values=values, remainders=remainders)
    kept = KeptRows(folder)
    kept.fill(wanted, compute, batch_size=batch_size)
    return kept


def row_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return what one row takes on disk, without remainders."""
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _make_folder(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    num_rows: int,
    reference: Rows,
    values: Mapping[str, NDArray[np.float32]],
    remainders: bool,
) -> None:
    """Make a folder with its scales and the reference rows in it."""
    filling = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        scales: dict[str, NDArray[np.float32]] = {}
        for name, rows in values.items():
            own = HalfScale.of(rows)
            names = (name, _rest(name)) if remainders else (name,)
            arrays = {one: _writable(filling, one, shape=(num_rows, *rows.shape[1:])) for one in names}
            _write(arrays, name, reference, rows, own)
            for array in arrays.values():
                array.flush()
            scales |= {f"{name}.{part}": value for part, value in own._asdict().items()}
        np.savez(filling / "scales.npz", **scales)  # type: ignore[arg-type]
        np.save(filling / "done.npy", np.isin(np.arange(num_rows), reference))
        write_json(filling / "meta.json", facts)
        filling.chmod(0o755)
        filling.rename(folder)
    except OSError as error:
        if not (folder / "meta.json").is_file():  # otherwise another process made it meanwhile
            raise PacxError(f"The feature cache {folder.parent} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _writable(folder: Path, name: str, *, shape: tuple[int, ...] | None = None) -> np.memmap[Any, Any]:
    """Map an array for writing; with a shape, make it, which takes no space until it is filled."""
    if shape is None:
        return np.lib.format.open_memmap(_file(folder, name), mode="r+")
    return np.lib.format.open_memmap(_file(folder, name), mode="w+", dtype=np.float16, shape=shape)


def _readable(folder: Path, name: str) -> NDArray[np.float16]:
    array: NDArray[np.float16] = np.load(_file(folder, name), mmap_mode="r", allow_pickle=False)
    return array


def _write(
    arrays: Mapping[str, NDArray[np.float16]], name: str, rows: Rows, values: NDArray[np.float32], scale: HalfScale
) -> None:
    """Round rows into their array, and what rounding takes away into the one beside it, if there is one."""
    half = scale.pack(values)
    arrays[name][rows] = half
    if _rest(name) in arrays:
        arrays[_rest(name)][rows] = scale.remainder(values, half)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _rest(name: str) -> str:
    return f"{name}.rest"


def _check_space(cache: Path, needed: int) -> None:
    """Refuse early: writing to a memory map on a full disk would end the process without a message."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix=".probe-"):
            free = shutil.disk_usage(cache).free
    except OSError as error:
        raise PacxError(
            f"The feature cache {cache} cannot be written ({error.strerror}). Set {CACHE_VARIABLE} to another folder."
        ) from error
    if free < needed:
        raise PacxError(
            f"The features need {needed / 1e9:.2f} GB in {cache}, where {free / 1e9:.2f} GB are free. "
            f"Free some space or set {CACHE_VARIABLE} to a folder on another disk."
        )
