"""Which images a mask decoder learns from and is judged on; stores that cannot answer are refused before any work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["judged_split", "mask_rows"]

_CHUNK = 1024


def mask_rows(store: Store, mask: str, *, train_images: int | None, seed: int) -> dict[str, NDArray[np.int64]]:
    """Choose the rows of each split that have an image and a mask.

    Args:
        store: where they are.
        mask: which of the store's masks.
        train_images: use so many training images, drawn by the seed; all if None.
        seed: of that draw.

    Raises:
        PacxError: no such mask, nothing to learn from or to judge on, or a mask that is the same everywhere.
    """
    store.mask(mask, [])
    _check_sizes(store)
    if train_images is not None and train_images < 1:
        raise PacxError(f"train_images is {train_images}; it must be 1 or more. Leave it out to train on all.")
    rows = {split: store.rows(split, needs=("image", "mask")) for split in ("train", "val", "test")}
    if not len(rows["train"]):
        raise PacxError(
            f"The store {store.name!r} ({store.path}) has no training image with a mask. `pacx prepare` takes masks "
            "from a column with their files (--mask_column) or splits the images anew (--redraw_split)."
        )
    judged = judged_split(store, rows)
    if train_images is not None:
        order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(rows["train"])
        rows["train"] = np.sort(order[:train_images])
    for split in ("train", judged):
        _check_content(store, mask, split, rows[split])
    return rows


def judged_split(store: Store, rows: dict[str, NDArray[np.int64]]) -> str:
    """Return the split whose images are scored: test, or val where there is no test.

    Raises:
        PacxError: there is neither.
    """
    for split in ("test", "val"):
        if len(rows[split]):
            return split
    raise PacxError(
        f"The store {store.name!r} ({store.path}) has neither test nor val images with masks: nothing to score on. "
        "Split it anew with `pacx prepare`."
    )


def _check_sizes(store: Store) -> None:
    if store.images is None or store.masks is None or store.masks.shape == store.images.shape:
        return
    raise PacxError(
        f"The store {store.name!r} ({store.path}) is damaged: its masks are {_edges(store.masks)}, its images "
        f"{_edges(store.images)}. A mask has the size of its image; prepare the store again."
    )


def _edges(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[2]} x {array.shape[1]} pixels"


def _check_content(store: Store, mask: str, split: str, rows: NDArray[np.int64]) -> None:
    """Refuse masks that outline nothing, or everything, in all images of a split."""
    seen = np.zeros(2, dtype=bool)
    for start in range(0, len(rows), _CHUNK):
        inside = store.mask(mask, rows[start : start + _CHUNK])
        seen |= np.array([not inside.all(), inside.any()])
        if seen.all():
            return
    raise PacxError(
        f"The mask {mask!r} is {'empty' if seen[0] else 'full'} in all {len(rows)} {split} images of the store "
        f"{store.name!r} ({store.path}): there is nothing to find. Choose another --mask among "
        f"{', '.join(store.mask_names)}, or look at the mask files."
    )
