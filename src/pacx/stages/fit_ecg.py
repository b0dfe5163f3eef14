"""The ECG teacher: the 1-D CNN of `pacx.models.ecgfounder`, at any width, with labels or without.

    ECG -> recipe (once, cached) -> window, shift, gain, leads off, noise -> network -> one logit per statement
    ECG -> recipe (once, cached) -> window, shift, gain -> hide segments -> network -> the hidden samples

* The steps are in `pacx.stages.ecg_objectives`, the augmentation in `pacx.stages.ecg_augment`, the start from fresh or
  given weights in `pacx.stages.ecg_starting`.
* Records are filtered once, over all cores, into a float16 file that is mapped and deleted at the end.
* The network of the epoch with the lowest validation loss is kept, and judged on test patients.
* Small networks look at 100 samples per second, made after the recipe's 40 Hz low-pass; the rate is recorded with the
  weights and used whenever the teacher embeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pacx import __version__
from pacx.data.batches import Batch
from pacx.data.ecg.recipe import RECIPE, check_recipe
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_masking import EcgFiller
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNetSize
from pacx.models.patients import save_patients
from pacx.runs import open_run
from pacx.stages.arrays import ArrayRows, array_loader
from pacx.stages.ecg_augment import EcgAugment
from pacx.stages.ecg_objectives import EcgClassification, EcgFilling, Masking, StepSize
from pacx.stages.ecg_records import (
    Objective,
    Splits,
    all_records,
    choose_objective,
    choose_records,
    prepare_records,
)
from pacx.stages.ecg_scores import judge
from pacx.stages.ecg_starting import EcgShape, ecg_start
from pacx.stages.optimisation import check_warmup
from pacx.stages.provenance import learned_from
from pacx.stages.run import (
    Precision,
    Resume,
    best_path,
    clip_batch_size,
    epoch_table,
    fit,
    load_weights,
    make_trainer,
    resume_path,
    seed_everything,
)

__all__ = ["fit_ecg"]


def fit_ecg(
    *,
    store: Path,
    objective: Literal["auto"] | Objective = "auto",
    task: str | None = None,
    group: str | None = None,
    weights: Path | None = None,
    statements: Path | None = None,
    freeze: bool = False,
    size: EcgNetSize = "small",
    widths: tuple[int, ...] | None = None,
    blocks: tuple[int, ...] | None = None,
    stem_width: int | None = None,
    batch_norm: bool | None = None,
    dropout: float | None = None,
    rate: int | None = None,
    epochs: int = 40,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    warmup_epochs: float = 2.0,
    crop: float = 1.0,
    shift: bool = True,
    gain: float = 0.2,
    lead_dropout: float = 0.2,
    noise: float = 0.1,
    mask_ratio: float = 0.5,
    mask_seconds: float = 0.5,
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
    """Train an ECG teacher on the store's labels, or without labels by filling in hidden segments.

    Args:
        store: a store with ECGs.
        objective: supervised = learn the store's binary and multilabel tasks, unknown labels left out;
            self-supervised = fill in hidden segments of the records; auto = supervised where there are such tasks.
        task: the one task to learn.
        group: learn all tasks of this group jointly; without task and group, all but the findings of X-rays.
        weights: start from these: 12_lead_ECGFounder.pth, or a teacher that this command made.
        statements: text file with the names of the 150 outputs of 12_lead_ECGFounder.pth, one per line; outputs for
            labels of the same name are then taken over.
        freeze: with weights, learn only the last layer.
        size: small and medium train on a CPU; ecgfounder is the published network. The next five override it.
        widths: channels of each stage, multiples of 16; the last is the length of the feature.
        blocks: blocks of each stage.
        stem_width: channels after the first convolution.
        batch_norm: apply the batch norms; the published network does not, small and medium do.
        dropout: probability inside the blocks.
        rate: samples per second that the network sees; 100 for small and medium, 500 for ecgfounder if not given.
        epochs: passes over the train split.
        batch_size: records per step; no more than there are.
        learning_rate: peak learning rate; a tenth of the default or less when starting from weights.
        weight_decay: AdamW decay of kernels.
        warmup_epochs: linear warm-up, in epochs.
        crop: smallest share of the 10 s that the window of a training step keeps; 1 = always all of it.
        shift: move training records in time by a random amount, around the end.
        gain: standard deviation of a random factor on a whole training record.
        lead_dropout: probability with which a lead is set to zero in training; supervised only.
        noise: standard deviation of white noise added in training, in units of the record's; supervised only.
        mask_ratio: share of the segments that is hidden; self-supervised only.
        mask_seconds: length of a segment; self-supervised only.
        seed: seed of weights, order, augmentation and masks.
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
    step = StepSize(learning_rate, weight_decay, warmup_epochs)
    shape = EcgShape(size, widths, blocks, stem_width, batch_norm, dropout, rate)
    if rate is not None:
        check_recipe(RECIPE, rate=rate)
    with open_run(out, command="fit-ecg", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        seed_everything(seed)
        chosen = choose_objective(cohort, objective, task=task, group=group)
        if freeze and (weights is None or chosen != "supervised"):
            raise PacxError(
                "Found --freeze without weights to keep: it needs --weights, and labels for the last layer."
            )
        if chosen == "supervised":
            labels, rows = choose_records(cohort, task=task, group=group)
        else:
            labels, rows = (), all_records(cohort)
        start = ecg_start(run, weights=weights, statements=statements, shape=shape)
        net = start.for_labels(labels)
        check_warmup(epochs=epochs, warmup_epochs=warmup_epochs)  # before hours of filtering
        cache = run.path / "cache"
        prepared = prepare_records(cohort, rows, cache=cache, rate=start.rate, workers=workers, first=run.first)
        batch_size = clip_batch_size(batch_size, len(rows["train"]))
        loaders = _loaders(cohort, labels, rows, prepared, batch_size=batch_size, seed=seed)
        module: EcgClassification | EcgFilling
        if chosen == "supervised":
            augment = EcgAugment(crop=crop, shift=shift, gain=gain, lead_dropout=lead_dropout, noise=noise)
            module = EcgClassification(
                net, image_ids=cohort.manifest["image_id"].tolist(), augment=augment, step=step, frozen=freeze
            )
        else:
            module = EcgFilling(
                EcgFiller(net), image_ids=cohort.manifest["image_id"].tolist(),
                augment=EcgAugment(crop=crop, shift=shift, gain=gain), step=step,
                masking=Masking(mask_ratio, round(mask_seconds * start.rate), seed=seed),
            )  # fmt: skip
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, monitor="val_loss" if "val" in loaders else None,
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        module.cpu().eval()
        table = epoch_table(trainer)
        results = {
            **judge(module, cohort, labels, rows, prepared, batch_size=batch_size, seed=seed),
            "objective": chosen,
            "labels": labels,
            "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
            "num_records": len(rows["train"]),
            "dim": net.config.dim,
            "size": size if weights is None else None,
            "rate": start.rate,
            "epochs": epochs,
            "train_loss": table.last("train_loss"),
            "val_loss": table.best("val_loss"),
        }
        facts = {
            "objective": chosen, "parent": start.parent,
            "data": {"name": cohort.name, "content_hash": cohort.content_hash, "split_hash": cohort.meta["split_hash"]},
            "num_records": len(rows["train"]), "epochs": epochs, "seed": seed, "pacx_version": __version__,
        }  # fmt: skip
        preprocessing = {"recipe": RECIPE, "rate": start.rate}
        teacher = run.artefact("teacher", "teacher")
        save_ecg_net(module.net, teacher, labels=labels, preprocessing=preprocessing, training=facts)
        save_patients(learned_from(start.patients, cohort, rows, stage="fit-ecg"), teacher)
        shutil.rmtree(cache, ignore_errors=True)
        return run.finish(results)


def _loaders(
    store: Store,
    labels: tuple[str, ...],
    rows: Splits,
    prepared: Mapping[str, NDArray[np.float16]],
    *,
    batch_size: int,
    seed: int,
) -> dict[str, DataLoader[Batch]]:
    """Make a loader for each split that has records; no labels, no targets."""
    targets = store.manifest[list(labels)].to_numpy(dtype=np.float32)
    loaders = {}
    for split, part in rows.items():
        arrays = {"ecg": prepared[split], **({"label": targets[part]} if labels else {})}
        if len(part):
            train = split == "train"
            loaders[split] = array_loader(
                ArrayRows(part, arrays=arrays), batch_size=batch_size, shuffle=train, seed=seed, drop_last=train
            )
    return loaders
