"""The published linear probe: on cached features, and with the backbone in the loop.

    python -m benchmarks.probe [--quick]

Both train the same head for 40 epochs on the same images, mirrored with probability .5, choose the epoch by validation
AUROC and score the test images; a ViT of width 192 (ViT-Ti/16) at 96 px, one binary label, two threads.

* Ours is `pacx probe --protocol paper`, the whole command from a store to a run folder, with an empty cache: opening
  and hashing, features of both views, training, 1,000 bootstrap draws, all measures, all files.
* The peer is what people write: a frozen backbone in evaluation mode under `no_grad`, run for every batch of every
  epoch, `nn.Linear`, `torch.optim.AdamW`, a cosine, the validation split after every epoch. Images are ready in
  memory, nothing is written.
* Both see the images in the same order with the same flips: the test logits must agree within 1e-4 in every round.
* `speed_ratio`: seconds of the peer over ours, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.measure import interleave, ratio, say, spread
from benchmarks.results import Row, finish
from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.evaluation.epochs import plan_epoch
from pacx.evaluation.paper_probe import FIRST_SEED
from pacx.evaluation.probe import probe
from pacx.frozen.features import preprocessed
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from pacx.statistics import auroc

TOLERANCE = 1e-4
ROUNDS = 2


@dataclass(frozen=True)
class Sizes:
    """What is probed."""

    train: int = 350
    val: int = 50
    test: int = 100
    image: int = 96
    width: int = 192
    depth: int = 12
    heads: int = 3
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 3e-3


BASE = Sizes()
QUICK = Sizes(train=24, val=12, test=12, image=32, width=32, depth=2, heads=2, epochs=6, batch=8)


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        content = measure(QUICK if options.quick else BASE, Path(folder), rounds=options.rounds)
    finish("probe", content, quick=options.quick or options.threads != 2 or options.rounds < ROUNDS)


def measure(sizes: Sizes, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Time both sides in turns and compare their logits.

    Raises:
        SystemExit: the logits differ by more than 1e-4, so there is nothing to compare.
    """
    store, encoder = make_store(sizes, folder / "store"), make_encoder(sizes, folder / "encoder")
    logits: dict[str, list[np.ndarray]] = {"cached": [], "loop": []}

    def cached() -> None:
        out = folder / f"round-{len(logits['cached'])}" / "run"  # beside it a cache of its own, empty
        logits["cached"].append(probe_cached(sizes, store, encoder, out))

    def loop() -> None:
        logits["loop"].append(probe_in_the_loop(sizes, store, encoder))

    seconds = interleave({"cached": cached, "loop": loop}, rounds=rounds, warmup=0, label="probe")
    difference = max(
        float(np.abs(ours - theirs).max()) for ours, theirs in zip(logits["cached"], logits["loop"], strict=True)
    )
    if not difference <= TOLERANCE:
        raise SystemExit(f"Test logits differ by {difference:.2g}; allowed: {TOLERANCE}.")
    say(f"test logits differ by {difference:.1e}")
    return summarise(seconds, difference, sizes)


def make_store(sizes: Sizes, path: Path) -> Store:
    """Make images of noise, brighter in the upper half where the label is 1."""
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "val", "test"], [sizes.train, sizes.val, sizes.test])
    label = rng.integers(0, 2, len(split)).astype(float)
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(len(split))], "split": split, "bright": label})
    table["patient_id"] = table["image_id"]
    writer = StoreWriter(path, name="noise", num_rows=len(table), image_size=sizes.image)
    for row, bright in enumerate(label):
        image = rng.uniform(0.2, 0.8, (sizes.image, sizes.image))
        image[: sizes.image // 2] += 0.1 * bright
        writer.write(row, image=image)
    writer.finish(Manifest("noise", table, {"bright": Task("bright", ("bright",), "binary")}), source={})
    return Store.open(path)


def make_encoder(sizes: Sizes, path: Path) -> Path:
    """Save an encoder with fresh weights; how long it takes does not depend on them."""
    torch.manual_seed(0)
    preprocess = Store.open(path.parent / "store").preprocess()
    config = EncoderConfig(preprocess, patch_size=16, width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    save_encoder(Encoder(config).eval(), path)
    return path


def probe_cached(sizes: Sizes, store: Store, encoder: Path, out: Path) -> np.ndarray:
    """Run the command; return the test logits."""
    probe(
        store=store.path, encoder=str(encoder), out=out, protocol="paper", fractions=[1.0], seeds=1,
        learning_rates=[sizes.learning_rate], head_batch_size=sizes.batch, epochs=sizes.epochs,
    )  # fmt: skip
    return pd.read_parquet(out / "predictions.parquet")["score"].to_numpy()


def probe_in_the_loop(sizes: Sizes, store: Store, encoder: Path) -> np.ndarray:
    """Train the same head with the backbone in the loop; return the test logits of the best epoch."""
    backbone = load_encoder(encoder).eval().requires_grad_(False)
    rows = {split: store.rows(split) for split in ("train", "val", "test")}
    images = {split: preprocessed(backbone, store, own) for split, own in rows.items()}
    label = {split: torch.from_numpy(store.manifest["bright"].to_numpy(np.float32)[own]) for split, own in rows.items()}
    torch.manual_seed(FIRST_SEED)
    head = nn.Linear(sizes.width, 1)
    groups = [{"params": [head.weight]}, {"params": [head.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=sizes.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=sizes.epochs)

    def embed(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return backbone(batch)

    def score(split: str) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([head(embed(batch))[:, 0] for batch in images[split].split(sizes.batch)]).numpy()

    best, kept = -1.0, {name: value.clone() for name, value in head.state_dict().items()}
    for epoch in range(sizes.epochs):
        plan = plan_epoch(sizes.train, seed=FIRST_SEED, epoch=epoch)
        flip = torch.from_numpy(plan.mirrored)[:, None, None, None]
        for turn in torch.from_numpy(plan.order).split(sizes.batch):
            batch = images["train"][turn]
            logits = head(embed(torch.where(flip[turn], batch.flip(-1), batch)))[:, 0]
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(logits, label["train"][turn]).backward()
            optimiser.step()
        schedule.step()
        found = auroc(label["val"].numpy(), score("val"))
        if found > best:
            best, kept = found, {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(kept)
    return score("test")


def summarise(seconds: dict[str, list[float]], difference: float, sizes: Sizes) -> dict[str, Any]:
    """Turn seconds into the key that is promised and the figures behind it."""
    speed = ratio(seconds["loop"], seconds["cached"])
    return {
        "speed_ratio": speed["ratio"],
        "rounds": len(seconds["loop"]),
        "logit_difference": difference,
        "speed": speed,
        "seconds": {side: spread(times) for side, times in seconds.items()},
        "sizes": asdict(sizes),
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    sizes = results["sizes"]
    what = f"{sizes['epochs']} epochs, {sizes['train']} + {sizes['val']} + {sizes['test']} images"
    return [
        Row(
            f"speed of a probe, end to end, times the one with the backbone in the loop: {what}",
            results["speed"],
            at_least=12,
        ),
        Row("seconds, cached features", results["seconds"]["cached"]),
        Row("seconds, backbone in the loop", results["seconds"]["loop"]),
        Row(
            "largest difference of test logits, millionths", results["logit_difference"] * 1e6, at_most=TOLERANCE * 1e6
        ),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny network: shows that it runs")
    parser.add_argument("--threads", type=int, default=2, help="the results are kept for 2 only")
    parser.add_argument("--rounds", type=int, default=None, help="[2; quick: 1]; fewer are not kept")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


if __name__ == "__main__":
    main()
