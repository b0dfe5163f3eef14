"""Fill the store of a simulated cohort: one process or many, the same bytes.

Every visit is drawn from random streams of its own and has a row of its own, so neither the number of processes nor
their order matters. Processes are spawned, not forked, with one thread each for linear algebra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from pacx.data.phantom.anatomy import render, sample_acquisition
from pacx.data.phantom.heart import simulate_ecg
from pacx.data.phantom.latents import random_stream, sample_patient
from pacx.data.store_writer import StoreWriter
from pacx.data.workers import available_cores, worker_pool

__all__ = ["Cohort", "Visit", "fill"]

_ROWS_PER_JOB = 16


class Visit(NamedTuple):
    """One row of the store."""

    row: int
    patient: int
    number: int
    """number of the visit of this patient, from 0"""
    ecg: bool
    """an ECG was recorded"""
    labs: bool
    """blood was drawn"""


class Cohort(NamedTuple):
    """What all visits of a cohort share."""

    size: int
    seed: int
    ecg: bool


def fill(writer: StoreWriter, cohort: Cohort, visits: Sequence[Visit], *, total: int, workers: int | None) -> None:
    """Write the images, masks and ECGs of visits, with a progress bar.

    Args:
        writer: the unfinished store.
        cohort: what all visits share.
        visits: those that are still to do.
        total: number of all visits of the cohort.
        workers: processes; None for one per available core.
    """
    num_workers = min(workers or available_cores(), max(math.ceil(len(visits) / _ROWS_PER_JOB), 1))
    with tqdm(total=total, initial=total - len(visits), desc="simulate", unit="image", disable=None) as bar:
        if num_workers == 1:
            for visit in visits:
                _write_visit(writer, cohort, visit)
                bar.update()
            return
        jobs = [visits[start : start + _ROWS_PER_JOB] for start in range(0, len(visits), _ROWS_PER_JOB)]
        with worker_pool(num_workers) as pool:
            for future in as_completed([pool.submit(_work, writer.path, cohort, job) for job in jobs]):
                bar.update(future.result())


def _work(path: Path, cohort: Cohort, visits: Sequence[Visit]) -> int:
    writer = _attached(path)
    for visit in visits:
        _write_visit(writer, cohort, visit)
    return len(visits)


@cache
def _attached(path: Path) -> StoreWriter:
    return StoreWriter.attach(path)


def _write_visit(writer: StoreWriter, cohort: Cohort, visit: Visit) -> None:
    key = (cohort.seed, visit.patient, visit.number)
    patient = sample_patient(visit.patient, seed=cohort.seed, visit=visit.number)
    acquisition = sample_acquisition(patient, random_stream("acquisition", *key))
    radiograph = render(patient, acquisition, size=cohort.size, rng=random_stream("xray", *key))
    recorded = simulate_ecg(patient, random_stream("ecg", *key)) if cohort.ecg and visit.ecg else None
    writer.write(
        visit.row,
        image=radiograph.pixels,
        masks={"lung": radiograph.lungs, "heart": radiograph.heart, "body": radiograph.body},
        ecg=recorded,
    )
