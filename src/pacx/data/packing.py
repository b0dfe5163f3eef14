"""From the files that a manifest names to the rows of a store, on all cores.

A file that cannot be read, shows nothing, or has a mask that does not fit it is rejected with the reason; the others
go on. Rows that an earlier run has done are not opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from pacx.data.images import is_blank, read_cxr
from pacx.data.manifest import Manifest
from pacx.data.store_writer import StoreWriter
from pacx.data.workers import available_cores, worker_pool
from pacx.errors import PacxError
from pacx.preprocess import Geometry, fit_square

__all__ = ["Job", "Settings", "make_jobs", "pack"]

_ROWS_PER_TASK = 8


class Job(NamedTuple):
    """The files of one row."""

    row: int
    image: Path | None
    mask: Path | None
    ecg: Path | None


class Settings(NamedTuple):
    """What all rows have in common."""

    size: int
    geometry: Geometry
    max_pixels: int
    mask_name: str
    strict: bool


def make_jobs(manifest: Manifest) -> list[Job]:
    """List the files of every row.

    Raises:
        PacxError: none of the files exists, so the root is probably the wrong one.
    """
    columns = [_paths(manifest, column) for column in ("path", "mask_path", "ecg_path")]
    jobs = [Job(row, *files) for row, files in enumerate(zip(*columns, strict=True))]
    sample = [job.image for job in jobs if job.image is not None][:1000]
    if sample and not any(file.exists() for file in sample):
        raise PacxError(
            f"None of the first {len(sample)} image files of {manifest.name!r} exists; the first would be {sample[0]}. "
            "Check the root, and that the paths in the table are relative to it."
        )
    return jobs


def pack(writer: StoreWriter, jobs: Sequence[Job], settings: Settings, *, workers: int | None) -> None:
    """Read and write all rows that are still to do, with a progress bar.

    Args:
        writer: the unfinished store.
        jobs: all rows.
        settings: what all rows have in common.
        workers: processes; None for one per available core, 1 to stay in this process.

    Raises:
        PacxError: the disk is full, a process was killed, or a file is rejected and `strict` is on.
    """
    todo = [jobs[row] for row in writer.todo()]
    tasks = [todo[start : start + _ROWS_PER_TASK] for start in range(0, len(todo), _ROWS_PER_TASK)]
    num_workers = min(workers or available_cores(), max(len(tasks), 1))
    if not any(job.image or job.ecg for job in jobs):
        num_workers = 1  # a table of labs only: nothing to read
    with tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc="prepare", unit="row", disable=None) as bar:
        for num_rows in _run(writer, tasks, settings, num_workers=num_workers):
            bar.update(num_rows)


def _run(writer: StoreWriter, tasks: Sequence[Sequence[Job]], settings: Settings, *, num_workers: int) -> Iterator[int]:
    if num_workers <= 1:
        for task in tasks:
            yield _pack_rows(writer, task, settings)
        return
    with worker_pool(num_workers) as pool:
        futures = [pool.submit(_pack_in_worker, writer.path, task, settings) for task in tasks]
        for future in as_completed(futures):
            yield future.result()


def _pack_in_worker(path: Path, task: Sequence[Job], settings: Settings) -> int:
    return _pack_rows(_attached(path), task, settings)


@cache
def _attached(path: Path) -> StoreWriter:
    return StoreWriter.attach(path)


def _pack_rows(writer: StoreWriter, task: Sequence[Job], settings: Settings) -> int:
    for job in task:
        try:
            content = _read(job, settings)
        except PacxError as error:
            file = str(job.image or job.ecg)
            if settings.strict:
                raise PacxError(
                    f"{error} Stopped here because of --strict; without it the file is left out."
                ) from error
            writer.reject(job.row, file=file, reason=str(error).removeprefix(f"{file}: "))
        else:
            writer.write(job.row, **content)
    return len(task)


def _read(job: Job, settings: Settings) -> dict[str, Any]:
    """Read all files of a row.

    Raises:
        PacxError: the row cannot be used, with the reason.
    """
    content: dict[str, Any] = {}
    if job.image is not None:
        pixels = read_cxr(job.image, max_pixels=settings.max_pixels).pixels
        if is_blank(pixels):
            raise PacxError(f"{job.image}: It is blank: (nearly) all pixels have the same value.")
        content["image"] = fit_square(pixels, settings.size, settings.geometry)
        if job.mask is not None:
            content["masks"] = {settings.mask_name: _read_mask(job.mask, pixels.shape, settings)}
    if job.ecg is not None:
        # Imported when an ECG comes: SciPy would triple the start of every process that reads images only.
        from pacx.data.ecg import read_ecg

        content["ecg"] = read_ecg(job.ecg).signal
    return content


def _read_mask(file: Path, shape: tuple[int, ...], settings: Settings) -> npt.NDArray[np.bool_]:
    """Read a mask and make it square in the same way as its image.

    A mask outlines one thing: what is brighter than half of its maximum belongs to it. That holds for masks of 0 and
    255, of 0 and 1, and for JPEG masks with their noise around 0.
    """
    pixels = read_cxr(file, max_pixels=settings.max_pixels).pixels
    if not np.isclose(pixels.shape[0] * shape[1], pixels.shape[1] * shape[0], rtol=0.01):
        raise PacxError(
            f"{file}: The mask is {pixels.shape[1]} x {pixels.shape[0]}, its image {shape[1]} x {shape[0]}."
        )
    inside = (pixels > pixels.max() / 2).astype(np.float32)
    return fit_square(inside, settings.size, settings.geometry) >= 0.5


def _paths(manifest: Manifest, column: str) -> list[Path | None]:
    if column not in manifest.table:
        return [None] * len(manifest.table)
    return [None if pd.isna(path) else manifest.root / str(path) for path in manifest.table[column]]
