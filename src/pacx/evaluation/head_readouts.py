"""What the kept heads of a distillation say: laboratory percentiles through the decoder, and teachers' embeddings.

    X-ray -> encoder -> regression head -> direction -> x length -> standardisation undone -> embedding -> labs decoder

The heads were trained on a cosine, so the length is open. It is one number per teacher, the least-squares fit to the
true embeddings of the training rows; those come from the teacher itself, which embeds the training rows' labs, so no
bank is needed for labs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.data.bank import Bank
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.kept_heads import KeptHeads, TeacherHead
from pacx.models.labs_autoencoder import REFERENCE_FILE, LabsAutoencoder, load_labs_autoencoder
from pacx.models.weights import CONFIG_FILE, weights_hash
from pacx.statistics import bootstrap_mean, paired_mean_difference

__all__ = ["LabsDecoder", "decode_labs", "measure_embeddings", "open_decoder"]

log = logging.getLogger("pacx")


class LabsDecoder(NamedTuple):
    """A labs teacher, used from its embedding back to percentiles."""

    net: LabsAutoencoder
    reference: LabReference
    weights: str
    """hash of the weights"""


def open_decoder(path: Path, store: Store) -> LabsDecoder:
    """Open a labs teacher for its decoder.

    Args:
        path: the run folder of `pacx fit-labs`, or the teacher folder in it.
        store: whose labs must be in the teacher's units.

    Raises:
        PacxError: no labs teacher there, or another unit in the store.
    """
    path = Path(path)
    folder = path / "teacher" if (path / "teacher" / CONFIG_FILE).is_file() else path
    net, _ = load_labs_autoencoder(folder)
    reference = LabReference.load(folder / REFERENCE_FILE)
    for lab in reference.labs:
        expected, found = reference.units[lab], store.lab_units.get(lab, "")
        if expected and found and expected.casefold() != found.casefold():
            raise PacxError(
                f"Lab {lab!r} is in {found} in store {store.name!r}, but the teacher was fitted in {expected}. "
                "Convert the store's values, or use a teacher that was fitted on them."
            )
    return LabsDecoder(net, reference, weights_hash(net))


def decode_labs(
    heads: KeptHeads, decoder: LabsDecoder, features: NDArray[np.float32], store: Store
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Decode every lab that the teacher knows from the X-rays.

    Args:
        heads: of the distillation run.
        decoder: the labs teacher that was distilled.
        features: (N, D) class tokens, row i belongs to store row i; rows without an image are not to be used.
        store: its training rows' labs fit the length.

    Returns:
        By lab (N,) percentiles on the teacher's scale, [0, 1]; and how it was done: teacher, length, num_length_rows.

    Raises:
        PacxError: no head learned from this teacher, or no training row has any lab that it knows.
    """
    head = heads.of(weights=decoder.weights, what="the labs teacher")
    rows, true = _true_embeddings(decoder, store)
    direction = head.direction(torch.from_numpy(features))
    length = _length(head, direction[rows], true)
    with torch.inference_mode():
        percentiles = decoder.net.decoder(head.embedding(direction, length=length)).numpy()
    by_lab = {lab: percentiles[:, column] for column, lab in enumerate(decoder.reference.labs)}
    return by_lab, {"teacher": head.name, "length": length, "num_length_rows": len(rows)}


def measure_embeddings(
    heads: KeptHeads, banks: Mapping[str, Bank], features: NDArray[np.float32], store: Store, *, draws: int
) -> dict[str, dict[str, Any]]:
    """Compare predicted embeddings of the test rows with the true ones, and with what the training mean would score.

    Args:
        heads: of the distillation run.
        banks: true embeddings by teacher.
        features: (N, D) class tokens, row i belongs to store row i.
        store: tells splits and patients.
        draws: bootstrap draws.

    Returns:
        By teacher: cosine, cosine_of_mean (Intervals), difference (paired), length, n_train, n_test.

    Raises:
        PacxError: a bank of a teacher without a head, or with too few rows in training or test.
    """
    return {name: _measure(_head_of(heads, bank), bank, features, store, draws=draws) for name, bank in banks.items()}


def _measure(
    head: TeacherHead, bank: Bank, features: NDArray[np.float32], store: Store, *, draws: int
) -> dict[str, Any]:
    rows = {split: store.rows(split, needs=("image",)) for split in ("train", "test")}
    train, test = (own[bank.present[own]] for own in rows.values())
    if not len(train) or not len(test):
        raise PacxError(
            f"Teacher bank '{bank.name}' covers {len(train)} training and {len(test)} test images of store "
            f"{store.name!r}; it needs some of both."
        )
    known, wanted = (torch.from_numpy(np.array(bank.embeddings[own])) for own in (train, test))
    direction = head.direction(torch.from_numpy(features[np.concatenate([train, test])]))
    length = _length(head, direction[: len(train)], known)
    predicted = head.embedding(direction[len(train) :], length=length)
    cosine = torch.cosine_similarity(predicted, wanted, dim=-1).double().numpy()
    of_mean = torch.cosine_similarity(known.mean(dim=0, keepdim=True), wanted, dim=-1).double().numpy()
    patient = store.manifest["patient_id"].to_numpy(dtype=str)[test]
    return {
        "cosine": bootstrap_mean(cosine, patient, draws=draws),
        "cosine_of_mean": bootstrap_mean(of_mean, patient, draws=draws),
        "difference": paired_mean_difference(cosine, of_mean, patient, draws=draws),
        "length": length,
        "n_train": len(train),
        "n_test": len(test),
    }


def _head_of(heads: KeptHeads, bank: Bank) -> TeacherHead:
    head = heads.heads.get(bank.name)
    if head is None or head.facts.get("weights_hash") != bank.meta.get("weights_hash"):
        raise PacxError(
            f"The bank '{bank.name}' is not one that {heads.path} learned from; its teachers are: "
            f"{', '.join(heads.heads)}. Give the banks that were distilled."
        )
    return head


def _true_embeddings(decoder: LabsDecoder, store: Store) -> tuple[NDArray[np.int64], Tensor]:
    """Embed the labs of the training rows that have an image and any lab that the teacher knows."""
    rows = store.rows("train", needs=("image",))
    table = store.labs.iloc[rows] if store.labs is not None else pd.DataFrame(index=rows)
    percentiles, observed = decoder.reference.transform(table, ignore=True)
    known = observed.any(axis=1)
    if not known.any():
        raise PacxError(
            f"No training X-ray of store {store.name!r} has a lab that the teacher knows; without one the length of "
            f"the predicted embeddings is open. The teacher knows: {', '.join(decoder.reference.labs)}."
        )
    with torch.inference_mode():
        embedded = decoder.net.encode(torch.from_numpy(percentiles[known]), torch.from_numpy(observed[known]))
    return rows[known], embedded


def _length(head: TeacherHead, direction: Tensor, embedding: Tensor) -> float:
    """Fit the length; where the best one is not positive, take the embeddings' own, which keeps the head's order."""
    length = head.scale(direction, embedding)
    if length > 0:
        return length
    log.warning(
        "physiology: on training rows the head of %s points away from the true embeddings (best length %.3g); their "
        "mean length is used. The head has learned nothing.", head.name, length,
    )  # fmt: skip
    with torch.inference_mode():
        return float(head.standardiser(embedding).norm(dim=-1).mean())
