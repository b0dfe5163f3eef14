"""Which ECGs and which labels a teacher learns from, and the ECGs as the network eats them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.ecg import LEADS, RATE, SAMPLES
from pacx.data.ecg_recipe import RECIPE, prepare_ecgs
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["Splits", "choose_records", "prepare_records"]

log = logging.getLogger("pacx")

Splits = dict[str, NDArray[np.int64]]
"""store rows by split"""


def choose_records(store: Store, *, task: str | None, group: str | None) -> tuple[tuple[str, ...], Splits]:
    """Choose the labels that can be learned, and the rows with an ECG and at least one of them known.

    Args:
        store: where the tasks are.
        task: this task only.
        group: all binary and multilabel tasks of this group; without task and group, all of them.

    Returns:
        The label columns, and the store rows of each split.

    Raises:
        PacxError: no ECGs, an unknown task, or no label with both classes among the training ECGs.
    """
    if not store.has("ecg"):
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no ECGs. Choose a store with ECGs.")
    tasks = [store.task(task)] if task is not None else list(store.tasks.values())
    if task is None and group is not None:
        tasks = [item for item in tasks if item.group == group]
    wanted = dict.fromkeys(label for item in tasks if item.kind != "multiclass" for label in item.labels)
    train = store.manifest.iloc[store.rows("train", needs=("ecg",))]
    labels = tuple(label for label in wanted if {0.0, 1.0} <= set(train[label].dropna().unique()))
    if not labels:
        known = ", ".join(f"{item.name} ({item.kind}, group {item.group!r})" for item in store.tasks.values())
        raise PacxError(
            f"No label to learn: none of the chosen tasks (task {task!r}, group {group!r}) is binary or multilabel and "
            f"has both classes among the training ECGs. The store {store.name!r} has: {known or 'no tasks'}."
        )
    if len(labels) < len(wanted):
        log.info("fit-ecg: labels with one class only are left out: %s", ", ".join(sorted(set(wanted) - set(labels))))
    rows = {}
    for split in ("train", "val", "test"):
        chosen = store.rows(split, needs=("ecg",))
        rows[split] = chosen[store.manifest[list(labels)].iloc[chosen].notna().any(axis=1).to_numpy()]
    return labels, rows


def prepare_records(
    store: Store, rows: Splits, *, cache: Path, rate: int, workers: int | None
) -> dict[str, NDArray[np.float16]]:
    """Filter the ECGs of each split into a file; one that an interrupted run finished is used again.

    Args:
        store: a store with ECGs.
        rows: store rows by split.
        cache: folder for the files.
        rate: samples per second of the result.
        workers: number of processes.

    Returns:
        (rows, 12, 10 * rate) by split, memory-mapped; float16 keeps z-scores to 1/1000.
    """
    cache.mkdir(parents=True, exist_ok=True)
    prepared = {}
    for split, part in rows.items():
        shape = (len(part), len(LEADS), SAMPLES * rate // RATE)
        if not len(part):
            prepared[split] = np.empty(shape, dtype=np.float16)
            continue
        key = hashlib.sha256(f"{store.content_hash} {RECIPE} {rate}".encode() + part.tobytes()).hexdigest()[:12]
        path = cache / f"{split}-{key}.npy"
        if not path.is_file():
            _write(path, prepare_ecgs(store.path / "ecg.npy", part, rate=rate, workers=workers), shape=shape)
        prepared[split] = np.load(path, mmap_mode="r", allow_pickle=False)
    return prepared


def _write(path: Path, batches: Iterator[NDArray[np.float32]], *, shape: tuple[int, ...]) -> None:
    # Under a name of its own until it is whole: processes of distributed training may do this side by side.
    unfinished = path.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for batch in tqdm(batches, desc="filter ECGs", unit="batch", disable=None, leave=False):
            file.write(batch.astype("<f2").tobytes())
    unfinished.replace(path)
