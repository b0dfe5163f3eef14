"""The laboratory teacher: a denoising autoencoder on percentiles, fitted to a store's own labs.

    raw values -> percentiles of the train split + mask -> hide some observed entries -> reconstruct all observed ones

To fill in a hidden creatinine the network must know what urea, potassium and haemoglobin say about it; that knowledge,
a point in 256 dimensions, is what the X-ray encoder is later taught to see.

* Optimiser and schedule are the published ones: AdamW on every parameter, linear warm-up in steps, cosine to 0, the
  network of the last epoch kept.
* Two errors are reported on rows never trained on. `clean_mse`: nothing hidden, all observed entries. `imputation_mse`:
  a fixed random share of the observed entries is hidden, and only those count; beside it the error of always answering
  the lab's training median. Both are squared differences of percentiles; the median of a lab without ties scores 1/12.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx import __version__
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.labs_autoencoder import (
    LabsAutoencoder,
    hide_entries,
    reconstruction_loss,
    save_labs_autoencoder,
)
from pacx.runs import open_run
from pacx.stages.arrays import ArrayRows, array_loader
from pacx.stages.imputation import hide_once, imputation_errors, imputation_report
from pacx.stages.optimisation import warmup_cosine
from pacx.stages.run import (
    LossGuard,
    Precision,
    Resume,
    clip_batch_size,
    epoch_table,
    fit,
    make_trainer,
    resume_path,
    seed_everything,
)

__all__ = ["LabsDenoising", "fit_labs"]

log = logging.getLogger("pacx")


def fit_labs(
    *,
    store: Path,
    dim: int = 256,
    hidden: int = 512,
    dropout: float = 0.15,
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
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

    The defaults suit 10,000 rows (2,000 steps); with fewer rows, train for more epochs.

    Args:
        store: a store with labs; the train split is learned.
        dim: length of the embedding.
        hidden: width of the hidden layers.
        dropout: probability with which an observed entry is hidden in training.
        epochs: passes over the train split.
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
        seed_everything(seed)
        train, val, test = (_table(cohort, split) for split in ("train", "val", "test"))
        reference = LabReference.fit(train, units=cohort.lab_units)
        batch_size = clip_batch_size(batch_size, len(train))
        total_steps = epochs * (len(train) // batch_size)
        if warmup_steps >= total_steps:
            raise PacxError(
                f"warmup_steps is {warmup_steps}, but {len(train)} rows make only {total_steps} steps in {epochs} "
                "epochs. Raise --epochs, or lower --batch-size or --warmup-steps."
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
        save_labs_autoencoder(net, run.artefact("teacher", "teacher"), reference=reference.to_dict(), training=facts)
        split, held_out = ("test", test) if len(test) else ("val", val)
        errors = imputation_errors(net, reference, train=train, held_out=held_out, hide=dropout or 0.15, seed=seed)
        table = epoch_table(trainer)
        return run.finish(
            {
                **imputation_report(errors, labs=reference.labs, patient=_patients(cohort, held_out), seed=seed),
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


class LabsDenoising(L.LightningModule):
    """One step of the denoising autoencoder.

    Args:
        net: the autoencoder.
        image_ids: the store's ids by row, to name rows whose loss is not finite.
        dropout: probability with which an observed entry is hidden.
        learning_rate: peak learning rate.
        weight_decay: decay of all parameters.
        warmup_steps: linear warm-up, in optimiser steps.
    """

    def __init__(
        self,
        net: LabsAutoencoder,
        *,
        image_ids: list[str],
        dropout: float,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        super().__init__()
        self.net = net
        self.guard = LossGuard(image_ids)
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Hide entries anew in every step; the guard sees to losses that are not finite."""
        shown = hide_entries(batch["observed"], probability=self.dropout)
        loss = reconstruction_loss(self.net(batch["labs"], shown)[0], batch["labs"], batch["observed"])
        if self.guard.accepts(loss, batch["index"]):
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(shown), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the same loss with entries hidden once and for all."""
        reconstruction, _ = self.net(batch["labs"], batch["shown"])
        loss = reconstruction_loss(reconstruction, batch["labs"], batch["observed"])
        self.log("val_loss", loss, batch_size=len(batch["labs"]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero, per step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = partial(warmup_cosine, warmup_steps=self.warmup_steps, total_steps=total_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


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
