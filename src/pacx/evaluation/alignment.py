"""Alignment: how much of a teacher's embedding can be read off frozen X-ray features.

A ridge regression from features to the teacher's embedding is fitted, and judged on the test rows that have the
modality. It is a supervised read-out, not a zero-shot one. The `honest` protocol:

* **The penalty** is chosen on the validation rows, or by cross-validation over patients.
* **Not on memorised rows.** Distillation taught the encoder the embeddings of its training patients. A ridge fitted on
  these learns a relation between features and embeddings that may hold for no new patient. So rows of patients that the
  encoder was distilled on, as its folder says, are left out of the fit. To compare with an encoder that was not
  distilled, fit both on the same rows: `--fit_on val`.
* **Centred on the fitted rows.** Teacher embeddings point in similar directions (ECGFounder: mean cosine .43
  between strangers), so a raw cosine is high without any knowledge of the patient. The centred cosine subtracts the
  mean embedding of the fitted rows from prediction and target; test statistics are never used.
* **R2 against that same mean.** 0 is what predicting this mean scores; below 0 is worse than that. `r2` is
  the plain mean over dimensions, `r2_pooled` weights each dimension by its variance.
* **Random pairs**: the mean cosine between predictions and the embeddings of all *other* rows, exactly, not of
  one permutation. The gap to it is what alignment means.
* **Retrieval** with centred embeddings, both ways, beside its chance level.
* **`shuffled`**: the same numbers after dealing the teacher's embeddings out anew within each split. Everything must
  fall to chance there; if it does not, the evaluation leaks.

The `paper` protocol is that of the published script, for numbers beside its own; `pacx.evaluation.alignment_scores`
sets the two side by side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.bank import Bank, open_banks
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.alignment_scores import FEWEST, KS, FitOn, Protocol, measure_alignment, rows_to_fit
from pacx.frozen.features import Token, encoder_name, extract, feature_cache, open_encoder
from pacx.frozen.seen import check_unseen, seen_rows
from pacx.models.encoder import Encoder, weights_hash
from pacx.runs import open_run

__all__ = ["KS", "align", "measure_alignment"]

log = logging.getLogger("pacx")


def align(
    *,
    store: Path,
    encoder: str,
    banks: list[Path],
    out: Path,
    protocol: Protocol = "honest",
    fit_on: FitOn = "train",
    leave_out_distilled: bool = True,
    shuffle_teachers: bool = False,
    token: Token = "cls",
    name: str | None = None,
    batch_size: int = 64,
    draws: int = 1000,
    seed: int = 0,
    allow_seen_patients: bool = False,
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
        protocol: honest; or paper = the published script's, with penalty 10 and centred on the test rows.
        fit_on: honest: the split that the read-out is fitted on, train or val.
        leave_out_distilled: honest: leave out rows of patients that the encoder was distilled on.
        shuffle_teachers: deal the banks' rows out anew first, so that the main numbers are the negative control too.
        token: what stands for an image: class token, mean of the patch tokens, or both side by side.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        seed: seed of the shuffled control.
        allow_seen_patients: go on even if the encoder was trained on some of the test patients; the result says so.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, seen_patients, protocol, shuffled_teachers and, by
        teacher, the numbers of `measure_alignment` with the same numbers of the control under `shuffled`.

    Raises:
        PacxError: a bank of another store, two banks of one name, too few rows with image and teacher, or test patients
            that the encoder was trained on.
    """
    config = {**locals()}
    cohort = Store.open(store)
    _check_choices(protocol, fit_on)
    opened = open_banks(banks, cohort)
    network = open_encoder(encoder)
    seen = check_unseen(network, cohort, allow=allow_seen_patients)
    distilled = _distilled(network, cohort)
    left_out = distilled if protocol == "honest" and leave_out_distilled else np.zeros_like(distilled)
    _check_coverage(opened.values(), cohort, fit_on=fit_on, left_out=left_out)
    split = cohort.manifest["split"].to_numpy()
    patient = cohort.manifest["patient_id"]
    with open_run(out, command="align", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", **cohort.identity())
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        for path, bank in zip(banks, opened.values(), strict=True):
            run.read(f"bank {bank.name}", path=path, teacher=bank.name, weights_hash=bank.meta.get("weights_hash"))
        with_image = cohort.rows(needs=("image",))
        found = extract(network, cohort, with_image, token=token, batch_size=batch_size, cache=feature_cache(out))
        features = np.zeros((len(cohort), found.shape[1]), dtype=np.float32)
        features[with_image] = found
        teachers, tables = {}, []
        how: dict[str, Any] = {
            "protocol": protocol, "fit_on": fit_on, "distilled": distilled, "leave_out_distilled": leave_out_distilled,
            "draws": draws,
        }  # fmt: skip
        for bank in opened.values():
            true = bank.shuffled(split, patient=patient, seed=seed) if shuffle_teachers else bank
            teachers[bank.name], table = measure_alignment(features, true, cohort, **how)
            control = true.shuffled(split, patient=patient, seed=seed + 1)
            teachers[bank.name]["shuffled"], _ = measure_alignment(features, control, cohort, **how)
            tables.append(table)
            _say_what_was_fitted(bank.name, teachers[bank.name], fit_on=fit_on)
        pd.concat(tables, ignore_index=True).to_parquet(run.artefact("alignment", "alignment.parquet"))
        return run.finish(
            {
                "encoder_name": label,
                "seen_patients": seen,
                "protocol": {
                    "name": protocol,
                    "fit_on": fit_on,
                    "leave_out_distilled": protocol == "honest" and leave_out_distilled,
                    "distilled_known": network.patients is not None,
                },
                "shuffled_teachers": shuffle_teachers,
                "teachers": teachers,
            }
        )


def _check_choices(protocol: Protocol, fit_on: FitOn) -> None:
    if protocol == "paper" and fit_on != "train":
        raise PacxError(f"The paper's protocol fits on the training rows; --fit_on {fit_on} is for --protocol honest.")


def _check_coverage(banks: Iterable[Bank], store: Store, *, fit_on: FitOn, left_out: NDArray[np.bool_]) -> None:
    for bank in banks:
        for split in (fit_on, "test"):
            rows = store.rows(split, needs=("image",))
            covered = int(bank.present[rows].sum())
            if covered < 2:
                raise PacxError(
                    f"Teacher bank '{bank.name}' covers {covered} of {len(rows)} images in {split}; alignment "
                    "needs at least two there. Use a bank with more of this modality."
                )
        rows_to_fit(bank, store, fit_on=fit_on, left_out=left_out)


def _distilled(encoder: Encoder, store: Store) -> NDArray[np.bool_]:
    """Say of each row whether the encoder was taught its patient's embeddings."""
    seen = encoder.patients
    return seen_rows(None if seen is None else seen.of_stage("distill", split="train"), store)


def _say_what_was_fitted(teacher: str, found: dict[str, Any], *, fit_on: FitOn) -> None:
    if found["n_train"] < FEWEST:
        log.warning(
            "align: %s: fitted on %d %s rows; on fewer than %d a read-out says little of new patients",
            teacher, found["n_train"], fit_on, FEWEST,
        )  # fmt: skip
    if found["n_left_out"]:
        log.info(
            "align: %s: %d rows of distilled patients left out, %d to fit on",
            teacher, found["n_left_out"], found["n_train"],
        )  # fmt: skip
    if found["n_distilled"]:
        log.warning(
            "align: %s: %d of the %d rows fitted on are of patients that the encoder was distilled on",
            teacher, found["n_distilled"], found["n_train"],
        )  # fmt: skip
