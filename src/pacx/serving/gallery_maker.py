"""Makes the gallery of a model: training images of a store, embedded; see `pacx.serving.gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.preprocess import fit_square
from pacx.serving.checks import store_batches
from pacx.serving.gallery import unit_rows
from pacx.serving.runtime import Model

__all__ = ["make_gallery"]

_EDGE = 96


def make_gallery(model: Model, store: Store, *, num: int, path: Path) -> None:
    """Embed training images of a store, evenly spaced over it, and write them with small pictures and labels.

    Raises:
        PacxError: the store has no training image.
    """
    rows = store.rows("train", needs=("image",))
    if not len(rows) or store.images is None:
        raise PacxError(f"The store {store.name!r} has no training image to make a gallery of.")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, num).astype(np.int64))]
    batches = store_batches(model.facts.preprocess, store, rows)
    found = [model.run(batch, want=("embedding",)).embedding for batch in batches]
    embedding = np.concatenate([part for part in found if part is not None])
    mean = embedding.mean(axis=0)
    names = list(dict.fromkeys(label for task in store.tasks.values() for label in task.labels))
    pictures = [fit_square(store.images[row].astype(np.float32) / 255, _EDGE) for row in rows]
    arrays: dict[str, Any] = {
        "embedding": unit_rows(embedding - mean),
        "mean": mean,
        "thumbnail": (np.stack(pictures) * 255 + 0.5).astype(np.uint8),
        "image_id": store.manifest["image_id"].to_numpy(dtype=str)[rows],
        "label": store.manifest[names].to_numpy(dtype=np.float32)[rows],
        "label_name": np.array(names, dtype=str),
        "weights_hash": np.array(model.facts.weights_hash),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
