"""From the files that a manifest names to the rows of a store, on all cores.

A file that cannot be used is listed with the reason, and the others go on. An image that cannot be read or shows
nothing takes its row along; a bad mask or ECG beside a good image does not: the row stays, without that modality. Rows
that an earlier run has done are not opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from pacx.data.array_rows import split_row
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
    image_reading: Mapping[str, Any]
    """see `Manifest`, also below"""
    ecg_reading: Mapping[str, Any]


class Content(NamedTuple):
    """What the files of one row gave."""

    image: npt.NDArray[np.float32] | None = None
    masks: dict[str, npt.NDArray[np.bool_]] | None = None
    ecg: npt.NDArray[np.float32] | None = None
    steps: tuple[str, ...] = ()
    """what was done to the ECG, or is odd about it"""


def make_jobs(manifest: Manifest) -> list[Job]:
    """List the files of every row.

    Raises:
        PacxError: none of the files exists, so the root is probably the wrong one.
    """
    columns = [_paths(manifest, column) for column in ("path", "mask_path", "ecg_path")]
    jobs = [Job(row, *files) for row, files in enumerate(zip(*columns, strict=True))]
    sample = [job.image for job in jobs if job.image is not None][:1000]
    if sample and not any(split_row(file)[0].exists() for file in sample):
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
        content, lost = _read(job, settings)
        reasons = [(str(file), str(error).removeprefix(f"{file}: ")) for file, error in lost.items()]
        if lost and settings.strict:
            error = next(iter(lost.values()))
            raise PacxError(f"{error} Stopped here because of --strict; without it the file is left out.") from error
        if lost and content.image is None and content.ecg is None:
            for file, reason in reasons:
                writer.reject(job.row, file=file, reason=reason)
            continue
        for file, reason in reasons:
            writer.lose(job.row, file=file, reason=f"{reason} (Its row stays, without this file.)")
        writer.note_steps(job.row, content.steps)
        writer.write(job.row, image=content.image, masks=content.masks, ecg=content.ecg)
    return len(task)


def _read(job: Job, settings: Settings) -> tuple[Content, dict[Path, PacxError]]:
    """Read the files of a row; returns what they gave, and what is wrong with those that cannot be used.

    When the image cannot be used, nothing else is read, and nothing is returned: the row is lost.
    """
    image, masks, lost = None, None, {}
    if job.image is not None:
        try:
            pixels = _read_image(job.image, settings)
        except PacxError as error:
            return Content(), {job.image: error}
        image = fit_square(pixels, settings.size, settings.geometry)
        if job.mask is not None:
            try:
                masks = {settings.mask_name: _read_mask(job.mask, pixels.shape, settings)}
            except PacxError as error:
                lost[job.mask] = error
    ecg = None
    steps: tuple[str, ...] = ()
    if job.ecg is not None:
        # Imported when an ECG comes: SciPy would triple the start of every process that reads images only.
        from pacx.data.ecg import read_ecg

        try:
            record = read_ecg(job.ecg, **settings.ecg_reading)
            ecg, steps = record.signal, record.steps
        except PacxError as error:
            lost[job.ecg] = error
    return Content(image, masks, ecg, steps), lost


def _read_image(file: Path, settings: Settings) -> npt.NDArray[np.float32]:
    pixels = read_cxr(file, max_pixels=settings.max_pixels, **settings.image_reading).pixels
    if is_blank(pixels):
        raise PacxError(f"{file}: It is blank: (nearly) all pixels have the same value.")
    return pixels


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
