"""Make a store of what was written: drop rejected rows, describe the rest, move the files into place.

Every step may be repeated after a crash. The files become complete inside `.partial/` first, `meta.json` last; then
they are moved, `meta.json` last again. Dropping rejected rows copies each array once, so it needs that space for a
moment; without rejects nothing is copied.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pacx.data.manifest import PRESENCE, Manifest, crossing_patients, split_hash, validate
from pacx.data.store_plan import (
    REJECT_LINES,
    STEP_LINES,
    STORE_VERSION,
    Plan,
    check_space,
    full_disk_is_a_user_error,
    make_array,
)
from pacx.errors import PacxError
from pacx.runs import write_json

__all__ = ["finish_store"]

log = logging.getLogger("pacx")

_BLOCK_BYTES = 16 * 1024**2
_TABLES = ("manifest.parquet", "labs.parquet", "labs_report.json", "ecg-steps.csv", "rejects.csv")


def finish_store(
    path: Path, plan: Plan, manifest: Manifest, *, noted: Mapping[str, Any], allow_patient_overlap: bool
) -> dict[str, Any]:
    """Finish the store in `path` and return its meta, with what is `noted` in it; see `StoreWriter.finish`."""
    partial = path / ".partial"
    with full_disk_is_a_user_error(path):
        if not ((partial / "meta.json").is_file() or (path / "meta.json").is_file()):
            _complete(partial, plan, manifest, noted=noted, allow_patient_overlap=allow_patient_overlap)
        _publish(partial, path, [*plan.arrays(), *_TABLES, "meta.json"])
    meta: dict[str, Any] = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    return meta


def _complete(
    partial: Path, plan: Plan, manifest: Manifest, *, noted: Mapping[str, Any], allow_patient_overlap: bool
) -> None:
    if len(manifest.table) != plan.num_rows:
        raise ValueError(f"the manifest has {len(manifest.table)} rows, the store {plan.num_rows}")
    validate(manifest, allow_patient_overlap=allow_patient_overlap)
    done = np.load(partial / "done.npy")
    if (done == 0).any():
        raise PacxError(
            f"{(done == 0).sum()} of {len(done)} rows of {partial.parent} are not there yet. Run the command again."
        )
    kept = np.flatnonzero(done == 1)
    rejects = _tidy_rejects(partial)
    if len(kept) == 0:
        raise PacxError(
            f"None of the {len(done)} rows of {manifest.name!r} could be read, so there is nothing to store. "
            f"The first reason: {rejects['reason'].iloc[0]} ({rejects['file'].iloc[0]})"
        )
    for file in plan.arrays():
        _keep_rows(partial / file, kept)
    table, labs = _tables(manifest, kept, has=np.load(partial / "has.npy")[kept])
    _tidy_steps(partial, table, kept=kept)
    mean, std = _pixel_statistics(partial, plan, table)
    table.to_parquet(partial / "manifest.parquet", index=False)
    if labs is not None:
        labs.to_parquet(partial / "labs.parquet", index=False)
    if manifest.lab_report:
        write_json(partial / "labs_report.json", manifest.lab_report)
    meta = {
        "store_version": STORE_VERSION,
        "name": plan.name,
        "about": manifest.about,
        "num_rows": len(table),
        "image_size": plan.image_size,
        "geometry": plan.geometry,
        "mean": mean,
        "std": std,
        "mask_names": plan.mask_names,
        "tasks": {name: task.to_dict() for name, task in manifest.tasks.items()},
        "lab_units": manifest.lab_units,
        "license": manifest.license,
        "citation": manifest.citation,
        "patients_of": manifest.patients_of,
        "fingerprint": plan.fingerprint,
        "reader_version": _pacx_version(),
        "content_hash": _content_hash(partial, list(plan.arrays()), table, labs),
        "split_hash": split_hash(table),
        "split_about": manifest.split_about,
        "crossing_patients": crossing_patients(table),
        **noted,
    }
    write_json(partial / "meta.json", meta)


def _tables(
    manifest: Manifest, kept: npt.NDArray[np.int64], *, has: npt.NDArray[np.uint8]
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the kept rows of the manifest with the presence columns, and the labs in the same order."""
    table = manifest.table.iloc[kept].drop(columns=list(PRESENCE), errors="ignore").reset_index(drop=True)
    labs = None
    if manifest.labs is not None:
        labs = manifest.labs.astype(np.float64).reindex(table["image_id"]).rename_axis("image_id").reset_index()
    for bit, column in enumerate(("has_image", "has_mask", "has_ecg")):
        table[column] = (has >> bit & 1).astype(bool)
    table["has_labs"] = False if labs is None else labs.drop(columns="image_id").notna().any(axis=1)
    return table, labs


def _pixel_statistics(partial: Path, plan: Plan, table: pd.DataFrame) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the training images in [0, 1], from an exact histogram.

    Without training images all images count. The deviation is at least 1/255, so that dividing by it is safe.
    """
    has_image = table["has_image"].to_numpy()
    if plan.image_size is None or not has_image.any():
        return None, None
    training = has_image & (table["split"] == "train").to_numpy()
    rows = np.flatnonzero(training if training.any() else has_image)
    images = np.load(partial / "images.npy", mmap_mode="r")
    counts = np.zeros(256, dtype=np.int64)
    for part in np.array_split(rows, len(rows) * images[0].nbytes // _BLOCK_BYTES + 1):
        counts += np.bincount(images[part].ravel(), minlength=256)
    level = np.arange(256) / 255.0
    mean = float(counts @ level / counts.sum())
    std = float(np.sqrt(counts @ (level - mean) ** 2 / counts.sum()))
    return round(mean, 6), round(max(std, 1 / 255), 6)


def _content_hash(partial: Path, files: list[str], table: pd.DataFrame, labs: pd.DataFrame | None) -> str:
    """SHA-256 over the arrays and the tables' text, so that it does not depend on the Parquet version."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.encode())
        with (partial / file).open("rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                digest.update(block)
    for frame in (table, labs):
        if frame is not None:
            digest.update(frame.to_csv(index=False).encode())
    return digest.hexdigest()


def _keep_rows(path: Path, kept: npt.NDArray[np.int64]) -> None:
    old = np.load(path, mmap_mode="r")
    if len(old) == len(kept):  # nothing was rejected, or it was dropped before a crash
        return
    num_bytes = len(kept) * old[0].nbytes
    check_space(path.parent, num_bytes)
    new = path.with_suffix(".new")
    make_array(new, (len(kept), *old.shape[1:]), old.dtype)
    with new.open("r+b") as file:
        file.seek(-num_bytes, os.SEEK_END)
        for part in np.array_split(kept, num_bytes // _BLOCK_BYTES + 1):
            file.write(old[part].tobytes())
    new.replace(path)


def _tidy_rejects(partial: Path) -> pd.DataFrame:
    """Write `rejects.csv` (file, reason) in row order from the lines that the writers appended."""
    rejects = pd.DataFrame(columns=["file", "reason"])
    lines = partial / REJECT_LINES
    if lines.is_file():
        rejects = pd.read_csv(lines, header=None, names=["row", "file", "reason"], dtype={"file": str, "reason": str})
        # A crash between the line and the state byte makes a file of a row come twice.
        rejects = rejects.drop_duplicates(["row", "file"], keep="last").sort_values(["row", "file"])
        rejects = rejects[["file", "reason"]]
    rejects.to_csv(partial / "rejects.csv", index=False)
    return rejects


def _tidy_steps(partial: Path, table: pd.DataFrame, *, kept: npt.NDArray[np.int64]) -> None:
    """Write `ecg-steps.csv` (image_id, step) in row order for the rows that are there, and log how often what came."""
    lines = partial / STEP_LINES
    if not lines.is_file():
        return
    steps = pd.read_csv(lines, header=None, names=["row", "step"], dtype={"step": str}).drop_duplicates()
    images = pd.DataFrame({"row": kept, "image_id": table["image_id"]})
    # A stable sort: the steps of a row stay in the order in which they were taken.
    steps = steps.merge(images, on="row").sort_values("row", kind="stable")
    steps[["image_id", "step"]].to_csv(partial / "ecg-steps.csv", index=False)
    # Digits behind a letter are no measurement: V6 is a lead.
    kinds = steps["step"].str.replace(re.compile(r"(?<![A-Za-z\d])\d+(\.\d+)?"), "#", regex=True).value_counts()
    most = "; ".join(f"{kind} ({count})" for kind, count in kinds.head(8).items())
    log.info("%d ECGs were changed or look odd (ecg-steps.csv): %s", steps["row"].nunique(), most)


def _publish(partial: Path, path: Path, files: list[str]) -> None:
    """Move the complete files into the store; those that a crash left behind are moved the next time."""
    for file in files:
        if (partial / file).is_file():
            with (partial / file).open("rb") as handle:
                os.fsync(handle.fileno())
            (partial / file).replace(path / file)
    shutil.rmtree(partial)


def _pacx_version() -> str:
    from pacx import __version__

    return __version__
