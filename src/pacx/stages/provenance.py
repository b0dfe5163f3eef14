"""What a model folder says of the data that it learned from, and of the patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.models.patients import SeenPatients

__all__ = ["learned_from", "training_data"]


def training_data(store: Store) -> list[dict[str, Any]]:
    """Describe the train split of a store: its name, the hashes of content and split, the licence."""
    return [
        {
            "name": store.name,
            "content_hash": store.content_hash,
            "split_hash": store.meta["split_hash"],
            "split": "train",
            "license": store.meta["license"],
        }
    ]


def learned_from(
    before: SeenPatients | None,
    store: Store,
    rows: Mapping[str, NDArray[np.int64]],
    *,
    stage: str,
    teachers: Mapping[str, SeenPatients | None] | None = None,
) -> SeenPatients:
    """Return whom a network has seen after a training: training and validation rows, and whom its teachers saw.

    Args:
        before: whom the weights that it started from had seen; fresh ones nobody, None = not known.
        store: on which it was trained.
        rows: store rows by split; the test split counts for nothing here.
        stage: the command that trains.
        teachers: whom its teachers had seen, by name; None = not known.
    """
    seen = SeenPatients(unknown=(f"the weights that {stage} started from",)) if before is None else before
    for name, record in (teachers or {}).items():
        seen = seen.joined(SeenPatients(unknown=(f"the teacher {name}",)) if record is None else record)
    patient = store.manifest["patient_id"].to_numpy(dtype=str)
    for split in ("train", "val"):
        people = patient[rows[split]]
        seen = seen.having(people, stage=stage, split=split, store=store.name, patients_of=store.patients_of)
    return seen
