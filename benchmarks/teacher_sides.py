"""What `benchmarks.teachers` times: a store of records, the network, our way to embed them, and the plain loop.

Kept apart from the program that times them: our worker processes read the main program again when they begin, as
`multiprocessing` has it, and should not have to load PyTorch for that. Under `pacx bank` they do not either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage, signal

from benchmarks.measure import interleave, spread
from pacx.data.ecg.recipe import RECIPE, prepare_ecg
from pacx.data.labs import LabReference
from pacx.data.manifest import Manifest
from pacx.data.store import Store, StoreWriter
from pacx.models.ecg_inference import fast_features, side_by_side
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.labs_autoencoder import LabsAutoencoder
from pacx.stages.bank import fill_bank
from pacx.stages.teachers import EcgTeacher, LabsTeacher

Array = np.ndarray[Any, Any]
NUM_LABS, LABS_DIM = 50, 256
PEER_BATCH = 64
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    size: str = "ecgfounder"
    records: int = 512
    """per timed round of ours"""
    peer_records: int = 64
    """of the peer, which is slow, the same number for its faster median"""
    memory_records: int = 2048
    """N; the growth of memory is measured from N to 2N"""
    lab_rows: int = 50_000
    single: int = 16
    """records of which filters and network are timed alone"""


QUICK = Sizes("small", 12, 4, 16, 500, 4)


def make_net(size: str) -> EcgNet:
    """Make a network with random weights, the same ones every time."""
    torch.manual_seed(0)
    return EcgNet(EcgNetConfig.named(size, num_classes=2)).eval()  # type: ignore[arg-type]


def save_teacher(folder: Path, size: str) -> Path:
    """Save the network as `pacx fit-ecg` would."""
    preprocessing = {"recipe": RECIPE, "rate": 500}
    save_ecg_net(make_net(size), folder, labels=("a", "b"), preprocessing=preprocessing, training={})
    return folder


def write_ecgs(folder: Path, num: int) -> Store:
    """Write a store of noisy beats; few different ones, over and over."""
    rng = np.random.default_rng(0)
    t = np.arange(5000) / 500
    beats = np.exp(-((t % 0.8 - 0.4) ** 2) / 0.0005) + 0.2 * np.sin(t)
    some = [rng.uniform(0.5, 1.5, (12, 1)) * beats + 0.05 * rng.standard_normal((12, 5000)) for _ in range(8)]
    writer = StoreWriter(folder, name="records", num_rows=num, ecg=True)
    for row in range(num):
        writer.write(row, ecg=some[row % len(some)])
    writer.finish(Manifest("records", _table(num)), source={"command": "benchmark"})
    return Store.open(folder)


def embed_ours(store: Store, net: EcgNet, folder: Path) -> Array:
    """Make a bank, as `pacx bank` does."""
    teacher = EcgTeacher(net, preprocessing={"recipe": RECIPE, "rate": 500})
    return fill_bank(store, teacher, folder).embeddings


def embed_peer(file: Path, net: EcgNet, num: int, *, median: Callable[[Array], Array] | None = None) -> Array:
    """The plain loop: everything in memory, one record after the other, then batches through the network."""
    records = np.load(file)
    smooth = median or (lambda lead: signal.medfilt(lead, 201))
    notch, band = signal.iirnotch(50, 30, fs=500), signal.butter(4, [0.67, 40], btype="bandpass", fs=500)
    found = []
    for start in range(0, num, PEER_BATCH):
        batch = []
        for record in records[start : min(start + PEER_BATCH, num)]:
            x = signal.filtfilt(*band, signal.filtfilt(*notch, record.astype(np.float64), axis=1), axis=1)
            x = x - np.stack([smooth(lead) for lead in x])
            batch.append((x - x.mean()) / (x.std() + 1e-8))
        with torch.no_grad():
            found.append(net.features(torch.from_numpy(np.stack(batch)).float()).numpy())
    return np.concatenate(found)


def check_equal(folder: Path, store: Store, net: EcgNet, *, num: int) -> float:
    """Return the largest difference between the sides' embeddings, relative to their size; stop if it is large."""
    ours = np.asarray(embed_ours(store, net, folder / "check"))[:num]
    theirs = [embed_peer(store.path / "ecg.npy", net, num, median=median) for median in (None, fast_median)]
    difference = max(float(np.abs(ours - other).max() / np.abs(other).max()) for other in theirs)
    if difference > TOLERANCE:
        raise SystemExit(f"The sides' embeddings differ by {difference:.2g}; they are not compared.")
    return difference


def time_parts(store: Store, net: EcgNet, sizes: Sizes, *, rounds: int) -> dict[str, dict[str, float]]:
    """Time the filters and the network alone, on one core; milliseconds per record."""
    assert store.ecg is not None
    records = [store.ecg[row] for row in range(sizes.single)]
    batch = torch.from_numpy(np.stack([prepare_ecg(record) for record in records]))

    def through(network: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
        @torch.inference_mode()
        def run(x: torch.Tensor) -> torch.Tensor:
            return network(x)

        return lambda: list(side_by_side(run, [batch], threads=1))

    sides: dict[str, Callable[[], Any]] = {
        "filters": lambda: [prepare_ecg(record) for record in records],
        "network, ours": through(lambda x: fast_features(net, x)),
        "network, as written": through(net.features),
    }
    times = interleave(sides, rounds=rounds, label="filters and network alone")
    return {name: spread([1000 * second / sizes.single for second in each], digits=2) for name, each in times.items()}


def time_labs(folder: Path, sizes: Sizes, *, rounds: int) -> dict[str, float]:
    """Time the labs teacher over a table in which a third is missing; rows/s."""
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(sizes.lab_rows, NUM_LABS))
    values[rng.random(values.shape) < 1 / 3] = np.nan
    table = _table(sizes.lab_rows)
    labs = pd.DataFrame(values, columns=[f"lab{i}" for i in range(NUM_LABS)], index=table["image_id"])
    writer = StoreWriter(folder / "labs", name="labs", num_rows=sizes.lab_rows)
    for row in range(sizes.lab_rows):
        writer.write(row)
    units = dict.fromkeys(labs.columns, "mg/dL")
    writer.finish(Manifest("labs", table, labs=labs, lab_units=units), source={"command": "benchmark"})
    store = Store.open(folder / "labs")
    assert store.labs is not None
    torch.manual_seed(0)
    teacher = LabsTeacher(LabsAutoencoder(NUM_LABS, dim=LABS_DIM), LabReference.fit(store.labs), preprocessing={})
    numbers = itertools.count()
    side = {"labs": lambda: fill_bank(store, teacher, folder / f"labs-bank-{next(numbers)}")}
    return rate([second / sizes.lab_rows for second in interleave(side, rounds=rounds, label="labs")["labs"]])


def _table(num: int) -> pd.DataFrame:
    names = [f"r{row:06d}" for row in range(num)]
    return pd.DataFrame({"image_id": names, "patient_id": names, "split": "train"})


def fast_median(lead: Array) -> Array:
    """SciPy's running median of one dimension, equal to `signal.medfilt` and much faster."""
    return ndimage.median_filter(lead, size=201, mode="constant", cval=0.0)


def rate(seconds_each: list[float]) -> dict[str, float]:
    """Turn seconds per item into items per second, with their extremes."""
    return spread([1.0 / seconds for seconds in seconds_each], digits=1)
