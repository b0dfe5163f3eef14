"""The ECG teacher: the 1-D CNN of `pacx.models.ecgfounder`, trained from scratch on ECG statements.

    ECG -> recipe (once, cached) -> shift, scale, leads off, noise -> network -> one logit per statement

* The loss is binary cross-entropy over known labels. An unknown label (NaN) adds nothing: it is not a 0.
* Tasks are learned jointly, so statements that share causes share features. What distillation uses is the feature
  before the last layer, not the logits.
* Records are filtered once, over all cores, into a float16 file that is mapped and deleted at the end.
* Augmentation says what must not matter: where in the 10 s a beat falls, the gain, a lead that came off, muscle noise.
* The network of the epoch with the lowest validation loss is kept, and AUROC is measured on test patients.
* Small networks look at 100 samples per second, made after the recipe's 40 Hz low-pass; the rate is recorded with the
  weights and used whenever the teacher embeds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pacx import __version__
from pacx.data.ecg import RATE
from pacx.data.ecg_recipe import RECIPE, check_recipe
from pacx.data.store import Store
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig, EcgNetSize
from pacx.runs import open_run
from pacx.stages.arrays import ArrayRows, array_loader
from pacx.stages.ecg_records import choose_records, prepare_records
from pacx.stages.run import (
    LossGuard,
    Precision,
    Resume,
    adamw_with_warmup,
    best_path,
    clip_batch_size,
    epoch_table,
    fit,
    load_weights,
    make_trainer,
    resume_path,
    seed_everything,
)
from pacx.statistics import bootstrap_auroc, bootstrap_macro_auroc

__all__ = ["EcgClassification", "augment_ecg", "fit_ecg", "known_label_loss"]


def fit_ecg(
    *,
    store: Path,
    task: str | None = None,
    group: str | None = None,
    size: EcgNetSize = "small",
    rate: int | None = None,
    epochs: int = 40,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    warmup_epochs: float = 2.0,
    lead_dropout: float = 0.2,
    noise: float = 0.1,
    gain: float = 0.2,
    shift: bool = True,
    seed: int = 0,
    precision: Precision = "auto",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    workers: int | None = None,
    resume: Resume = "auto",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train an ECG teacher on the store's labels.

    Args:
        store: a store with ECGs and binary or multilabel tasks.
        task: the one task to learn.
        group: learn all tasks of this group jointly; without task and group, all of the store's.
        size: small and medium train on a CPU; ecgfounder is the published network.
        rate: samples per second that the network sees; 100 for small and medium, 500 for ecgfounder if not given.
        epochs: passes over the train split.
        batch_size: records per step; no more than there are.
        learning_rate: peak learning rate.
        weight_decay: AdamW decay of kernels.
        warmup_epochs: linear warm-up, in epochs.
        lead_dropout: probability with which a lead is set to zero in training.
        noise: standard deviation of white noise added in training, in units of the record's.
        gain: standard deviation of a random factor on a whole training record.
        shift: move training records in time by a random amount, around the end.
        seed: seed of weights, order and augmentation.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, or auto.
        strategy: Lightning strategy: auto, ddp, fsdp.
        workers: processes that filter records beforehand; one per processor if not given.
        resume: auto = go on from the last finished epoch if there is one; true = do so or fail; false = start anew.
        out: the run folder to write; the teacher is in its folder `teacher`.
        overwrite: replace a finished run in `out`.

    Example:
        pacx fit-ecg --store stores/phantom --group physiology --out runs/ecg-teacher
    """
    arguments = dict(locals())
    rate = rate or (RATE if size == "ecgfounder" else 100)
    check_recipe(RECIPE, rate=rate)
    with open_run(out, command="fit-ecg", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        seed_everything(seed)
        labels, rows = choose_records(cohort, task=task, group=group)
        targets = cohort.manifest[list(labels)].to_numpy(dtype=np.float32)
        cache = run.path / "cache"
        prepared = prepare_records(cohort, rows, cache=cache, rate=rate, workers=workers)
        batch_size = clip_batch_size(batch_size, len(rows["train"]))
        loaders = {
            split: array_loader(
                ArrayRows(part, arrays={"ecg": prepared[split], "label": targets[part]}), batch_size=batch_size,
                shuffle=split == "train", seed=seed, drop_last=split == "train",
            )
            for split, part in rows.items() if len(part)
        }  # fmt: skip
        module = EcgClassification(
            EcgNet(EcgNetConfig.named(size, num_classes=len(labels))),
            image_ids=cohort.manifest["image_id"].tolist(),
            augmentation={"lead_dropout": lead_dropout, "noise": noise, "gain": gain, "shift": shift},
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_epochs=warmup_epochs,
        )  # fmt: skip
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, monitor="val_loss" if "val" in loaders else None,
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        net = module.net.cpu().eval()
        judged = "test" if len(rows["test"]) else "val"
        scores = _scores(net, prepared[judged], batch_size=batch_size)
        table = epoch_table(trainer)
        results = {
            **_auroc(cohort, rows[judged], targets[rows[judged]], scores, labels=labels, seed=seed),
            "split": judged,
            "labels": labels,
            "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
            "num_records": len(rows["train"]),
            "dim": net.config.dim,
            "size": size,
            "rate": rate,
            "epochs": epochs,
            "train_loss": table.last("train_loss"),
            "val_loss": table.best("val_loss"),
        }
        facts = {
            "data": {"name": cohort.name, "content_hash": cohort.content_hash, "split_hash": cohort.meta["split_hash"]},
            "num_records": len(rows["train"]), "epochs": epochs, "seed": seed, "pacx_version": __version__,
        }  # fmt: skip
        preprocessing = {"recipe": RECIPE, "rate": rate}
        teacher = run.artefact("teacher", "teacher")
        save_ecg_net(net, teacher, labels=labels, preprocessing=preprocessing, training=facts)
        shutil.rmtree(cache, ignore_errors=True)
        return run.finish(results)


class EcgClassification(L.LightningModule):
    """One step of learning ECG statements.

    Args:
        net: the network.
        image_ids: the store's ids by row, to name records whose loss is not finite.
        augmentation: arguments of `augment_ecg`.
        learning_rate: peak learning rate.
        weight_decay: decay of kernels.
        warmup_epochs: linear warm-up, in epochs.
    """

    def __init__(
        self,
        net: EcgNet,
        *,
        image_ids: list[str],
        augmentation: dict[str, Any],
        learning_rate: float,
        weight_decay: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        self.net = net
        self.guard = LossGuard(image_ids)
        self.augmentation = augmentation
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment and classify; the guard sees to losses that are not finite."""
        loss = known_label_loss(self.net(augment_ecg(batch["ecg"], **self.augmentation)), batch["label"])
        if self.guard.accepts(loss, batch["index"]):
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["index"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the loss on the records as they are."""
        loss = known_label_loss(self.net(batch["ecg"]), batch["label"])
        self.log("val_loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine to zero."""
        return adamw_with_warmup(
            self.trainer,
            self.net,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
        )


def known_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over the known labels of a batch; 0 where none is known.

    Args:
        logits: (B, L).
        labels: (B, L) of 0, 1 or NaN = unknown.
    """
    known = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(labels), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def augment_ecg(x: Tensor, *, lead_dropout: float, noise: float, gain: float, shift: bool) -> Tensor:
    """Change what must not matter to a reader of the ECG.

    Args:
        x: (B, leads, T) prepared records, standard deviation 1.
        lead_dropout: probability with which a lead becomes zero.
        noise: standard deviation of added white noise.
        gain: standard deviation of a factor around 1, one per record.
        shift: rotate each record in time by a random amount.
    """
    batch, leads, length = x.shape
    if shift:
        start = torch.randint(length, (batch, 1), device=x.device)
        order = (start + torch.arange(length, device=x.device)) % length
        x = x.gather(2, order[:, None].expand(-1, leads, -1))
    x = x * (1 + gain * torch.randn(batch, 1, 1, device=x.device))
    x = x * (torch.rand(batch, leads, 1, device=x.device) >= lead_dropout)
    return x + noise * torch.randn_like(x)


def _scores(net: EcgNet, records: NDArray[np.float16], *, batch_size: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        parts = [
            net(torch.from_numpy(np.asarray(records[start : start + batch_size], dtype=np.float32))).numpy()
            for start in range(0, len(records), batch_size)
        ]
    return np.concatenate(parts) if parts else np.empty((0, net.config.num_classes), dtype=np.float32)


def _auroc(
    store: Store,
    rows: NDArray[np.int64],
    targets: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    labels: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    """AUROC of each label and their mean, with intervals from drawing patients."""
    patient = store.manifest["patient_id"].iloc[rows].to_numpy(dtype=object)
    by_label = {
        label: {
            **bootstrap_auroc(targets[:, column], scores[:, column], patient, seed=seed)._asdict(),
            "n": int((~np.isnan(targets[:, column])).sum()),
            "positives": int((targets[:, column] == 1).sum()),
        }
        for column, label in enumerate(labels)
    }
    return {"macro_auroc": bootstrap_macro_auroc(targets, scores, patient, seed=seed), "auroc": by_label}
