"""The store: one data set, packed once, memory-mapped ever after.

    STORE/
      images.npy        uint8 (N, S, S), 0 = black, 255 = white, bright = dense; absent in a store without images
      masks.npy         uint8 (N, S, S), bit i = mask_names[i] of meta.json
      ecg.npy           float16 (N, 12, 5000), mV at 500 Hz; NaN where a row has no ECG
      labs.parquet      image_id, then one column per lab in raw units, NaN = not measured
      manifest.parquet  row i describes images[i]; see `pacx.data.manifest`
      meta.json         what this is: tasks, pixel mean and std, geometry, licence, source, whose the
                        patient ids are, content and split hashes
      ecg-steps.csv     what was done to ECGs or is odd about them, by image_id; absent if nothing
      rejects.csv       files that cannot be used, and why; without its image a row is left out

A row may lack any modality; `has_image`, `has_mask`, `has_ecg` and `has_labs` in the manifest say what is there.
The whole of CheXpert at 256 px is 14.7 GB in this form and fits in memory; decoding it once costs hours less than
decoding it every epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pacx.data.manifest import SPLITS, Task
from pacx.data.store_plan import STORE_VERSION
from pacx.data.store_writer import StoreWriter
from pacx.errors import PacxError
from pacx.preprocess import Preprocess

__all__ = ["Modality", "Store", "StoreWriter"]

Modality = Literal["image", "mask", "ecg", "labs"]


class Store:
    """A finished store, opened for reading. Pickles as its path, so loader workers share the mapped files."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        """Use `Store.open`, which checks what it opens."""
        self.path = path
        self.meta = meta
        self.name = str(meta["name"])
        self.content_hash = str(meta["content_hash"])
        self.patients_of = str(meta.get("patients_of", ""))  # not in stores of older versions
        self.crossing_patients = int(meta.get("crossing_patients", 0))  # likewise
        self.image_size: int | None = meta["image_size"]
        self.mask_names: tuple[str, ...] = tuple(meta["mask_names"])
        self.lab_units: dict[str, str] = dict(meta["lab_units"])
        self.tasks = {name: Task.from_dict(task) for name, task in meta["tasks"].items()}
        self.manifest = pd.read_parquet(path / "manifest.parquet")
        self.images = _map(path / "images.npy")
        self.masks = _map(path / "masks.npy")
        self.ecg = _map(path / "ecg.npy")

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store folder.

        Raises:
            PacxError: no finished store there, one of another version, or one whose files do not fit together.
        """
        path = Path(path)
        meta = _read_meta(path)
        try:
            store = cls(path, meta)
        except (OSError, ValueError, KeyError) as error:
            raise PacxError(
                f"The store {path} is damaged ({error}). Make it again with the command in its config.yaml."
            ) from error
        for file, array in (("images.npy", store.images), ("masks.npy", store.masks), ("ecg.npy", store.ecg)):
            if array is not None and len(array) != len(store.manifest):
                raise PacxError(
                    f"The store {path} is damaged: {file} has {len(array)} rows, its manifest {len(store.manifest)}. "
                    "Make it again with the command in its config.yaml."
                )
        return store

    def __len__(self) -> int:
        return len(self.manifest)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Store.open, (self.path,)

    def __repr__(self) -> str:
        present = {name: int(self.manifest[f"has_{name}"].sum()) for name in ("image", "mask", "ecg", "labs")}
        splits = {name: len(self.rows(name)) for name in SPLITS}
        lines = [
            f"Store {self.name!r} at {self.path}: {len(self)} rows, image size {self.image_size}",
            f"  has {present}",
        ]
        lines.append(f"  splits {splits}")
        lines += [f"  {name}: {counts}" for name, counts in self.summary()["tasks"].items()]
        return "\n".join(lines)

    def identity(self) -> dict[str, Any]:
        """Return what a run notes of a store that it reads.

        Returns:
            path, name, hash (of the content), split_hash, crossing_patients (in several splits: scores are too good).
        """
        return {
            "path": self.path,
            "name": self.name,
            "hash": self.content_hash,
            "split_hash": self.meta["split_hash"],
            "crossing_patients": self.crossing_patients,
        }

    @cached_property
    def labs(self) -> pd.DataFrame | None:
        """Lab columns in raw units, row i for image i; None in a store without labs."""
        file = self.path / "labs.parquet"
        return pd.read_parquet(file).drop(columns="image_id") if file.is_file() else None

    def has(self, modality: Modality) -> bool:
        """Say whether any row has this modality."""
        return bool(self.manifest[f"has_{modality}"].any())

    def rows(self, split: str | None = None, *, needs: Sequence[Modality] = ()) -> npt.NDArray[np.int64]:
        """Return the ascending positions of the rows of a split that have all the needed modalities.

        Raises:
            PacxError: the split is not one of train, val, test.
        """
        if split is not None and split not in SPLITS:
            raise PacxError(f"There is no split {split!r}; a store has {', '.join(SPLITS)}.")
        chosen = np.ones(len(self), dtype=bool) if split is None else (self.manifest["split"] == split).to_numpy()
        for modality in needs:
            chosen = chosen & self.manifest[f"has_{modality}"].to_numpy()
        return np.flatnonzero(chosen)

    def task(self, name: str) -> Task:
        """Look a task up by name.

        Raises:
            PacxError: the store has no such task; names those it has.
        """
        if name not in self.tasks:
            known = ", ".join(self.tasks) or "none at all"
            raise PacxError(f"The store {self.name!r} ({self.path}) has no task {name!r}. It has: {known}.")
        return self.tasks[name]

    def targets(self, task: Task | str, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Return the labels of a task, float32 (rows, labels), NaN = unknown."""
        task = self.task(task) if isinstance(task, str) else task
        table = self.manifest if rows is None else self.manifest.iloc[np.asarray(rows)]
        return np.array(table[list(task.labels)], dtype=np.float32)

    def mask(self, name: str, rows: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return one mask of some rows, bool (rows, S, S); all False where a row has no mask.

        Raises:
            PacxError: the store has no mask of that name.
        """
        if self.masks is None or name not in self.mask_names:
            known = ", ".join(self.mask_names) or "no masks"
            raise PacxError(f"The store {self.name!r} ({self.path}) has no mask {name!r}. It has: {known}.")
        plane = np.uint8(1 << self.mask_names.index(name))
        return np.asarray(self.masks[np.asarray(rows, dtype=np.int64)] & plane, dtype=bool)

    def preprocess(self) -> Preprocess:
        """Return the preprocessing that these images have had and need: size, geometry, own mean and std.

        Raises:
            PacxError: the store has no images.
        """
        if self.image_size is None or self.meta["mean"] is None:
            raise PacxError(f"The store {self.name!r} ({self.path}) holds no images. Choose a store with X-rays.")
        return Preprocess(
            image_size=self.image_size,
            geometry=self.meta["geometry"],
            mean=(float(self.meta["mean"]),),
            std=(float(self.meta["std"]),),
        )

    def summary(self) -> dict[str, Any]:
        """Count what is there, in the form that `prepare` and `simulate` report.

        Returns:
            name, num_images, num_ecgs, num_labs, num_masks, num_patients, splits {split: rows}, rejects, and tasks
            {task: {label: {positives, negatives, unknown}}}; a multiclass label counts each class instead.
        """
        table = self.manifest
        return {
            "name": self.name,
            "num_rows": len(self),
            "num_images": int(table["has_image"].sum()),
            "num_masks": int(table["has_mask"].sum()),
            "num_ecgs": int(table["has_ecg"].sum()),
            "num_labs": int(table["has_labs"].sum()),
            "num_patients": int(table["patient_id"].nunique()),
            "splits": {name: int((table["split"] == name).sum()) for name in SPLITS},
            "rejects": len(pd.read_csv(self.path / "rejects.csv")),
            "tasks": {
                name: {label: _count(table[label], task) for label in task.labels} for name, task in self.tasks.items()
            },
        }


def _count(label: pd.Series, task: Task) -> dict[str, int]:
    unknown = int(label.isna().sum())
    if task.kind != "multiclass":
        return {"positives": int((label == 1).sum()), "negatives": int((label == 0).sum()), "unknown": unknown}
    known = label.dropna().astype(int)
    names = task.classes or tuple(str(number) for number in range(known.max() + 1 if len(known) else 0))
    return {**{name: int((known == number).sum()) for number, name in enumerate(names)}, "unknown": unknown}


def _map(file: Path) -> np.memmap[Any, Any] | None:
    return np.load(file, mmap_mode="r", allow_pickle=False) if file.is_file() else None


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    if not file.is_file():
        if (path / ".partial").is_dir():
            raise PacxError(
                f"The store {path} is unfinished. Run the command that began it again; it goes on where it stopped."
            )
        raise PacxError(f"{path} is not a store (no meta.json in it). Make one with `pacx prepare` or `pacx simulate`.")
    meta: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if meta.get("store_version") != STORE_VERSION:
        raise PacxError(
            f"The store {path} has version {meta.get('store_version')}, this pacx reads {STORE_VERSION}. "
            "Make it again with the command in its config.yaml."
        )
    return meta
