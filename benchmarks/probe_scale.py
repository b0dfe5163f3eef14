"""All of NIH ChestX-ray14's size through the published probe: 112,120 images, 14 labels, 8 learning rates.

    python -m benchmarks.probe_scale [--quick] [--honest]

Everything that `pacx probe --protocol paper` does once the features are there: reading them from the cache (both
views), 3 fractions x 5 seeds x 8 learning rates x 14 heads for 40 epochs with the published batch of 512, choosing
epoch and rate, scoring the test images, 1,000 bootstrap draws of every AUROC, and the table of measures.

* The features are random numbers, 768 per image, with a weak trace of the labels. How long a head takes does not
  depend on what is in them. They are put into the cache before the clock starts, as extraction would have.
* The store has its own 112,120 rows of 30,805 patients; its images are 16 x 16 and no encoder ever sees them.
* `seconds`: of the whole command, once. `peak_rss_mib`: the most that the process ever held (VmHWM), libraries too.
* `--honest`: the honest protocol with k nearest neighbours at the same size, for comparison; the results are not kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.measure import peak_rss_mib, say
from benchmarks.results import Row, finish
from pacx.data.manifest import Manifest, Task
from pacx.data.splits import split_patients
from pacx.data.store import Store, StoreWriter
from pacx.evaluation.probe import probe
from pacx.frozen import features as frozen
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder

PREVALENCE = (0.103, 0.025, 0.119, 0.177, 0.052, 0.056, 0.013, 0.047, 0.042, 0.021, 0.022, 0.015, 0.030, 0.002)
"""share of images with each of the 14 findings, as in the published table of the data set"""
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class Sizes:
    """What is probed."""

    images: int = 112_120
    patients: int = 30_805
    width: int = 768
    epochs: int = 40
    seeds: int = 5
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    draws: int = 1000


NIH = Sizes()
QUICK = Sizes(images=600, patients=200, width=64, epochs=2, seeds=2, draws=20)


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(options.threads)
    sizes = QUICK if options.quick else NIH
    with tempfile.TemporaryDirectory() as folder:
        content = measure(sizes, Path(folder), protocol="honest" if options.honest else "paper")
    finish("probe_scale", content, quick=options.quick or options.honest or options.threads != 2)


def measure(sizes: Sizes, folder: Path, *, protocol: str) -> dict[str, Any]:
    """Make a store and its cached features, then time the whole command."""
    store = make_store(sizes, folder / "store")
    encoder = make_encoder(sizes, store, folder / "encoder")
    fill_cache(store, encoder, folder / ".features")
    say("probing")
    arguments: dict[str, Any] = {"learning_rates": list(LEARNING_RATES), "epochs": sizes.epochs}
    start = time.perf_counter()
    result = probe(
        store=store.path, encoder=str(folder / "encoder"), out=folder / "run", protocol=protocol,  # type: ignore[arg-type]
        fractions=list(sizes.fractions), seeds=sizes.seeds, draws=sizes.draws,
        **(arguments if protocol == "paper" else {}),
    )["results"]  # fmt: skip
    seconds = time.perf_counter() - start
    heads = len(result["scores"]) * (len(LEARNING_RATES) if protocol == "paper" else 1)
    return {
        "protocol": protocol,
        "seconds": round(seconds, 1),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "heads": heads,
        "rounds": 1,
        "sizes": {**asdict(sizes), "labels": len(PREVALENCE), "learning_rates": len(LEARNING_RATES)},
    }


def make_store(sizes: Sizes, path: Path) -> Store:
    """Make a store with as many rows and labels; its name has it probed with NIH's published batch size."""
    rng = np.random.default_rng(0)
    patient = np.sort(
        np.concatenate([np.arange(sizes.patients), rng.integers(0, sizes.patients, sizes.images - sizes.patients)])
    )
    table = pd.DataFrame(
        {"image_id": [f"{i:08d}" for i in range(sizes.images)], "patient_id": [f"{i:05d}" for i in patient]}
    )
    table["split"] = split_patients(table)
    table["sex"] = rng.choice(["F", "M"], sizes.patients)[patient]
    table["age"] = rng.integers(5, 90, sizes.patients)[patient]
    names = tuple(f"finding_{number}" for number in range(len(PREVALENCE)))
    for name, prevalence in zip(names, PREVALENCE, strict=True):
        table[name] = (rng.random(sizes.images) < prevalence).astype(float)
    writer = StoreWriter(path, name="nih-size", num_rows=sizes.images, image_size=16)
    image = np.zeros((16, 16), dtype=np.uint8)
    for row in range(sizes.images):
        writer.write(row, image=image)
    writer.finish(Manifest("nih-size", table, {"nih": Task("nih", names, "multilabel")}), source={})
    return Store.open(path)


def make_encoder(sizes: Sizes, store: Store, path: Path) -> Encoder:
    """Save an encoder of the right width; only its name and hash are used."""
    encoder = Encoder(EncoderConfig(store.preprocess(), patch_size=8, width=sizes.width, depth=1, heads=4)).eval()
    save_encoder(encoder, path)
    return encoder


def fill_cache(store: Store, encoder: Encoder, cache: Path) -> None:
    """Put random features of both views into the cache, in the way that extraction fills it."""
    labels = store.manifest[list(store.task("nih").labels)].to_numpy(np.float32)
    trace = np.random.default_rng(1).normal(size=(labels.shape[1], encoder.config.width)).astype(np.float32) * 0.2

    def draw(_: Encoder, __: Store, rows: np.ndarray, *, flip: bool) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([int(rows[0]), flip])
        values = labels[rows] @ trace + rng.standard_normal((len(rows), encoder.config.width), dtype=np.float32)
        return {"cls": values, "mean": values}

    extracted, frozen._embed = frozen._embed, draw
    try:
        for flip in (False, True):
            rows = store.rows("train" if flip else None)
            say(f"filling the cache: {len(rows)} rows{', mirrored' if flip else ''}")
            frozen.extract(encoder, store, rows, batch_size=2048, cache=cache, flip=flip)
    finally:
        frozen._embed = extracted


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    sizes = results["sizes"]
    what = (
        f"{sizes['images']:,} images, {sizes['labels']} labels, {len(sizes['fractions'])} fractions x "
        f"{sizes['seeds']} seeds x {sizes['learning_rates']} learning rates, {sizes['epochs']} epochs"
    )
    return [
        Row(
            f"seconds, published probe from cached features to all intervals and measures: {what}",
            results["seconds"],
            at_most=600,
        ),
        Row("peak memory of that, MiB", results["peak_rss_mib"], at_most=8 * 1024),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="600 images: shows that it runs")
    parser.add_argument("--honest", action="store_true", help="the honest protocol in place of the published one")
    parser.add_argument("--threads", type=int, default=2, help="the results are kept for 2 only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
