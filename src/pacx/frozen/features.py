"""Frozen embeddings: one forward pass per image and view, then never again.

* Two arrays: `cls`, the class token after the final norm, and `mean`, the mean of the patch tokens after it. Two
  views: the image as it is, and its mirror image.
* Kept in half precision relative to the mean of the first images of the store (`pacx.frozen.half`), by a key that
  hashes the weights, the encoder's configuration with its preprocessing, the store's content and the view
  (`pacx.frozen.cache`). What rounding takes away is kept beside, for who needs the features as they were.
* Nothing is rounded where nothing is kept (`cache=None`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.frozen.cache import Compute, Rows, feature_cache, keep
from pacx.models.encoder import Encoder, load_encoder, weights_hash

__all__ = [
    "Token",
    "check_images",
    "encoder_name",
    "extract",
    "feature_cache",
    "forward",
    "identity",
    "open_encoder",
    "preprocessed",
    "reference_rows",
]

Token = Literal["cls", "mean", "both"]
"""What stands for an image: class token, mean of the patch tokens, or the two side by side."""

_NUM_REFERENCE = 64
log = logging.getLogger("pacx")


def open_encoder(source: str | Path) -> Encoder:
    """Load an encoder for evaluation, on the accelerator if there is one; `source` as for `load_encoder`."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return load_encoder(source).to(device)


def encoder_name(source: str | Path) -> str:
    """Return a short name for a report.

    The run's for RUN/encoder, "random" for fresh weights, NAME for timm:NAME and hf-hub:OWNER/NAME, a file's without
    its suffix.
    """
    if str(source).startswith("random:"):
        return "random"
    for prefix in ("timm:", "hf-hub:", "shipped:"):
        if str(source).startswith(prefix):
            return str(source).removeprefix(prefix).rpartition("/")[2]
    path = Path(source).absolute()
    if path.is_file():
        return path.stem
    return path.parent.name if path.name == "encoder" else path.name


def extract(
    encoder: Encoder,
    store: Store,
    rows: ArrayLike,
    *,
    token: Token = "cls",
    batch_size: int = 64,
    cache: Path | None = None,
    flip: bool = False,
    exact: bool = False,
) -> NDArray[np.float32]:
    """Return the frozen features of some rows of a store.

    Args:
        encoder: any encoder; it computes in evaluation mode, on the device that it is on.
        store: a store with images.
        rows: (n,) row numbers, each with an image.
        token: which tokens to use.
        batch_size: images per forward pass; only speed and memory depend on it.
        cache: folder that keeps features between runs, rounded to half precision; if not given, nothing is kept
            and nothing rounded.
        flip: of the mirror images, left and right exchanged after preprocessing.
        exact: read them with what rounding took away, to 2^-22 of the distance from the centre.

    Returns:
        (n, D) float32, or (n, 2 D) for `token="both"`.

    Raises:
        PacxError: the store has no images, the cache cannot be written, or a feature is not finite.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    names = ("cls", "mean") if token == "both" else (token,)
    check_images(encoder, store)
    compute = partial(_embed, encoder, store, flip=flip)
    if not len(wanted):
        return np.empty((0, len(names) * encoder.config.width), dtype=np.float32)
    if cache is None:
        parts = _passing(compute, wanted, names=names, batch_size=batch_size)
    else:
        width = (encoder.config.width,)
        kept = keep(
            cache, "features", facts=identity(encoder, store, flip=flip), shapes={"cls": width, "mean": width},
            num_rows=len(store), reference=reference_rows(store), rows=wanted, compute=compute, batch_size=batch_size,
            remainders=True,
        )  # fmt: skip
        parts = [kept.read(name, wanted, exact=exact) for name in names]
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def check_images(encoder: Encoder, store: Store) -> None:
    """Refuse a store without images; say in the log if the encoder expects them made square in another way.

    Raises:
        PacxError: the store has no images.
    """
    if store.images is None:
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    theirs, ours = encoder.config.preprocess.geometry, store.meta["geometry"]
    if theirs != ours:
        log.warning(
            "the encoder was trained on images made square by '%s', store %s by '%s': features may suffer",
            theirs, store.name, ours,
        )  # fmt: skip


def preprocessed(encoder: Encoder, store: Store, rows: ArrayLike) -> torch.Tensor:
    """Return images of a store as the encoder wants them, (n, C, S, S) float32.

    Raises:
        PacxError: the store has no images.
    """
    if store.images is None:
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    preprocess = encoder.config.preprocess
    pixels = store.images[np.asarray(rows)].astype(np.float32) / 255.0
    return torch.from_numpy(np.stack([preprocess(image) for image in pixels]))


def reference_rows(store: Store) -> Rows:
    """Return the rows that set centre and scale of half precision: the first images of the store."""
    return store.rows(needs=("image",))[:_NUM_REFERENCE]


def identity(encoder: Encoder, store: Store, *, flip: bool) -> dict[str, Any]:
    """Return all that what an encoder makes of a store depends on, as JSON types."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name != "provenance"}
    view = "mirrored" if flip else "straight"
    return {"weights": weights_hash(encoder), "encoder": config, "store": store.content_hash, "view": view}


@torch.inference_mode()
def forward(encoder: Encoder, store: Store, rows: Rows, *, flip: bool) -> torch.Tensor:
    """Return all tokens of some images after the final norm, (n, 1+T, D) float32, on the encoder's device.

    The encoder computes in evaluation mode and is left in the mode it was in.

    Raises:
        PacxError: the store has no images, or a token is not finite.
    """
    images = preprocessed(encoder, store, rows)
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    try:
        tokens = encoder.tokens((images.flip(-1) if flip else images).to(device)).float()
    finally:
        encoder.train(training)
    if not torch.isfinite(tokens).all():
        raise PacxError("The encoder gives features that are not finite: its training diverged. Train it again.")
    return tokens


def _embed(encoder: Encoder, store: Store, rows: Rows, *, flip: bool) -> dict[str, NDArray[np.float32]]:
    tokens = forward(encoder, store, rows, flip=flip)
    return {"cls": tokens[:, 0].cpu().numpy(), "mean": tokens[:, 1:].mean(dim=1).cpu().numpy()}


def _passing(compute: Compute, rows: Rows, *, names: Sequence[str], batch_size: int) -> list[NDArray[np.float32]]:
    """Compute without keeping, each image once."""
    unique, places = np.unique(rows, return_inverse=True)
    starts = tqdm(range(0, len(unique), batch_size), desc="features", unit="batch", leave=False, disable=None)
    batches = [compute(unique[first : first + batch_size]) for first in starts]
    return [np.concatenate([batch[name] for batch in batches])[places] for name in names]
