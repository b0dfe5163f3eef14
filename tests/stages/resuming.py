"""A tiny pre-training that is stopped at will, and a comparison of everything that it leaves."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder
from pacx.runs import open_run
from pacx.stages.masked_pretraining import MaskedPretraining
from pacx.stages.progress import MEASURED
from pacx.stages.run import fit, make_trainer, resume_path, seed_everything

EPOCHS = 3


class Killed(BaseException):
    """Stands for kill -9: nothing of ours or Lightning's catches it to save something."""


class KillAt(L.Callback):
    """Ends the run before a batch, counted over training and validation batches since this start."""

    def __init__(self, count: int) -> None:
        self.left = count

    def on_train_batch_start(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def on_validation_batch_start(self, *_: Any) -> None:
        self.on_train_batch_start()


def train(
    store: Store,
    out: Path,
    *callbacks: L.Callback,
    batch_size: int = 10,
    val_batch_size: int = 24,
    workers: int = 0,
    minutes: float = 0,
    resume: Any = "auto",
    change: Callable[[MaskedPretraining], None] | None = None,
    **options: Any,
) -> tuple[MaskedPretraining, L.Trainer]:
    """48 images in five batches, the last one smaller; 24 validation images."""
    with open_run(out, command="pretrain", config={"batch_size": batch_size}) as run:
        run.read("store", hash=store.content_hash)
        seed_everything(0)
        config = EncoderConfig(store.preprocess(), patch_size=8, width=16, depth=1, heads=2, provenance={})
        model = MaskedAutoencoder(
            Encoder(config), decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.75,
            normalise_targets=False,
        )  # fmt: skip
        module = MaskedPretraining(
            model, image_ids=store.manifest["image_id"].tolist(), learning_rate=0.01, weight_decay=0.05,
            warmup_epochs=1.0,
        )  # fmt: skip
        if change is not None:
            change(module)
        rows = {split: store.rows(split, needs=("image",)) for split in ("train", "val")}
        made = {"train": Augment.pretrain(), "val": Augment.none()}
        loaders = {
            split: make_loader(
                StoreDataset(store, rows[split], preprocess=store.preprocess(), augment=made[split]),
                batch_size=batch_size if split == "train" else val_batch_size,
                shuffle=split == "train",
                workers=workers if split == "train" else 0,
            )
            for split in rows
        }
        trainer = make_trainer(
            run, epochs=EPOCHS, accelerator="cpu", devices=1, checkpoint_minutes=minutes, callbacks=callbacks, **options
        )
        fit(trainer, module, loaders["train"], loaders["val"], resume=resume_path(run, resume))
        return module, trainer


def train_in_parts(store: Store, out: Path, *, kill_at: int, **options: Any) -> int:
    """Train, killed before the `kill_at`-th batch of each part; return the number of parts."""
    for part in range(1, 100):
        try:
            train(store, out, KillAt(kill_at), **options)
        except Killed:
            continue
        return part
    raise AssertionError("the run makes no headway")


def what_is_left(out: Path) -> dict[str, Any]:
    """Flatten checkpoints and table into path -> value, without measurements of time and machine."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        content = torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)
        del content["callbacks"]["EpochTable"]["pace"]
        # What Lightning counts of an epoch's validation starts from 0 in the next epoch.
        del content["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        _flatten(content, name, found)
    with (out / "metrics.csv").open() as file:
        _flatten(list(csv.DictReader(file)), "metrics.csv", found)
    return {path: value for path, value in found.items() if path.rpartition("/")[2] not in MEASURED}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Name what is not equal to the last bit."""
    return [path for path in {**a, **b} if not (path in a and path in b and _equal(a[path], b[path]))]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _flatten(value: Any, path: str, found: dict[str, Any]) -> None:
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found[f"{path}/"] = len(value)
        for key, item in pairs:
            _flatten(item, f"{path}/{key}", found)
    else:
        found[path] = value
