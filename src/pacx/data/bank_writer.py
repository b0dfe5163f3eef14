"""Write a teacher bank: batch by batch, in bounded memory, and a kill at any moment costs one batch or two.

    BANK/.partial/
      plan.json        what is being made (teacher, weights, store, settings); written last when the bank is begun
      embeddings.npy   all rows from the start, zeros until they are written
      progress.json    how many of the rows to embed are on the disk

* Rows come in one fixed order, so one number says how far the work is. It is written after its data are on the disk;
  what lies beyond it is written again, with the same numbers.
* Rows are written with `pwrite`, not through a memory map: a full disk is then an error with a message, and no page of
  the array is held.
* The files move into BANK at the end, `meta.json` last. Until then nothing there can be taken for a bank.
* An unfinished bank is continued only under the same plan.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.bank import BANK_FILES, BANK_VERSION
from pacx.data.store_plan import full_disk_is_a_user_error, make_array
from pacx.errors import PacxError
from pacx.runs import plain, write_json

__all__ = ["BankWriter"]

log = logging.getLogger("pacx")

_SECONDS_BETWEEN_RECORDS = 2.0
_RESERVE_BYTES = 16 * 1024**2  # for the small files beside the embeddings


class BankWriter:
    """Fill a bank; make it again after a crash to go on.

    Args:
        folder: the bank's folder; made if absent.
        plan: what is being made: everything that decides the numbers, as JSON types, with `num_rows` and `dim`. It
            becomes part of the bank's meta.
        resume: "auto" = go on with an unfinished bank of the same plan, else start anew; True = go on or say what
            differs; False = start anew.

    Raises:
        PacxError: `resume` is True and there is nothing to go on with, or the disk has too little space.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, resume: bool | str = "auto") -> None:
        self.folder = Path(folder)
        self.plan: dict[str, Any] = plain(dict(plan))
        self.done = 0
        """rows that are on the disk, of those to embed, in order"""
        self.complete = False
        """whether the bank is whole already"""
        self._partial = self.folder / ".partial"
        if not self._continued(resume):
            self._begin()
        self._recorded_at = time.monotonic()
        self._file: int | None = None

    def write(self, rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        """Write the next rows.

        Args:
            rows: (b,) positions in the bank.
            embeddings: (b, D), finite.

        Raises:
            PacxError: the disk is full.
        """
        dim = int(self.plan["dim"])
        if embeddings.shape != (len(rows), dim):
            raise ValueError(f"{len(rows)} embeddings of length {dim} were announced, got shape {embeddings.shape}")
        handle, start = self._open()
        with full_disk_is_a_user_error(self.folder):
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                if len(run):
                    _put(handle, embeddings[run].astype("<f4").tobytes(), start + int(rows[run[0]]) * dim * 4)
            self.done += len(rows)
            if time.monotonic() - self._recorded_at >= _SECONDS_BETWEEN_RECORDS:
                self.record()

    def read(self, row: int) -> NDArray[np.float32]:
        """Return a row that was written, (D,)."""
        handle, start = self._open()
        num_bytes = int(self.plan["dim"]) * 4
        return np.frombuffer(os.pread(handle, num_bytes, start + row * num_bytes), dtype="<f4")

    def record(self) -> None:
        """Make sure that what was written survives a power cut, then note how much it is."""
        os.fsync(self._open()[0])
        write_json(self._partial / "progress.json", {"done": self.done})
        self._recorded_at = time.monotonic()

    def close(self) -> None:
        """Close the file; what was written and not recorded will be written again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        """Remove what was written: nothing of it is worth going on with."""
        self.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def finish(self, present: NDArray[np.bool_], image_ids: Sequence[str], meta: Mapping[str, Any]) -> None:
        """Make the bank: describe what was written, move the files into place.

        Args:
            present: (N,) the rows that have an embedding.
            image_ids: N ids, in the order of the store.
            meta: more facts for the bank's `meta.json`, beside the plan.

        Raises:
            PacxError: the disk is full.
        """
        with full_disk_is_a_user_error(self.folder):
            if not (self._partial / "meta.json").is_file():
                self.record()
                np.save(self._partial / "present.npy", np.asarray(present, dtype=bool))
                write_json(self._partial / "image_ids.json", list(image_ids))
                write_json(self._partial / "meta.json", {**self.plan, **meta, "bank_version": BANK_VERSION})
            self.close()
            self._publish()

    def _publish(self) -> None:
        """Move the files, `meta.json` last; those that a crash left behind are moved the next time."""
        for name in BANK_FILES:
            if (self._partial / name).is_file():
                with (self._partial / name).open("rb") as file:
                    os.fsync(file.fileno())
                (self._partial / name).replace(self.folder / name)
        shutil.rmtree(self._partial, ignore_errors=True)
        self.complete = True

    def _continued(self, resume: bool | str) -> bool:
        """Take up what an earlier process left; False if there is nothing that can be taken up."""
        old = self._left_behind()
        if old is None:
            if resume is True:
                raise PacxError(f"There is no unfinished bank in {self.folder} to go on with. Use --resume auto.")
            return False
        differing = sorted(key for key in {*old, *self.plan} if old.get(key) != self.plan.get(key))
        if differing and resume is True:
            raise PacxError(
                f"{self.folder} holds an unfinished bank that was begun with other inputs or settings (different: "
                f"{', '.join(differing)}). Give the first ones again, or pass --resume false to start anew."
            )
        if differing or resume is False:
            reason = f"inputs or settings changed ({', '.join(differing)})" if differing else "as asked (resume false)"
            log.warning("bank: %s; starting anew, an unfinished bank in %s is removed", reason, self.folder)
            return False
        if (self._partial / "meta.json").is_file() or (self.folder / "meta.json").is_file():
            with full_disk_is_a_user_error(self.folder):
                self._publish()
            self.done = int(np.load(self.folder / "present.npy").sum())
            return True
        if (self._partial / "progress.json").is_file():
            self.done = int(json.loads((self._partial / "progress.json").read_text(encoding="utf-8"))["done"])
            log.info("bank: going on after %d rows", self.done)
        return True

    def _left_behind(self) -> dict[str, Any] | None:
        """Return the plan of what lies in the folder, unfinished or finished a moment before a kill."""
        if (self._partial / "plan.json").is_file():
            found: dict[str, Any] = json.loads((self._partial / "plan.json").read_text(encoding="utf-8"))
            return found
        if (self.folder / "meta.json").is_file():
            meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            return {key: item for key, item in meta.items() if key in self.plan}
        return None

    def _begin(self) -> None:
        with full_disk_is_a_user_error(self.folder):
            (self.folder / "meta.json").unlink(missing_ok=True)  # first: what is being removed is no bank
            for name in BANK_FILES:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            shape = (int(self.plan["num_rows"]), int(self.plan["dim"]))
            _check_space(self.folder, shape[0] * shape[1] * 4)
            make_array(self._partial / "embeddings.npy", shape, np.float32)
            write_json(self._partial / "plan.json", self.plan)

    def _open(self) -> tuple[int, int]:
        """Return the open file and where its data start; they end where the file ends."""
        path = self._partial / "embeddings.npy"
        if self._file is None:
            self._file = os.open(path, os.O_RDWR)
        return self._file, path.stat().st_size - int(self.plan["num_rows"]) * int(self.plan["dim"]) * 4


def _put(handle: int, block: bytes, offset: int) -> None:
    while block:
        num_written = os.pwrite(handle, block, offset)
        block, offset = block[num_written:], offset + num_written


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _RESERVE_BYTES:
        raise PacxError(
            f"The bank needs {num_bytes / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free at {folder}. "
            "Free some space, or write to another disk with --out."
        )
