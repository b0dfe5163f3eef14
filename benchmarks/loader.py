"""Batches for pre-training: ours from a store against torchvision from files, images/s of one core.

    python -m benchmarks.loader [--quick]

* Ours: `make_loader` over a store of 256 px, `Augment.pretrain` (crop of 50 to 100 % of the area, flip), 224 px out,
  normalised, one channel.
* The peer: a `DataLoader` over the files: Pillow open, RGB, RandomResizedCrop, RandomHorizontalFlip, ToTensor and
  Normalize.
* `KIND_ratio`: our images/s over the peer's on files of that kind, in turns, without worker processes, one thread. A
  store does not know what it was made of, so ours is the same for every kind.
* What it costs once: `build`, the images/s of `pacx prepare` on one core, beside a bare loop of decode and resize.
* Extra figure: ours with three channels, for encoders that want them.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import interleave, ratio, say, spread
from benchmarks.results import Row, finish
from benchmarks.xray_files import KINDS, draw_patients, write_files
from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.preprocess import Preprocess

Call = Callable[[], Any]
SIZE, STORED, BATCH = 224, 256, 64
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OUR_IMAGES = 2048  # per timed epoch; the store's rows come several times


class Files(Dataset[torch.Tensor]):
    """The peer: pictures from files.

    Args:
        files: what to read.
        gray: one channel in place of the three that the peer's networks eat.
    """

    def __init__(self, files: Sequence[Path], *, gray: bool = False) -> None:
        self.files = files
        self.mode = "L" if gray else "RGB"
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(**({"mean": 0.5, "std": 0.5} if gray else IMAGENET)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        tensor: torch.Tensor = self.transform(Image.open(self.files[number]).convert(self.mode))
        return tensor


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few files and two rounds: shows that it runs")
    parser.add_argument(
        "--rounds", type=int, default=None, help="timed epochs per side [11; quick: 2]; fewer are not kept"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pacx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="pacx-benchmark-") as folder:
        results = measure(Path(folder), quick=options.quick, rounds=options.rounds or (2 if options.quick else 11))
    finish("loader", results, quick=options.quick or (options.rounds or 11) < 11)


def measure(folder: Path, *, quick: bool, rounds: int) -> dict[str, Any]:
    """Write the files, build the stores, and time everything in turns.

    Args:
        folder: an empty folder for files and stores.
        quick: use very few files.
        rounds: timed epochs per side.
    """
    say("writing files")
    patients = draw_patients(2, size=64) if quick else draw_patients(16, size=512)
    files = {
        kind.name: write_files(folder / kind.name, kind, patients, num=2 if quick else kind.num_files) for kind in KINDS
    }
    stores = {name: _prepared(folder, name, number=0) for name in files}
    differences = {name: store_difference(Store.open(store), files[name]) for name, store in stores.items()}
    build = time_build(folder, files, rounds=2 if quick else 5)
    num_ours = 64 if quick else OUR_IMAGES
    small = Store.open(stores[KINDS[0].name])
    sides: dict[str, Call] = {
        "ours": _epoch(our_loader(small, channels=1, num=num_ours)),
        **{name: _epoch(DataLoader(Files(of), batch_size=BATCH, shuffle=True)) for name, of in files.items()},
        **{
            f"{name} gray": _epoch(DataLoader(Files(of, gray=True), batch_size=BATCH, shuffle=True))
            for name, of in files.items()
        },
        "ours_three_channels": _epoch(our_loader(small, channels=3, num=num_ours)),
    }
    counts = {name: len(files.get(name.removesuffix(" gray"), range(num_ours))) for name in sides}
    # Per image, so that epochs of different lengths compare.
    each = {
        name: [second / counts[name] for second in seconds]
        for name, seconds in interleave(sides, rounds=rounds).items()
    }
    ratios = {f"{name}_ratio": ratio(each[name], each["ours"]) for name in files}
    return {
        **{name: figures["ratio"] for name, figures in ratios.items()},
        "rounds": rounds,
        "ratios": ratios,
        "ratios_gray_peer": {name: ratio(each[f"{name} gray"], each["ours"]) for name in files},
        "ratios_three_channels": {name: ratio(each[name], each["ours_three_channels"]) for name in files},
        "images_per_second": {name: _rate(seconds) for name, seconds in each.items()},
        "build": {
            name: {
                "prepare": _rate([second / len(of) for second in build[name]]),
                "plain_loop": _rate([second / len(of) for second in build[f"{name} plain"]]),
                "ratio": ratio(build[f"{name} plain"], build[name])["ratio"],
            }
            for name, of in files.items()
        },
        "kilobytes_per_file": {
            name: round(sum(file.stat().st_size for file in of) / len(of) / 1000, 1) for name, of in files.items()
        },
        "store_differs_from_pillow_by_levels": max(differences.values()),
        "batch": BATCH,
        "size": SIZE,
        "stored_size": STORED,
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    wanted = {"jpeg_390x320": 10.0, "png_1024": 50.0}
    speeds, build = results["images_per_second"], results["build"]
    names = [kind.name for kind in KINDS]
    return [
        *(
            Row(f"speed, {of}, times the peer's", results["ratios"][f"{of}_ratio"], at_least=wanted.get(of))
            for of in names
        ),
        *(Row(f"the same, the peer with one channel, {of}", results["ratios_gray_peer"][of]) for of in names),
        *(Row(f"the same, ours with three channels, {of}", results["ratios_three_channels"][of]) for of in names),
        *(Row(f"images/s, {name.replace('_', ' ')}", speeds[name]) for name in ("ours", "ours_three_channels")),
        *(Row(f"images/s, peer, {of}", speeds[of]) for of in names),
        *(Row(f"building a store, images/s, {of}", build[of]["prepare"]) for of in names),
        *(Row(f"bare decode and resize, images/s, {of}", build[of]["plain_loop"]) for of in names),
    ]


def our_loader(store: Store, *, channels: int, num: int) -> Iterable[Any]:
    """Make the loader that `pacx pretrain` makes, over `num` rows: the store's, as often as needed."""
    flat = (0.5,) * channels
    dataset = StoreDataset(
        store,
        np.resize(store.rows(), num),
        preprocess=Preprocess(image_size=SIZE, mean=flat, std=flat),
        augment=Augment.pretrain(),
    )
    return make_loader(dataset, batch_size=BATCH, shuffle=True)


def store_difference(store: Store, files: Sequence[Path]) -> int:
    """Return the most that a stored pixel differs from Pillow's own resize of the file, in gray levels of 255."""
    assert store.images is not None
    by_name = {file.name: file for file in files}
    names = store.manifest["path"] if "path" in store.manifest else store.manifest["image_id"]
    stored = dict(zip(names.astype(str), store.images, strict=True))
    most = 0
    for name, pixels in list(stored.items())[:4]:
        levels = _plain(by_name[Path(name).name])
        most = max(most, int(np.abs(levels.astype(int) - pixels.astype(int)).max()))
    return most


def time_build(folder: Path, files: dict[str, list[Path]], *, rounds: int) -> dict[str, list[float]]:
    """Time `prepare` against a bare loop on the same files; returns the seconds by kind, and by "KIND plain"."""
    numbers = itertools.count(1)
    sides: dict[str, Call] = {}
    for name, of in files.items():
        sides[name] = lambda name=name: _prepared(folder, name, number=next(numbers))
        sides[f"{name} plain"] = lambda of=of: [_plain(file) for file in of]
    return interleave(sides, rounds=rounds, label="building stores")


def _prepared(folder: Path, name: str, *, number: int) -> Path:
    out = folder / "stores" / f"{name}-{number}"
    prepare("folder", folder / name, out=out, size=STORED, workers=1)
    return out


def _plain(file: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(file).convert("L").resize((STORED, STORED), Image.Resampling.BILINEAR))


def _epoch(loader: Iterable[Any]) -> Call:
    def read() -> None:
        for _ in loader:
            pass

    return read


def _rate(seconds_each: Sequence[float]) -> dict[str, float]:
    return spread([1.0 / seconds for seconds in seconds_each], digits=1)


if __name__ == "__main__":
    main()
