"""Alignment: how much of a teacher's embedding can be read off frozen X-ray features.

A ridge regression from features to the teacher's embedding is fitted on the training rows, its penalty chosen on the
validation rows, and judged on the test rows that have the modality. It is a supervised read-out, not a zero-shot one.

* **Centred on training statistics.** Teacher embeddings point in similar directions (ECGFounder: mean cosine .43
  between strangers), so a raw cosine is high without any knowledge of the patient. The centred cosine subtracts the
  mean embedding of the training rows from prediction and target; test statistics are never used.
* **R2 against that same mean.** 0 is what predicting the training mean scores; below 0 is worse than that. `r2` is
  the plain mean over dimensions, `r2_pooled` weights each dimension by its variance.
* **Random pairs**: the mean cosine between predictions and the embeddings of all *other* rows, exactly, not of
  one permutation. The gap to it is what alignment means.
* **Retrieval** with centred embeddings, both ways, beside its chance level.
* **`shuffled`**: the same numbers after dealing the teacher's embeddings out anew within each split. Everything must
  fall to chance there; if it does not, the evaluation leaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.bank import Bank, open_banks
from pacx.data.manifest import SPLITS
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.ridge import Ridge, fit_ridge
from pacx.frozen.features import Token, encoder_name, extract, feature_cache, open_encoder
from pacx.models.encoder import weights_hash
from pacx.runs import open_run
from pacx.statistics import bootstrap_mean, retrieval, retrieval_hits, unit_rows

__all__ = ["KS", "align", "measure_alignment"]

KS = (1, 5, 10)


class _Pairs(NamedTuple):
    features: NDArray[np.float32]
    """(n, D)"""
    teacher: NDArray[np.float32]
    """(n, M)"""
    rows: NDArray[np.int64]
    """(n,) store rows"""


def align(
    *,
    store: Path,
    encoder: str,
    banks: list[Path],
    out: Path,
    shuffle_teachers: bool = False,
    token: Token = "cls",
    name: str | None = None,
    batch_size: int = 64,
    draws: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure how much of each teacher's embedding can be read off a frozen encoder.

    Example:
        pacx align --store stores/cohort --encoder runs/pacx/encoder --banks banks/ecg banks/labs --out runs/align

    Args:
        store: a store with images.
        encoder: an encoder folder, random:FOLDER[:SEED] for the same architecture with fresh weights, or any foreign
            weights that `pacx convert` takes.
        banks: teacher banks made from this store; each is measured by itself.
        out: the run folder to make.
        shuffle_teachers: deal the banks' rows out anew first, so that the main numbers are the negative control too.
        token: what stands for an image: class token, mean of the patch tokens, or both side by side.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        seed: seed of the shuffled control.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, shuffled_teachers and, by teacher, the numbers of
        `measure_alignment` with the same numbers of the control under `shuffled`.

    Raises:
        PacxError: a bank of another store, two banks of one name, or too few rows with image and teacher.
    """
    config = {**locals()}
    cohort = Store.open(store)
    opened = open_banks(banks, cohort)
    _check_coverage(opened.values(), cohort)
    network = open_encoder(encoder)
    split = cohort.manifest["split"].to_numpy()
    patient = cohort.manifest["patient_id"]
    with open_run(out, command="align", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash, split_hash=cohort.meta["split_hash"])
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        for path, bank in zip(banks, opened.values(), strict=True):
            run.read(f"bank {bank.name}", path=path, teacher=bank.name, weights_hash=bank.meta.get("weights_hash"))
        with_image = cohort.rows(needs=("image",))
        found = extract(network, cohort, with_image, token=token, batch_size=batch_size, cache=feature_cache(out))
        features = np.zeros((len(cohort), found.shape[1]), dtype=np.float32)
        features[with_image] = found
        teachers, tables = {}, []
        for bank in opened.values():
            true = bank.shuffled(split, patient=patient, seed=seed) if shuffle_teachers else bank
            teachers[bank.name], table = measure_alignment(features, true, cohort, draws=draws)
            teachers[bank.name]["shuffled"], _ = measure_alignment(
                features, true.shuffled(split, patient=patient, seed=seed + 1), cohort, draws=draws
            )
            tables.append(table)
        pd.concat(tables, ignore_index=True).to_parquet(run.artefact("alignment", "alignment.parquet"))
        return run.finish({"encoder_name": label, "shuffled_teachers": shuffle_teachers, "teachers": teachers})


def measure_alignment(
    features: NDArray[np.float32], bank: Bank, store: Store, *, draws: int = 1000
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Fit the read-out of one teacher and judge it on the test rows.

    Args:
        features: (N, D), row i belongs to store row i; rows without an image are not used.
        bank: the teacher.
        store: tells the splits and patients.
        draws: number of bootstrap draws.

    Returns:
        The numbers: r2, r2_pooled, cosine, cosine_centred (Intervals), random_pair_cosine,
        random_pair_cosine_centred, retrieval {image_to_teacher, teacher_to_image: as `pacx.statistics.retrieval`},
        alpha, n_train, n_val, n_test. And one row per test image: teacher, image_id, patient_id, cosine,
        cosine_centred, r1, r5, r10 (image to teacher).

    Raises:
        PacxError: fewer than two training or test rows have an image and this teacher.
    """
    train, val, test = (_pairs(features, bank, store, split) for split in SPLITS)
    ridge = fit_ridge(train.features, train.teacher, held_out=(val.features, val.teacher))
    predicted = ridge.centred(test.features)
    table = _per_image(bank, store, test, predicted, ridge)
    wanted, patient = test.teacher - ridge.target_mean, table["patient_id"].to_numpy()
    r2, r2_pooled = _explained(predicted, wanted)
    numbers = {
        "r2": r2,
        "r2_pooled": r2_pooled,
        "cosine": bootstrap_mean(table["cosine"], patient, draws=draws),
        "cosine_centred": bootstrap_mean(table["cosine_centred"], patient, draws=draws),
        "random_pair_cosine": _random_pair_cosine(predicted + ridge.target_mean, test.teacher),
        "random_pair_cosine_centred": _random_pair_cosine(predicted, wanted),
        "retrieval": {
            "image_to_teacher": retrieval(predicted, wanted, patient=patient, ks=KS, draws=draws),
            "teacher_to_image": retrieval(wanted, predicted, patient=patient, ks=KS, draws=draws),
        },
        "alpha": ridge.penalty,
        "n_train": len(train.rows),
        "n_val": len(val.rows),
        "n_test": len(test.rows),
    }
    return numbers, table


def _per_image(bank: Bank, store: Store, test: _Pairs, predicted: NDArray[np.float64], ridge: Ridge) -> pd.DataFrame:
    """Judge every test image by itself; predicted is (n, M), centred."""
    wanted = test.teacher - ridge.target_mean
    hits, _ = retrieval_hits(predicted, wanted, ks=KS)
    rows = store.manifest.iloc[test.rows]
    return pd.DataFrame(
        {
            "teacher": bank.name,
            "image_id": rows["image_id"].astype(str).to_numpy(),
            "patient_id": rows["patient_id"].astype(str).to_numpy(),
            "cosine": _row_cosine(predicted + ridge.target_mean, test.teacher),
            "cosine_centred": _row_cosine(predicted, wanted),
            **{f"r{k}": hits[:, i] for i, k in enumerate(KS)},
        }
    )


def _explained(predicted: NDArray[np.float64], wanted: NDArray[np.float64]) -> tuple[float, float]:
    """R2 per dimension averaged, and pooled, against predicting the training mean; constant dimensions left out."""
    error, spread = np.sum((wanted - predicted) ** 2, axis=0), np.sum(wanted**2, axis=0)
    varying = spread > 0
    if not varying.any():
        return float("nan"), float("nan")
    return float(np.mean(1 - error[varying] / spread[varying])), float(1 - error.sum() / spread.sum())


def _check_coverage(banks: Iterable[Bank], store: Store) -> None:
    for bank in banks:
        for split in ("train", "test"):
            rows = store.rows(split, needs=("image",))
            covered = int(bank.present[rows].sum())
            if covered < 2:
                raise PacxError(
                    f"Teacher bank '{bank.name}' covers {covered} of {len(rows)} images in {split}; alignment "
                    "needs at least two there. Use a bank with more of this modality."
                )


def _pairs(features: NDArray[np.float32], bank: Bank, store: Store, split: str) -> _Pairs:
    rows = store.rows(split, needs=("image",))
    rows = rows[bank.present[rows]]
    return _Pairs(features[rows], bank.embeddings[rows], rows)


def _row_cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.sum(unit_rows(a) * unit_rows(b), axis=1))


def _random_pair_cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Mean cosine of a_i with b_j over all i != j: all pairs are one product of two sums."""
    unit_a, unit_b = unit_rows(a), unit_rows(b)
    n = len(unit_a)
    return float((unit_a.sum(axis=0) @ unit_b.sum(axis=0) - np.sum(unit_a * unit_b)) / (n * (n - 1)))
