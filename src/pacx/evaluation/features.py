"""Frozen features: one forward pass per image, then never again.

    CACHE/features-<key>/
      cls.npy     float32 (N, D), class token after the final norm, row i belongs to store row i
      mean.npy    float32 (N, D), mean of the patch tokens after the final norm
      done.npy    bool (N,), which rows are there
      meta.json   what the key stands for

* The key hashes the weights, the encoder's configuration with its preprocessing, and the store's content: anything
  that could change a feature changes the key, so a cache is never stale.
* Rows are added as they are asked for; an interrupted run goes on where it stopped.
* float32, not half precision: the class token of a random network varies by about 1 % around a large mean, which
  half precision would round to some twenty steps and so handicap the baseline.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, load_encoder, weights_hash
from pacx.runs import write_json

__all__ = ["CACHE_VARIABLE", "Token", "encoder_name", "extract", "feature_cache", "open_encoder", "preprocessed"]

Token = Literal["cls", "mean", "both"]
"""What stands for an image: class token, mean of the patch tokens, or the two side by side."""

CACHE_VARIABLE = "PACX_CACHE"
_VERSION = 1
_ROWS_BETWEEN_SAVES = 2048
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
    for prefix in ("timm:", "hf-hub:"):
        if str(source).startswith(prefix):
            return str(source).removeprefix(prefix).rpartition("/")[2]
    path = Path(source).absolute()
    if path.is_file():
        return path.stem
    return path.parent.name if path.name == "encoder" else path.name


def feature_cache(out: Path) -> Path:
    """Return the folder for cached features: $PACX_CACHE, or `.features` beside the run folder `out`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(out).absolute().parent / ".features"


def extract(
    encoder: Encoder,
    store: Store,
    rows: ArrayLike,
    *,
    token: Token = "cls",
    batch_size: int = 64,
    cache: Path | None = None,
) -> NDArray[np.float32]:
    """Return the frozen features of some rows of a store.

    Args:
        encoder: any encoder; it computes in evaluation mode, on the device that it is on.
        store: a store with images.
        rows: (n,) row numbers, each with an image.
        token: which tokens to use.
        batch_size: images per forward pass; only speed and memory depend on it.
        cache: folder that keeps features between runs; nothing is kept if not given.

    Returns:
        (n, D) float32, or (n, 2 D) for `token="both"`.

    Raises:
        PacxError: the store has no images, the cache cannot be written, or a feature is not finite.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    with tempfile.TemporaryDirectory() as passing:
        folder = _open_folder(Path(passing) if cache is None else Path(cache), encoder, store)
        _fill(folder, encoder, store, wanted, batch_size=batch_size)
        names = ("cls", "mean") if token == "both" else (token,)
        parts = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)[wanted] for name in names]
    return np.concatenate(parts, axis=1).astype(np.float32, copy=False)


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


def _fill(folder: Path, encoder: Encoder, store: Store, wanted: NDArray[np.int64], *, batch_size: int) -> None:
    """Compute what is not in the cache yet; `done` is written after the features that it vouches for."""
    done = np.load(folder / "done.npy", allow_pickle=False)
    missing = np.unique(wanted[~done[wanted]])
    if not len(missing):
        return
    _warn_of_other_geometry(encoder, store)
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+") for name in ("cls", "mean")}
    with tqdm(total=len(missing), desc="features", unit="image", leave=False, disable=None) as progress:
        for start in range(0, len(missing), _ROWS_BETWEEN_SAVES):
            part = missing[start : start + _ROWS_BETWEEN_SAVES]
            for first in range(0, len(part), batch_size):
                batch = part[first : first + batch_size]
                arrays["cls"][batch], arrays["mean"][batch] = _forward(encoder, store, batch)
                progress.update(len(batch))
            done[part] = True
            _save_done(folder, arrays, done)


@torch.inference_mode()
def _forward(
    encoder: Encoder, store: Store, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    try:
        tokens = encoder.tokens(preprocessed(encoder, store, rows).to(device)).float()
    finally:
        encoder.train(training)
    if not torch.isfinite(tokens).all():
        raise PacxError("The encoder gives features that are not finite: its training diverged. Train it again.")
    return tokens[:, 0].cpu().numpy(), tokens[:, 1:].mean(dim=1).cpu().numpy()


def _save_done(folder: Path, arrays: dict[str, np.memmap], done: NDArray[np.bool_]) -> None:
    for array in arrays.values():
        array.flush()
    temporary = folder / f".done.{os.getpid()}.npy"
    np.save(temporary, done)
    temporary.replace(folder / "done.npy")


def _open_folder(cache: Path, encoder: Encoder, store: Store) -> Path:
    """Find or make the folder of this encoder and store; it appears whole or not at all."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name != "provenance"}
    facts = {"version": _VERSION, "weights": weights_hash(encoder), "encoder": config, "store": store.content_hash}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    folder = cache / f"features-{key[:24]}"
    if (folder / "meta.json").is_file():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _check_space(cache, 2 * 4 * len(store) * encoder.config.width)
        filling = Path(tempfile.mkdtemp(dir=cache, prefix=".features-"))
    except OSError as error:
        raise PacxError(
            f"The feature cache {cache} cannot be written ({error.strerror}). Set {CACHE_VARIABLE} to another folder."
        ) from error
    try:
        for name in ("cls", "mean"):  # sparse until filled
            np.lib.format.open_memmap(
                filling / f"{name}.npy", mode="w+", dtype=np.float32, shape=(len(store), encoder.config.width)
            ).flush()
        np.save(filling / "done.npy", np.zeros(len(store), dtype=bool))
        write_json(filling / "meta.json", {**facts, "store_name": store.name})
        filling.chmod(0o755)
        filling.rename(folder)
    except OSError as error:
        if not (folder / "meta.json").is_file():  # otherwise another process made it meanwhile
            raise PacxError(f"The feature cache {cache} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)
    return folder


def _check_space(cache: Path, needed: int) -> None:
    """Refuse early: writing to a memory map on a full disk would end the process without a message."""
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise PacxError(
            f"The features need {needed / 1e9:.2f} GB in {cache}, where {free / 1e9:.2f} GB are free. "
            f"Free some space or set {CACHE_VARIABLE} to a folder on another disk."
        )


def _warn_of_other_geometry(encoder: Encoder, store: Store) -> None:
    theirs, ours = encoder.config.preprocess.geometry, store.meta["geometry"]
    if theirs != ours:
        log.warning(
            "the encoder was trained on images made square by '%s', store %s by '%s': features may suffer",
            theirs,
            store.name,
            ours,
        )
