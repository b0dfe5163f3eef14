"""Which ECGs and which labels a teacher learns from, and the ECGs as the network eats them."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.ecg import LEADS, RATE, SAMPLES
from pacx.data.ecg.recipe import RECIPE, prepare_ecgs
from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["Objective", "Splits", "all_records", "choose_objective", "choose_records", "prepare_records"]

log = logging.getLogger("pacx")

Splits = dict[str, NDArray[np.int64]]
"""store rows by split"""

Objective = Literal["supervised", "self-supervised"]

_PATIENCE = 60.0
"""seconds that a file may stand still before another process stops waiting for it"""


def choose_objective(
    store: Store, objective: Objective | Literal["auto"], *, task: str | None, group: str | None
) -> Objective:
    """Choose what to learn: statements where there are any, or where a task or group is named.

    Raises:
        PacxError: a task or group is named for self-supervised learning, which looks at no label.
    """
    if objective == "self-supervised" and (task is not None or group is not None):
        raise PacxError("Found --objective self-supervised together with --task or --group, whose labels it ignores.")
    if objective != "auto":
        return objective
    named = task is not None or group is not None
    if named or any(item.kind != "multiclass" for item in _chosen(store, task=None, group=None)):
        return "supervised"
    log.info("fit-ecg: the store %r has no binary or multilabel task of ECGs; learning without labels", store.name)
    return "self-supervised"


def all_records(store: Store) -> Splits:
    """Return the store rows of each split that have an ECG, labels or not.

    Raises:
        PacxError: the store holds no ECGs.
    """
    _need_ecgs(store)
    return {split: store.rows(split, needs=("ecg",)) for split in ("train", "val", "test")}


def choose_records(store: Store, *, task: str | None, group: str | None) -> tuple[tuple[str, ...], Splits]:
    """Choose the labels that can be learned, and the rows with an ECG and at least one of them known.

    Args:
        store: where the tasks are.
        task: this task only.
        group: all binary and multilabel tasks of this group; without task and group, all but the X-ray's findings.

    Returns:
        The label columns, and the store rows of each split.

    Raises:
        PacxError: no ECGs, an unknown task, or no label with both classes among the training ECGs.
    """
    _need_ecgs(store)
    tasks = _chosen(store, task=task, group=group)
    wanted = dict.fromkeys(label for item in tasks if item.kind != "multiclass" for label in item.labels)
    train = store.manifest.iloc[store.rows("train", needs=("ecg",))]
    labels = tuple(label for label in wanted if {0.0, 1.0} <= set(train[label].dropna().unique()))
    if not labels:
        known = ", ".join(f"{item.name} ({item.kind}, group {item.group!r})" for item in store.tasks.values())
        raise PacxError(
            f"No label to learn: none of the chosen tasks (task {task!r}, group {group!r}) is binary or multilabel and "
            f"has both classes among the training ECGs. The store {store.name!r} has: {known or 'no tasks'}. "
            "Without labels, use --objective self-supervised."
        )
    if len(labels) < len(wanted):
        log.info("fit-ecg: labels with one class only are left out: %s", ", ".join(sorted(set(wanted) - set(labels))))
    is_known = store.manifest[list(labels)].notna().any(axis=1).to_numpy()
    return labels, {split: part[is_known[part]] for split, part in all_records(store).items()}


def _chosen(store: Store, *, task: str | None, group: str | None) -> list[Task]:
    if task is not None:
        return [store.task(task)]
    # What was read off the X-ray is no statement about the ECG, and is asked of the X-ray encoder later.
    return [item for item in store.tasks.values() if (item.group == group if group else item.group != "finding")]


def prepare_records(
    store: Store, rows: Splits, *, cache: Path, rate: int, workers: int | None, first: bool = True
) -> dict[str, NDArray[np.float16]]:
    """Filter the ECGs of each split into a file; one that an interrupted run finished is used again.

    Args:
        store: a store with ECGs.
        rows: store rows by split.
        cache: folder for the files.
        rate: samples per second of the result.
        workers: number of processes.
        first: whether this is the first process of a joint training; the others wait for its files.

    Returns:
        (rows, 12, 10 * rate) by split, memory-mapped; float16 keeps z-scores to 1/1000.
    """
    prepared = {}
    for split, part in rows.items():
        shape = (len(part), len(LEADS), SAMPLES * rate // RATE)
        if not len(part):
            prepared[split] = np.empty(shape, dtype=np.float16)
            continue
        key = hashlib.sha256(f"{store.content_hash} {RECIPE} {rate}".encode() + part.tobytes()).hexdigest()[:12]
        path = cache / f"{split}-{key}.npy"
        if not path.is_file() and (first or not _came(path)):
            _write(path, prepare_ecgs(store.path / "ecg.npy", part, rate=rate, workers=workers), shape=shape)
        prepared[split] = np.load(path, mmap_mode="r", allow_pickle=False)
    return prepared


def _need_ecgs(store: Store) -> None:
    if not store.has("ecg"):
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no ECGs. Choose a store with ECGs.")


def _came(path: Path) -> bool:
    """Wait for another process to finish a file; give up when nothing has been added to it for a while."""
    size, since = -1, time.monotonic()
    while not path.is_file():
        grown = sum(_size(part) for part in path.parent.glob(f"{path.stem}.*"))
        if grown != size:
            size, since = grown, time.monotonic()
        elif time.monotonic() - since > _PATIENCE:
            return False
        time.sleep(0.1)
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it has just got its final name
        return 0


def _write(path: Path, batches: Iterator[NDArray[np.float32]], *, shape: tuple[int, ...]) -> None:
    # Under a name of its own until it is whole: processes of distributed training may do this side by side.
    path.parent.mkdir(parents=True, exist_ok=True)  # not before: a run folder is the first process's to make
    unfinished = path.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for batch in tqdm(batches, desc="filter ECGs", unit="batch", disable=None, leave=False):
            file.write(batch.astype("<f2").tobytes())
    unfinished.replace(path)
