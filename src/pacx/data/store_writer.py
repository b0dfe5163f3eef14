"""Write a store: many processes, one folder, and a kill at any moment costs nothing that was done.

* A row's state byte is set after its data, so a row marked as written is whole; the next run leaves it alone.
* Rows are written with `pwrite`, not through a memory map: a full disk is then an error with a message, where a
  memory map would end the process with a bus error.
* `finish` makes the store of it. Until then the folder has no `meta.json` and nobody can take it for a store.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pacx.data.manifest import Manifest
from pacx.data.shards import Shard
from pacx.data.store_finish import finish_store
from pacx.data.store_plan import (
    ECG_SHAPE,
    REJECT_LINES,
    STEP_LINES,
    Plan,
    allocate,
    full_disk_is_a_user_error,
    read_plan,
)
from pacx.preprocess import Geometry

__all__ = ["StoreWriter"]

_TODO, _WRITTEN, _REJECTED = 0, 1, 2
_HAS_IMAGE, _HAS_MASK, _HAS_ECG = 1, 2, 4


class StoreWriter:
    """Fill a store row by row, from one process or many; make it again after a crash to go on.

    One process makes the writer; others use `StoreWriter.attach(path)`. Each row is written by one process.

    Args:
        path: the store folder; made if absent. An unfinished store in it is continued.
        name: the data set's name.
        num_rows: rows of the manifest that `finish` will get, in the same order.
        image_size: edge of the square images in pixels; None for a store without images.
        geometry: how images were made square, kept for `Store.preprocess`.
        mask_names: at most 8 masks per image, stored as bits in this order.
        ecg: the store holds ECGs.
        fingerprint: identifies the rows and how they are made (e.g. a hash of ids, files, seed), so that an
            unfinished store is only continued with the same ones.

    Raises:
        PacxError: too little free space, or an unfinished store with other settings is in the way.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        num_rows: int,
        image_size: int | None = None,
        geometry: Geometry = "squash",
        mask_names: Sequence[str] = (),
        ecg: bool = False,
        fingerprint: str = "",
    ) -> None:
        if len(mask_names) > 8 or (mask_names and image_size is None):
            raise ValueError("a store holds at most 8 masks per image, and masks only beside images")
        plan = Plan(name, num_rows, image_size, geometry, tuple(mask_names), ecg, fingerprint)
        allocate(Path(path) / ".partial", plan)
        self._open(Path(path))

    @classmethod
    def attach(cls, path: Path) -> StoreWriter:
        """Open the unfinished store in `path` from another process."""
        writer = cls.__new__(cls)
        writer._open(Path(path))
        return writer

    def _open(self, path: Path) -> None:
        self.path = path
        self._partial = path / ".partial"
        self._plan = read_plan(self._partial)
        self._files: dict[str, tuple[int, int]] = {}

    def write(
        self,
        row: int,
        *,
        image: npt.NDArray[Any] | None = None,
        masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        ecg: npt.NDArray[Any] | None = None,
    ) -> None:
        """Write one row; what is None counts as absent for this row.

        Args:
            row: position in the manifest.
            image: (S, S), uint8, or float in [0, 1] (rounded to 1/255).
            masks: one boolean (S, S) array for every mask name of the store.
            ecg: (12, 5000) in mV at 500 Hz, leads in the order of `pacx.data.ecg.LEADS`; kept as float16.

        Raises:
            PacxError: the disk is full.
        """
        has = 0
        with full_disk_is_a_user_error(self.path):
            if image is not None:
                self._put("images.npy", row, _as_bytes(image))
                has |= _HAS_IMAGE
            if masks is not None:
                self._put("masks.npy", row, _pack_masks(masks, self._plan.mask_names))
                has |= _HAS_MASK
            if ecg is not None:
                self._put("ecg.npy", row, np.asarray(ecg, dtype=np.float16))
                has |= _HAS_ECG
            elif self._plan.ecg:
                self._put("ecg.npy", row, np.full(ECG_SHAPE, np.nan, dtype=np.float16))
            self._put("has.npy", row, np.array(has, dtype=np.uint8))
            self._put("done.npy", row, np.array(_WRITTEN, dtype=np.uint8))

    def reject(self, row: int, *, file: str, reason: str) -> None:
        """Leave a row out of the store and say why in `rejects.csv`."""
        self._append(REJECT_LINES, row, file, reason)
        with full_disk_is_a_user_error(self.path):
            self._put("done.npy", row, np.array(_REJECTED, dtype=np.uint8))

    def lose(self, row: int, *, file: str, reason: str) -> None:
        """Note in `rejects.csv` that a row stays without one of its modalities; write the row afterwards."""
        self._append(REJECT_LINES, row, file, reason)

    def note_steps(self, row: int, steps: Sequence[str]) -> None:
        """Note in `ecg-steps.csv` what was done to a row's ECG; write the row afterwards."""
        for step in steps:
            self._append(STEP_LINES, row, step)

    def done(self, row: int) -> bool:
        """Say whether a row was written or rejected, by this process, another or an earlier one."""
        handle, start = self._file("done.npy")
        return os.pread(handle, 1, start + row) != bytes([_TODO])

    def todo(self) -> npt.NDArray[np.int64]:
        """Return the rows that are neither written nor rejected, ascending."""
        return np.flatnonzero(np.load(self._partial / "done.npy") == _TODO)

    def num_rejected(self) -> int:
        """Count the rejected rows."""
        return int((np.load(self._partial / "done.npy") == _REJECTED).sum())

    def finish(
        self,
        manifest: Manifest,
        *,
        source: Mapping[str, Any],
        allow_patient_overlap: bool = False,
        shard: Shard | None = None,
    ) -> dict[str, Any]:
        """Make the store: drop rejected rows, describe what is there, move the files into place.

        Args:
            manifest: row i describes what `write(i)` stored.
            source: where the data came from (command, root, options), kept in `meta.json`.
            allow_patient_overlap: see `pacx.data.manifest.validate`.
            shard: which part of a data set this store is; None for all of it.

        Returns:
            The content of `meta.json`.

        Raises:
            PacxError: rows are still to do, every row was rejected, the manifest is not valid, or the disk is full.
        """
        for handle, _ in self._files.values():
            os.close(handle)
        self._files.clear()
        noted = {"source": source} if shard is None else {"source": source, "shard": asdict(shard)}
        return finish_store(self.path, self._plan, manifest, noted=noted, allow_patient_overlap=allow_patient_overlap)

    def _append(self, name: str, row: int, *texts: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow([row, *(" ".join(text.split()) for text in texts)])
        with full_disk_is_a_user_error(self.path):
            # One appending write per line: lines of several processes do not mix.
            handle = os.open(self._partial / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line.getvalue().encode())
            finally:
                os.close(handle)

    def _put(self, file: str, row: int, value: npt.NDArray[Any]) -> None:
        known = {**self._plan.arrays(), **self._plan.states()}
        if file not in known or not 0 <= row < self._plan.num_rows or value.shape != known[file][0][1:]:
            raise ValueError(f"row {row} with shape {value.shape} does not fit {file} of the plan {self._plan}")
        handle, start = self._file(file)
        block, offset = value.tobytes(), start + row * value.nbytes
        while block:
            num_written = os.pwrite(handle, block, offset)
            block, offset = block[num_written:], offset + num_written

    def _file(self, file: str) -> tuple[int, int]:
        """Return the open file and where its data start."""
        if file not in self._files:
            path = self._partial / file
            self._files[file] = (os.open(path, os.O_RDWR), np.load(path, mmap_mode="r").offset)
        return self._files[file]


def _as_bytes(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def _pack_masks(masks: Mapping[str, npt.NDArray[np.bool_]], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    if set(masks) != set(names):
        raise ValueError(f"masks {sorted(masks)} given, the store has {sorted(names)}")
    planes = [masks[name].astype(np.uint8) << bit for bit, name in enumerate(names)]
    return np.asarray(np.bitwise_or.reduce(planes), dtype=np.uint8)
