"""Refuse to judge an encoder on patients that it was trained on.

Encoder folders say whom they learned from (`pacx.models.patients`), stores whose ids theirs are (`patients_of`). A test
split with anybody in it whom the encoder has seen is refused unless the user insists, and what was found is in the
result either way, so that a report can mark it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.store import Modality, Store
from pacx.errors import PacxError
from pacx.models.encoder import Encoder
from pacx.models.patients import SeenPatients

__all__ = ["check_unseen", "seen_rows"]

_NOBODY_SAID = "the encoder's folder does not say whom it was trained on"


def check_unseen(
    encoder: Encoder, store: Store, *, split: str = "test", needs: Sequence[Modality] = ("image",), allow: bool = False
) -> dict[str, Any]:
    """Look for patients of a split whom the encoder has seen.

    Args:
        encoder: what is going to be judged.
        store: on whose patients.
        split: the part that it is judged on.
        needs: what a row must have to count.
        allow: go on if there are such patients.

    Returns:
        For `result.json`: num_patients (seen), num_test_patients (all), allowed, checked (whether everything that the
        encoder learned from is known), unknown (what is not).

    Raises:
        PacxError: there are such patients, and `allow` is false.
    """
    rows = store.rows(split, needs=needs)
    ids = np.unique(store.manifest["patient_id"].to_numpy(dtype=str)[rows])
    seen = SeenPatients(unknown=(_NOBODY_SAID,)) if encoder.patients is None else encoder.patients
    num_seen = int(seen.has(ids, patients_of=store.patients_of).sum())
    if num_seen and not allow:
        raise PacxError(_refusal(seen, ids.tolist(), store, split=split, num_seen=num_seen))
    return {
        "num_patients": num_seen,
        "num_test_patients": len(ids),
        "allowed": allow,
        "checked": not seen.unknown,
        "unknown": list(seen.unknown),
    }


def seen_rows(seen: SeenPatients | None, store: Store) -> NDArray[np.bool_]:
    """Say of each row of a store (N,) whether its patient is among those that were seen; None: nobody knows of any."""
    if seen is None:
        return np.zeros(len(store), dtype=bool)
    return seen.has(store.manifest["patient_id"].to_numpy(dtype=str), patients_of=store.patients_of)


def _refusal(seen: SeenPatients, ids: list[str], store: Store, *, split: str, num_seen: int) -> str:
    found = []
    for part in seen.parts:
        number = int(SeenPatients((part,)).has(ids, patients_of=store.patients_of).sum())
        if number:
            found.append(f"{number} in the {part.split} split of {part.stage} on {part.store!r}")
    return (
        f"The encoder has been trained on {num_seen} of the {len(ids)} {split} patients of the store {store.name!r} "
        f"({store.path}): {'; '.join(found)}. Scores on them show what it remembers. Judge it on a store whose {split} "
        "split keeps them apart (the same `pacx prepare --folds/--fold` or --split_column as in training). If they are "
        "other people with the same ids, prepare the stores with --patients_of NAME. To go on all the same, which the "
        "result then says, pass --allow_seen_patients true."
    )
