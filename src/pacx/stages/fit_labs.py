"""The laboratory teacher: a denoising autoencoder on percentiles, fitted to a store's own labs.

    raw values -> percentiles of the train split + mask -> hide some observed entries -> reconstruct all observed ones

To fill in a hidden creatinine the network must know what urea, potassium and haemoglobin say about it; that knowledge,
a point in 256 dimensions, is what the X-ray encoder is later taught to see.

* Network, loss, hiding, optimiser and schedule are the published ones: AdamW on every parameter, linear warm-up in
  steps, cosine to 0, the network of the last epoch kept. Published are 50 epochs of 10,000 rows, 256 at a time: 1,950
  steps. A smaller table has fewer steps per epoch, so epochs are added until the steps are as many.
* Known differences. The peak learning rate is 1e-3 and not 3e-4, which fills in better on real and on simulated labs
  (docs/labs.md); `learning_rate` 3e-4 with `epochs` 50 is the published setting. The entries hidden in the validation
  and test rows are the same in every epoch and run; there they were drawn anew. Number format: 32-bit on a CPU and
  bf16-mixed on a GPU, there fp16-mixed. Warm-up begins at 1/200 of the peak, there at 0.
* Errors are reported on rows never trained on, all of them squared differences of percentiles; the median of a lab
  without ties scores 1/12. `clean_mse`: nothing hidden. `imputation_mse`: a fixed random share hidden, and only that
  counts. `one_hidden_mse`: each entry hidden alone. Beside the last two stands the error of always answering the
  lab's training median. `labs.csv` has the figures of each lab.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx import __version__
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.labs_autoencoder import LabsAutoencoder, Unobserved, save_labs_autoencoder
from pacx.models.patients import SeenPatients, save_patients
from pacx.runs import open_run, write_text
from pacx.stages.arrays import ArrayRows, array_loader
from pacx.stages.imputation import hide_once, imputation_errors, imputation_report, lab_table, one_hidden
from pacx.stages.labs_denoising import LabsDenoising
from pacx.stages.provenance import learned_from
from pacx.stages.run import (
    Precision,
    Resume,
    clip_batch_size,
    epoch_table,
    fit,
    make_trainer,
    resume_path,
    seed_everything,
)

__all__ = ["fit_labs"]

log = logging.getLogger("pacx")

PUBLISHED_STEPS = 1950
FEWEST_EPOCHS, MOST_EPOCHS = 50, 500


def fit_labs(
    *,
    store: Path,
    dim: int = 256,
    hidden: int = 512,
    dropout: float = 0.15,
    unobserved: Unobserved = "zeros",
    epochs: int | None = None,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    warmup_steps: int = 200,
    seed: int = 0,
    precision: Precision = "auto",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    resume: Resume = "auto",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a laboratory teacher: a denoising autoencoder on lab percentiles.

    Args:
        store: a store with labs; the train split is learned.
        dim: length of the embedding.
        hidden: width of the hidden layers.
        dropout: probability with which an observed entry is hidden in training.
        unobserved: what the finished teacher sees in the place of a lab that was not measured: zeros, as in training,
            or the lab's mean percentile in training, as the published embeddings were made.
        epochs: passes over the train split; if not given, as many as make 1,950 steps, 50 to 500.
        batch_size: rows per step; no more than there are.
        learning_rate: peak learning rate.
        weight_decay: AdamW decay, of all parameters.
        warmup_steps: linear warm-up, in optimiser steps.
        seed: seed of weights, order and hidden entries.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, or auto.
        strategy: Lightning strategy: auto, ddp, fsdp.
        resume: auto = go on from the last finished epoch if there is one; true = do so or fail; false = start anew.
        out: the run folder to write; the teacher is in its folder `teacher`.
        overwrite: replace a finished run in `out`.

    Example:
        pacx fit-labs --store stores/phantom --epochs 50 --out runs/labs-teacher
    """
    arguments = dict(locals())
    with open_run(out, command="fit-labs", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        _check_numbers(arguments)
        seed_everything(seed)
        train, val, test = (_table(cohort, split) for split in ("train", "val", "test"))
        reference = LabReference.fit(train, units=cohort.lab_units)
        batch_size = clip_batch_size(batch_size, len(train))
        steps_per_epoch = len(train) // batch_size
        if epochs is None:
            epochs = min(max(math.ceil(PUBLISHED_STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
        if warmup_steps >= epochs * steps_per_epoch:
            raise PacxError(
                f"warmup_steps is {warmup_steps}, but {len(train)} rows make only {epochs * steps_per_epoch} steps in "
                f"{epochs} epochs. Raise --epochs, or lower --batch_size or --warmup_steps."
            )
        module = LabsDenoising(
            LabsAutoencoder(len(reference), hidden=hidden, dim=dim),
            image_ids=cohort.manifest["image_id"].tolist(), dropout=dropout, learning_rate=learning_rate,
            weight_decay=weight_decay, warmup_steps=warmup_steps,
        )  # fmt: skip
        loaders = {
            name: array_loader(
                _dataset(table, reference, dropout=dropout, seed=seed), batch_size=batch_size,
                shuffle=name == "train", seed=seed, drop_last=name == "train",
            )
            for name, table in (("train", train), ("val", val)) if len(table)
        }  # fmt: skip
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, monitor="val_loss" if "val" in loaders else None,
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        net = module.net.cpu().eval()
        facts = {
            "data": {"name": cohort.name, "content_hash": cohort.content_hash, "split_hash": cohort.meta["split_hash"]},
            "num_rows": len(train), "epochs": epochs, "dropout": dropout, "seed": seed, "pacx_version": __version__,
        }  # fmt: skip
        save_labs_autoencoder(
            net, run.artefact("teacher", "teacher"), reference=reference.to_dict(), training=facts,
            train_means=_means(reference, train) if unobserved == "train-mean" else None,
        )  # fmt: skip
        learned = {"train": train.index.to_numpy(dtype=np.int64), "val": val.index.to_numpy(dtype=np.int64)}
        save_patients(learned_from(SeenPatients(), cohort, learned, stage="fit-labs"), run.path / "teacher")
        split, held_out = ("test", test) if len(test) else ("val", val)
        errors = imputation_errors(net, reference, train=train, held_out=held_out, hide=dropout or 0.15, seed=seed)
        single = one_hidden(net, reference, train=train, held_out=held_out, seed=seed)
        patients = _patients(cohort, held_out)
        report = imputation_report(errors, single, labs=reference.labs, patient=patients, seed=seed)
        write_text(
            run.artefact("labs", "labs.csv"), lab_table(report, reference).to_csv(index=False, float_format="%.5f")
        )
        table = epoch_table(trainer)
        return run.finish(
            {
                **report,
                "split": split,
                "num_rows": len(train),
                "num_labs": len(reference),
                "dim": dim,
                "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
                "train_loss": table.last("train_loss"),
                "val_loss": table.last("val_loss"),
                "epochs": epochs,
            }
        )


def _check_numbers(arguments: dict[str, Any]) -> None:
    """Refuse flags out of range; sizes of the network are its own to check."""
    at_least = {"epochs": 1, "weight_decay": 0, "warmup_steps": 0}
    for name, least in at_least.items():
        if arguments[name] is not None and not arguments[name] >= least:
            raise PacxError(f"{name} is {arguments[name]:g}; it must be {least} or more.")
    if not 0 < arguments["learning_rate"] < math.inf:
        raise PacxError(f"learning_rate is {arguments['learning_rate']:g}; it must be above 0.")
    if not 0 <= arguments["dropout"] < 1:
        raise PacxError(f"dropout is {arguments['dropout']:g}; it must be from 0 (nothing hidden) to below 1.")
    if arguments["unobserved"] not in get_args(Unobserved):
        raise PacxError(f"unobserved is {arguments['unobserved']!r}; it must be {' or '.join(get_args(Unobserved))}.")


def _means(reference: LabReference, train: pd.DataFrame) -> list[float]:
    """Return each lab's mean percentile in training; a lab without values keeps the 0 that training saw."""
    percentiles, observed = reference.transform(train)
    means = percentiles.sum(axis=0, dtype=np.float64) / np.maximum(observed.sum(axis=0), 1)
    return [round(float(mean), 6) for mean in means]


def _table(store: Store, split: str) -> pd.DataFrame:
    """Labs of the split's rows that have any, indexed by store row."""
    if store.labs is None:
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no labs. Choose a store with labs.")
    return store.labs.iloc[store.rows(split, needs=("labs",))]


def _patients(store: Store, table: pd.DataFrame) -> NDArray[np.object_]:
    return store.manifest["patient_id"].iloc[table.index].to_numpy(dtype=object)


def _dataset(table: pd.DataFrame, reference: LabReference, *, dropout: float, seed: int) -> ArrayRows:
    percentiles, observed = reference.transform(table)
    shown = hide_once(observed, probability=dropout, seed=seed)
    return ArrayRows(
        table.index.to_numpy(dtype=np.int64), arrays={"labs": percentiles, "observed": observed, "shown": shown}
    )
