# ruff: noqa: F722
"""What a masked autoencoder fills in: the picture by which one judges pre-training at a glance.

A trained model fills in anatomy (mediastinum, diaphragm, ribs); an untrained one fills in gray. Which patches are
hidden is a function of (seed, image), so two models can be compared on the same puzzles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pacx.data.batches import Augment, StoreDataset
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder
from pacx.models.mae import MaskedAutoencoder
from pacx.models.weights import load_weights, save_weights
from pacx.preprocess import Preprocess
from pacx.runs import RunFolder, open_run, write_json
from pacx.stages.completions import complete, draw_completion, hidden_errors

__all__ = ["draw_reconstructions", "fixed_images", "load_autoencoder", "mask_noise", "reconstruct", "save_autoencoder"]

_FIXED_EPOCH = (1 << 32) - 1
"""Stands for "no epoch": masks that are the same whenever they are drawn."""


def reconstruct(
    *,
    run: Path,
    store: Path,
    out: Path,
    split: str = "test",
    num_images: int = 8,
    mask_ratio: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Show what a pre-trained masked autoencoder fills in.

    Args:
        run: a finished `pretrain` run folder.
        store: the store to take images from.
        out: the run folder to write.
        split: which images: train, val or test.
        num_images: how many, spread evenly over the split.
        mask_ratio: share of hidden patches; the training run's own if not given.
        seed: seed of the masks.
        overwrite: replace a finished run in `out`.

    Example:
        pacx reconstruct --run runs/pretrain --store stores/nih --out runs/reconstructions
    """
    arguments = dict(locals())
    if num_images < 1:
        raise PacxError(f"num_images is {num_images}; give the number of images to draw, 1 or more.")
    with open_run(out, command="reconstruct", config=arguments, overwrite=overwrite) as folder:
        model = load_autoencoder(Path(run), mask_ratio=mask_ratio)
        cohort = Store.open(store)
        folder.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        folder.read("run", path=run)
        preprocess = model.encoder.config.preprocess
        images, rows = fixed_images(cohort, split, preprocess=preprocess, count=num_images)
        noise = mask_noise(rows, model.encoder.config.num_patches, seed=seed)
        errors = draw_reconstructions(model, images, noise, run=folder, what=f"{split} images")
        return folder.finish({"num_images": len(rows), "mask_ratio": model.mask_ratio, **errors})


def mask_noise(
    rows: Tensor | NDArray[np.int64], num_patches: int, *, seed: int, epoch: int | None = None
) -> Float[Tensor, "B N"]:
    """Draw the numbers by which patches are ranked for masking, uniform in [0, 1).

    They depend on (seed, epoch, store row) alone: not on the batch, the order, the device or the number of workers.

    Args:
        rows: (B,) store rows.
        num_patches: patches per image, N.
        seed: the run's seed.
        epoch: the epoch; None for masks that never change (validation, figures).
    """
    key = (seed << 32) + (_FIXED_EPOCH if epoch is None else epoch)
    draws = [
        np.random.Generator(np.random.Philox(key=[key % (1 << 64), int(row)])).random(num_patches, dtype=np.float32)
        for row in rows
    ]
    return torch.from_numpy(np.stack(draws))


def save_autoencoder(model: MaskedAutoencoder, path: Path, *, decoder: dict[str, Any]) -> None:
    """Write encoder and decoder as safetensors, with the decoder's settings in a JSON file of the same name."""
    save_weights(model, path)
    write_json(path.with_suffix(".json"), decoder)


def load_autoencoder(run: Path, *, mask_ratio: float | None = None) -> MaskedAutoencoder:
    """Load the full model of a finished `pretrain` run, in evaluation mode.

    Args:
        run: the run folder.
        mask_ratio: share of hidden patches; as in training if not given.

    Raises:
        PacxError: the run has no full model.
    """
    path = run / "mae.safetensors"
    if not path.is_file():
        raise PacxError(f"{path} does not exist. Give the --out folder of a finished `pacx pretrain`.")
    decoder = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if mask_ratio is not None:
        decoder["mask_ratio"] = mask_ratio
    model = MaskedAutoencoder(load_encoder(run / "encoder"), **decoder)
    load_weights(model, path)
    return model.eval()


def fixed_images(
    store: Store, split: str, *, preprocess: Preprocess, count: int
) -> tuple[Float[Tensor, "B C S S"], NDArray[np.int64]]:
    """Take images spread evenly over a split, and their store rows.

    Raises:
        PacxError: the split has no images.
    """
    rows = store.rows(split, needs=("image",))
    if not len(rows):
        raise PacxError(f"Store {store.name} has no images in the split {split!r}. Choose another --split.")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, num=min(count, len(rows))).round().astype(int))]
    dataset = StoreDataset(store, chosen, preprocess=preprocess, augment=Augment.none())
    return torch.stack([dataset[(0, position)]["image"] for position in range(len(chosen))]), chosen


def draw_reconstructions(
    model: MaskedAutoencoder,
    images: Float[Tensor, "B C S S"],
    noise: Float[Tensor, "B N"],
    *,
    run: RunFolder,
    what: str,
) -> dict[str, float]:
    """Draw `figures/reconstructions.png` into a run folder; return the errors on hidden pixels."""
    made = complete(model, images, noise)
    seen = f"{model.num_visible} of {model.encoder.config.num_patches}"
    given = ", with the true brightness and contrast of each patch" if model.normalise_targets else ""
    caption = (
        f"Masked autoencoding on {what}: the X-ray, the {seen} patches that the encoder sees, what the model fills "
        f"in{given} (visible patches pasted back), and the difference."
    )
    draw_completion(made, seen=f"seen: {seen}", path=run.figure("reconstructions.png", caption=caption))
    return hidden_errors(made)
