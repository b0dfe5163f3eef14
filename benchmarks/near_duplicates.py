"""Copies of images: how many are found, and how many pairs of strangers are taken for copies.

    python -m benchmarks.near_duplicates [--quick] [--data ../shared/data]

* Strangers: one image each of different patients, simulated (128 px) and, with `--data`, of the open sample. Every pair
  of them that counts as a copy, straight or mirrored, is a false alarm. Simulated patients are more alike than real
  ones.
* Copies: images of the first of these patients, changed in one way each; found if `find_copies` pairs them.
* `seconds_per_100k` is extrapolated from the time of comparing all pairs, which grows with the square of their number.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import rotate

from benchmarks.measure import say
from benchmarks.results import Row, finish
from pacx.data.manifest import Manifest
from pacx.data.near_duplicates import COARSE, FINE, find_copies, fingerprints, joined
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.store import Store, StoreWriter
from pacx.preprocess import fit_square

Gray = NDArray[np.float32]


def _jpeg(gray: Gray) -> Gray:
    file = io.BytesIO()
    Image.fromarray(np.rint(gray * 255).astype(np.uint8)).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file), dtype=np.float32) / 255


CHANGES: dict[str, Callable[[Gray], Gray]] = {
    "mirrored": lambda gray: gray[:, ::-1],
    "brighter": lambda gray: np.clip(gray + 0.08, 0, 1),
    "less contrast": lambda gray: 0.8 * gray + 0.1,
    "gamma 1.5": lambda gray: gray**1.5,
    "mirrored and brighter": lambda gray: np.clip(gray[:, ::-1] + 0.08, 0, 1),
    "JPEG, quality 40": _jpeg,
    "noise of .03": lambda gray: np.clip(gray + 0.03 * np.random.default_rng(0).standard_normal(gray.shape), 0, 1),
    "turned by 2 degrees": lambda gray: rotate(gray, 2, reshape=False, order=1, mode="nearest"),
    "cropped by 2 %": lambda gray: fit_square(gray[2:-2, 2:-2], len(gray)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all is well")
    parser.add_argument("--data", type=Path, help="the open sample, for real X-rays too")
    arguments = parser.parse_args()
    logging.getLogger("pacx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), quick=arguments.quick, data=arguments.data)
    finish("near_duplicates", found, quick=arguments.quick)


def measure(folder: Path, *, quick: bool, data: Path | None) -> dict[str, Any]:
    patients, copies = (60, 10) if quick else (2000, 400)
    stores = {"simulated": folder / "simulated"}
    simulate(out=stores["simulated"], patients=patients, size=128, ecg=False, labs=False, workers=1)
    if data is not None:
        stores["open sample"] = folder / "real"
        prepare("open-sample", data, part="cxr", size=128, workers=1, out=stores["open sample"])
    results = {name: _measure(folder, name, Store.open(path), copies) for name, path in stores.items()}
    return {"rounds": 1, "limits": {"coarse": COARSE, "fine": FINE}, "sets": results}


def _measure(folder: Path, name: str, store: Store, num_copies: int) -> dict[str, Any]:
    say(f"near_duplicates: {name}")
    first = ~store.manifest["patient_id"].duplicated() & store.manifest["has_image"]
    rows = np.flatnonzero(first.to_numpy())
    strangers = fingerprints(store, rows)
    begun = time.perf_counter()
    alarms = list(find_copies(strangers))
    seconds = time.perf_counter() - begun
    pairs = len(rows) * (len(rows) - 1) / 2
    recall = {}
    for change, make in CHANGES.items():
        assert store.images is not None
        gray = [np.asarray(store.images[row], dtype=np.float32) / 255 for row in rows[:num_copies]]
        changed = np.stack([np.clip(make(one), 0, 1) for one in gray])
        copy = _store(folder / f"{name} {change}", changed)
        own = find_copies(joined([strangers, fingerprints(copy, np.arange(len(copy)))]))
        planted = {(one.first, one.second) for one in own if one.second - len(rows) == one.first}
        recall[change] = len(planted) / len(copy)
    return {
        "patients": len(rows),
        "pairs": int(pairs),
        "false_alarms": len(alarms),
        "false_alarms_per_million": round(1e6 * len(alarms) / pairs, 3),
        "found": {change: round(share, 4) for change, share in recall.items()},
        "seconds_per_100k": round(seconds * (100_000 / len(rows)) ** 2),
    }


def _store(path: Path, images: NDArray[np.float32]) -> Store:
    ids = [str(i) for i in range(len(images))]
    writer = StoreWriter(path, name="copies", num_rows=len(images), image_size=images.shape[1])
    for row, image in enumerate(images):
        writer.write(row, image=image)
    writer.finish(Manifest("copies", pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train"})), source={})
    return Store.open(path)


def rows(results: dict[str, Any]) -> list[Row]:
    """Name what the table shows."""
    lines = []
    for name, own in results["sets"].items():
        lines.append(Row(f"{name}: false alarms per million pairs of strangers", own["false_alarms_per_million"]))
        lines += [Row(f"{name}: found, {change}", share) for change, share in own["found"].items()]
        lines.append(Row(f"{name}: s to compare 100,000 images, extrapolated", own["seconds_per_100k"]))
    return lines


if __name__ == "__main__":
    main()
