"""Fine-tuning: the encoder and a linear head trained end to end on one task, the counterpart of a linear probe.

A probe says what an encoder knows; fine-tuning says what it becomes. The paper reports probes only.

* AdamW with betas (.9, .999), decay on matrices only, linear warm-up, cosine to 0 per step, and layer-wise
  learning-rate decay (`pacx.stages.layer_decay`); drop path and label smoothing if asked for.
* The head looks at the class token or the mean of the patch tokens. Position tables that are fixed stay fixed.
* `--fraction` and `--seed` give the training subset that a probe gets for them: nested, by patient. Validation keeps
  all its labels, as with probes.
* The epoch with the best validation AUROC is kept (mean over outputs), the first of equals; the
  last one where validation defines none.
* Predictions on test images, their scores (`pacx.scoring`) and measures (`pacx.measures`) have the form of a probe's:
  `report`, `pool` and paired comparisons take both alike. The encoder that is left can be probed, explained or
  distilled like any other.
* A flip moves the heart to the right: `--augment none` where laterality is the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pacx.data.batches import Augment, Batch, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.frozen.features import encoder_name
from pacx.frozen.seen import check_unseen
from pacx.measures import keep_measures
from pacx.models.classifier import Classifier, HeadToken
from pacx.models.encoder import load_encoder, weights_hash
from pacx.preprocess import Preprocess
from pacx.runs import open_run
from pacx.stages.ecg_objectives import StepSize
from pacx.stages.finetuned import LEVEL, keep_classifier, predictions_of, score_rows
from pacx.stages.finetuning import FineTuning
from pacx.stages.layer_decay import layer_scales
from pacx.stages.lesson import Lesson, make_lesson
from pacx.stages.optimisation import check_rates, check_warmup
from pacx.stages.pairing import join
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
    predict,
    resume_path,
    seed_everything,
)

__all__ = ["Augmentation", "finetune"]

Augmentation = Literal["none", "flip", "full"]
"""flip = half of the images mirrored; full = crop, rotation, exposure, blur and an erased box as well"""
_SETTINGS = (
    "token", "epochs", "batch_size", "accumulate", "learning_rate", "layer_decay", "weight_decay", "warmup_epochs",
    "drop_path", "label_smoothing", "augment", "gradient_clip", "draws",
)  # fmt: skip


def finetune(
    *,
    store: Path,
    encoder: str,
    task: str,
    fraction: float = 1.0,
    seed: int = 0,
    token: HeadToken = "cls",
    epochs: int = 50,
    batch_size: int = 64,
    accumulate: int = 1,
    learning_rate: float = 5e-4,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    warmup_epochs: float = 5.0,
    drop_path: float = 0.0,
    label_smoothing: float = 0.0,
    augment: Augmentation = "flip",
    gradient_clip: float | None = None,
    name: str | None = None,
    draws: int = 1000,
    precision: Precision = "auto",
    accelerator: str = "auto",
    workers: int = 0,
    keep_checkpoints: int = 1,
    checkpoint_minutes: float = 10.0,
    resume: Resume = "auto",
    allow_seen_patients: bool = False,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train an encoder and a linear head end to end on one task, and test them as a probe is tested.

    Args:
        store: a store with images and the task.
        encoder: encoder folder, random:FOLDER[:SEED] to train the same architecture from scratch, or any foreign
            weights that `pacx convert` takes.
        task: name of the task; several labels are learnt jointly, unknown ones left out.
        fraction: share of the training labels, (0, 1]; the subset of a probe with this fraction and seed.
        seed: seed of the subset, the head, order, augmentation and drop path.
        token: what the head looks at: class token, or mean of the patch tokens.
        epochs: passes over the training images.
        batch_size: images per forward pass; no more than there are.
        accumulate: forward passes per optimiser step.
        learning_rate: peak learning rate of the head.
        layer_decay: factor on it from one layer to the next lower one; 1 = all alike.
        weight_decay: AdamW decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
        drop_path: probability of leaving out what the last block adds to an image; grows linearly from 0.
        label_smoothing: share of a label that is spread over all its values.
        augment: none, flip (half of the images mirrored), or full (crop, rotation, exposure, blur, erased box too).
        gradient_clip: largest gradient norm; none by default.
        name: how a report calls the result; the encoder's name and "-finetuned" if not given.
        draws: bootstrap draws of the intervals.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        workers: loader processes; 0 loads in the training process.
        keep_checkpoints: how many of the newest checkpoints stay.
        checkpoint_minutes: save inside an epoch when so long has passed since the last time; 0 = after every step.
        resume: auto = go on from the last checkpoint if there is one; true = do so or fail; false = start anew.
        allow_seen_patients: test even if the encoder was trained on some of the test patients; the result says so.
        out: the run folder to write; the encoder is in its folder `encoder`.
        overwrite: replace a finished run in `out`.

    Example:
        pacx finetune --store stores/cohort --encoder runs/pacx/encoder --task effusion --fraction 0.1 --out runs/ft
    """
    arguments = dict(locals())
    step = StepSize(learning_rate, weight_decay, warmup_epochs)
    _check(step, epochs=epochs, layer_decay=layer_decay, label_smoothing=label_smoothing)
    cohort = Store.open(store)
    lesson = make_lesson(cohort, cohort.task(task), fraction=fraction, seed=seed)
    start = load_encoder(encoder)
    seen = check_unseen(start, cohort, allow=allow_seen_patients)
    seed_everything(seed)
    classifier = Classifier(start, len(lesson.outputs), token=token, drop_path=drop_path)
    with open_run(out, command="finetune", config=arguments, overwrite=overwrite) as run:
        start.patients = learned_from(start.patients, cohort, lesson.rows, stage="finetune")
        parent = {"hash": weights_hash(start), "provenance": start.config.provenance}
        label = name or f"{encoder_name(encoder)}-finetuned"
        run.read("store", **cohort.identity())
        run.read("encoder", path=encoder, name=encoder_name(encoder), hash=parent["hash"])
        module = FineTuning(
            classifier, lesson,
            image_ids=cohort.manifest["image_id"].tolist(), step=step, layer_decay=layer_decay,
            label_smoothing=label_smoothing,
        )  # fmt: skip
        loaders = _loaders(
            cohort, lesson, start.config.preprocess, augment=augment, batch_size=batch_size, workers=workers
        )
        chosen_on = "val_auroc" if lesson.is_defined_on("val") else None
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=1,
            gradient_clip=gradient_clip, accumulate=accumulate, keep_checkpoints=keep_checkpoints,
            checkpoint_minutes=checkpoint_minutes, monitor=chosen_on, mode="max",
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        skipped = int(module.guard.skipped)  # of all epochs, not of the kept one
        load_weights(module, best_path(run))
        tables = {}
        for split, file in (("val", "val_predictions"), ("test", "predictions")):
            if split in loaders:
                found = join(predict(trainer, module, loaders[split]))
                tables[split] = predictions_of(cohort, lesson, found["index"].numpy(), found["score"].numpy())
                tables[split].to_parquet(run.artefact(file, f"{file}.parquet"))
        hashed = keep_classifier(run, module.classifier.cpu(), lesson, cohort, tables, parent=parent, epochs=epochs)
        table = epoch_table(trainer)
        return run.finish(
            {
                "encoder_name": label,
                "encoder_hash": hashed,
                "seen_patients": seen,
                "protocol": _protocol(arguments, chosen_on=chosen_on),
                **score_rows(lesson, tables["test"], draws=draws),
                "measures": keep_measures(
                    run, tables["test"], tables.get("val"), cohort.manifest, draws=draws, level=LEVEL
                ),
                "val_auroc": table.best("val_auroc", mode="max") if chosen_on else float("nan"),
                "num_images": len(lesson.rows["train"]),
                "images_per_second": table.images_per_second,
                "skipped_steps": skipped,
                "num_parameters": sum(parameter.numel() for parameter in module.classifier.parameters()),
            }
        )


def _check(step: StepSize, *, epochs: int, layer_decay: float, label_smoothing: float) -> None:
    check_rates(learning_rate=step.learning_rate, weight_decay=step.weight_decay)
    check_warmup(epochs=epochs, warmup_epochs=step.warmup_epochs)
    layer_scales((), depth=0, decay=layer_decay)
    if not 0 <= label_smoothing < 1:
        raise PacxError(f"label_smoothing is {label_smoothing:g}; it must be from 0 (none) to below 1.")


def _protocol(arguments: Mapping[str, Any], *, chosen_on: str | None) -> dict[str, Any]:
    """Say how it was trained and judged; runs are pooled if they agree in this."""
    chosen = "last epoch" if chosen_on is None else "AUROC on the whole validation split"
    return {
        "name": "finetune", **{name: arguments[name] for name in _SETTINGS}, "chosen_on": chosen, "level": LEVEL
    }  # fmt: skip


def _loaders(
    store: Store, lesson: Lesson, preprocess: Preprocess, *, augment: Augmentation, batch_size: int, workers: int
) -> dict[str, DataLoader[Batch]]:
    changes = {"none": Augment.none(), "flip": Augment.supervised(), "full": replace(Augment.distill(), flip=True)}

    def loader(split: str, rows: NDArray[np.int64]) -> DataLoader[Batch]:
        train = split == "train"
        made = changes[augment] if train else Augment.none()
        dataset = StoreDataset(store, rows, preprocess=preprocess, augment=made, seed=lesson.seed)
        size = clip_batch_size(batch_size, len(rows))
        return make_loader(dataset, batch_size=size, shuffle=train, seed=lesson.seed, workers=workers)

    return {split: loader(split, rows) for split, rows in lesson.rows.items() if len(rows)}
