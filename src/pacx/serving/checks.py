"""Does an exported model say what the trained network says, and what did fewer bits cost?

* **Parity**: largest difference of embedding, probability and attention on images. An embedding's difference counts in
  units of its largest entry, a map's in units of an even map's.
* **Cost of fewer bits**: AUROC of every output on the labelled test images of a store, reduced minus full precision,
  on the same images; without a head, the smallest cosine between the embeddings.
* **Speed**: rounds of both models in turn, the ratio of the medians.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.preprocess import Preprocess
from pacx.readout import Output, Readout
from pacx.serving.runtime import Answers, Model
from pacx.statistics import auroc

__all__ = ["LIMITS", "Limit", "auroc_change", "label_of", "parity", "refuse_difference", "speed_ratio", "store_batches"]

_BATCH = 16


class Limit(NamedTuple):
    """Largest differences that export lets pass."""

    embedding: float
    probability: float
    attention: float


LIMITS = {"fp32": Limit(1e-4, 1e-4, 1e-3), "fp16": Limit(2e-2, 2e-2, 5e-2)}
"""float32 differs by the order of its sums; half precision has 11 bits. With 8 bits AUROC decides."""


def parity(expected: Answers, found: Answers) -> dict[str, float]:
    """Measure the largest differences between two models' answers on the same images."""
    measured: dict[str, float] = {}
    for name in Answers._fields:
        own, other = getattr(expected, name), getattr(found, name)
        if own is None:
            continue
        unit = {"embedding": float(np.abs(own).max()), "attention": 1.0 / own[0].size}.get(name, 1.0)
        measured[name] = float(np.abs(own - other).max()) / unit
    return measured


def refuse_difference(measured: dict[str, float], limit: Limit, *, num_images: int) -> None:
    """Refuse a model that does not say what its origin says.

    Raises:
        PacxError: a difference is above its limit, or not a number.
    """
    wrong = [
        f"{name} by {measured[name]:.2g} (allowed {getattr(limit, name):.0e})"
        for name in measured
        if not measured[name] <= getattr(limit, name)
    ]
    if wrong:
        raise PacxError(
            f"The exported model does not say what the trained one says on {num_images} images: it differs in "
            f"{', '.join(wrong)}. Nothing was written. This is a bug of the exporter or a network that it does not "
            "know; please report it with the encoder's config.json."
        )


def auroc_change(
    reduced: Model, full: Model, store: Store, readout: Readout, *, most: int = 2000
) -> tuple[dict[str, float], int]:
    """Measure what fewer bits cost in AUROC.

    Args:
        reduced: the model with fewer bits.
        full: the same in float32.
        store: has labelled test images of the head's tasks.
        readout: what the head says.
        most: images that are used, the first of the test split.

    Returns:
        AUROC of reduced minus full by output, where it is defined; and how many images were used.

    Raises:
        PacxError: the store has no image, or no label, of the head's outputs in its test split.
    """
    rows = store.rows("test", needs=("image",))[:most]
    answers = [(output, label_of(output, store)) for output in readout.outputs]
    scores = {name: _probabilities(model, store, rows) for name, model in (("reduced", reduced), ("full", full))}
    changes = {}
    for column, (output, label) in enumerate(answers):
        if label is not None:
            change = auroc(label[rows], scores["reduced"][:, column]) - auroc(label[rows], scores["full"][:, column])
            if np.isfinite(change):
                changes[output.name] = float(change)
    if not changes:
        raise PacxError(
            f"The test split of store {store.name!r} has no output of this head ({', '.join(readout.names)}) with both "
            "answers, so what fewer bits cost cannot be measured there. Give a store with these labels."
        )
    return changes, len(rows)


def label_of(output: Output, store: Store) -> NDArray[np.float64] | None:
    """Return the answers (N,) that a store knows to an output: 0, 1 or NaN; None if it does not know the question."""
    task = store.tasks.get(output.task)
    if task is None:
        return None
    name = output.name.removeprefix(f"{output.task}/")
    if task.kind == "multiclass":
        label = store.manifest[task.labels[0]].to_numpy(dtype=np.float64)
        names = task.classes or tuple(map(str, range(int(np.nanmax(label)) + 1)))
        return None if name not in names else np.where(np.isnan(label), np.nan, label == names.index(name))
    return store.manifest[name].to_numpy(dtype=np.float64) if name in task.labels else None


def speed_ratio(model: Model, other: Model, images: NDArray[np.float32], *, rounds: int = 5) -> float:
    """Return how many times as fast as another a model is: the ratio of the medians of alternating rounds."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(rounds + 1):
        for which, one in enumerate((model, other)):
            start = time.perf_counter()
            one.run(images, want=("embedding",))
            if number:  # the first round warms up
                seconds[which].append(time.perf_counter() - start)
    return float(np.median(seconds[1]) / np.median(seconds[0]))


def _probabilities(model: Model, store: Store, rows: NDArray[np.int64]) -> NDArray[Any]:
    batches = store_batches(model.facts.preprocess, store, rows)
    found = [model.run(batch, want=("probability",)).probability for batch in batches]
    return np.concatenate([part for part in found if part is not None])


def store_batches(preprocess: Preprocess, store: Store, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield preprocessed images of a store, a few at a time.

    Raises:
        PacxError: the store holds no images.
    """
    if store.images is None:
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    for start in range(0, len(rows), _BATCH):
        levels = store.images[rows[start : start + _BATCH]].astype(np.float32) / 255.0
        yield np.stack([preprocess(image) for image in levels])
