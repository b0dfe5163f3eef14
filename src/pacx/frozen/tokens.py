"""Frozen patch tokens: what a mask decoder is trained on, kept like the embeddings.

`patches`, float16 (N, T, D), the patch tokens after the final norm in reading order, without the class token; T is the
number of patches. The centre of half precision is one of every place and dimension: tokens of a random network differ
mostly by where they are.

A ViT-B/16 at 224 px has 301 kB of them per image and view, so it is the caller who says whether they are worth keeping.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.data.store import Store
from pacx.frozen.cache import KeptRows, Rows, keep, row_bytes
from pacx.frozen.features import check_images, forward, identity, reference_rows
from pacx.models.encoder import Encoder, EncoderConfig

__all__ = ["PatchTokens", "keep_tokens", "token_bytes"]

_ARRAY = "patches"


class PatchTokens:
    """The patch tokens of some rows of a store, read from disk."""

    def __init__(self, kept: KeptRows) -> None:
        self._kept = kept

    def __call__(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return the tokens of rows that were asked for when this was made, (n, T, D) float32."""
        return self._kept.read(_ARRAY, rows)


def keep_tokens(
    encoder: Encoder, store: Store, rows: ArrayLike, *, cache: Path, batch_size: int = 64, flip: bool = False
) -> PatchTokens:
    """Compute the patch tokens of some rows, unless they are kept already.

    Args:
        encoder: any encoder; it computes in evaluation mode, on the device that it is on.
        store: a store with images.
        rows: (n,) row numbers, each with an image.
        cache: folder that keeps tokens between runs.
        batch_size: images per forward pass; only speed and memory depend on it.
        flip: of the mirror images, left and right exchanged after preprocessing.

    Raises:
        PacxError: the store has no images, the cache cannot be written or has no space, or a token is not finite.
    """
    check_images(encoder, store)
    config = encoder.config
    kept = keep(
        cache, "tokens", facts=identity(encoder, store, flip=flip), shapes={_ARRAY: (config.num_patches, config.width)},
        num_rows=len(store), reference=reference_rows(store), rows=np.asarray(rows, dtype=np.int64),
        compute=partial(_patches, encoder, store, flip=flip), batch_size=batch_size,
    )  # fmt: skip
    return PatchTokens(kept)


def token_bytes(config: EncoderConfig) -> int:
    """Return what the tokens of one image in one view take on disk."""
    return row_bytes({_ARRAY: (config.num_patches, config.width)})


def _patches(encoder: Encoder, store: Store, rows: Rows, *, flip: bool) -> dict[str, NDArray[np.float32]]:
    return {_ARRAY: forward(encoder, store, rows, flip=flip)[:, 1:].cpu().numpy()}
