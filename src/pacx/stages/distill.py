"""Stage 2: distil any number of frozen teachers into the X-ray encoder (PaCX-MAE).

    L = lambda_C * contrastive + lambda_R * regression            (`pacx.objectives.distillation_loss`)

* The teachers are banks: embeddings by row, with holes. A row trains if it has an image and at least one teacher;
  a missing ECG does not keep the labs of the same patient from teaching. `complete_only` is the paper's way.
* The encoder learns through LoRA and its norms; heads and projections are thrown away afterwards. What remains is a
  plain encoder folder, and, for analysis, the adapter in PEFT's format and the heads.
* AdamW, warm-up and a cosine down to 1 % of the peak, gradients clipped at norm 1. Augmentation without flips: the
  heart stays on its side.
* Validation runs over the whole validation split; the epoch with the lowest validation loss is kept.
* Not in the paper: `standardise` takes away what a teacher says of everybody; `patient_aware` spares the student
  telling two X-rays of one patient apart; `anchor_weight` holds the patch tokens, which the losses do not look at, near
  those of the base encoder; `chunk_size` lets batches of hundreds fit a small device; `keep` forgets a share of a
  teacher's rows, to see what holes cost.
* `shuffle_teachers` is the negative control: the pairing of images and teachers is destroyed within each split, all
  else stays. Retrieval against the true bank must then be at chance, and whatever a probe still gains does not come
  from physiology.

Weights of the two terms: the paper gives none, the authors' command line had .5 and 1.0; here both are 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pacx.data.bank import open_banks
from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder, weights_hash
from pacx.models.patients import load_patients
from pacx.models.standardise import Standardise, fit_standardiser
from pacx.models.student import Adaptation, Student, TrainNorms
from pacx.runs import open_run
from pacx.stages.distillation import Distillation
from pacx.stages.distilled import judge, keep_student, sizes
from pacx.stages.lessons import Lessons, by_teacher, plan_lessons
from pacx.stages.pairing import COLLAPSED
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

__all__ = ["distill"]

log = logging.getLogger("pacx")


def distill(
    *,
    store: Path,
    encoder: str,
    banks: list[Path],
    adaptation: Adaptation = "lora",
    rank: int = 8,
    alpha: int = 16,
    lora_dropout: float = 0.1,
    train_norms: TrainNorms = "all",
    last_blocks: int = 4,
    shared_width: int = 256,
    head_dropout: float = 0.2,
    contrastive_weight: float = 1.0,
    regression_weight: float = 1.0,
    anchor_weight: float = 0.0,
    teacher_weights: list[str] | None = None,
    label_smoothing: float = 0.02,
    standardise: Standardise = "none",
    patient_aware: bool = True,
    complete_only: bool = False,
    keep: list[str] | None = None,
    num_pairs: int | None = None,
    shuffle_teachers: bool = False,
    augment: bool = True,
    epochs: int = 50,
    batch_size: int = 500,
    chunk_size: int | None = None,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.05,
    warmup_epochs: float = 5.0,
    gradient_clip: float = 1.0,
    seed: int = 0,
    precision: Precision = "auto",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    workers: int = 0,
    resume: Resume = "auto",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    r"""Distil frozen teachers into an X-ray encoder.

    Args:
        store: the store whose images the banks belong to.
        encoder: where to start: an encoder folder, random:FOLDER for fresh weights of the same architecture, or any
            foreign weights that `pacx convert` takes.
        banks: one bank folder per teacher.
        adaptation: lora; last = the last blocks and the final norm; full = everything.
        rank: rank of the LoRA matrices.
        alpha: LoRA's numerator; updates count alpha / rank times.
        lora_dropout: dropout on the way into the LoRA matrices.
        train_norms: with lora, train all LayerNorms (the paper) or the final one (the authors' code).
        last_blocks: how many blocks `last` trains.
        shared_width: length of the shared space.
        head_dropout: dropout on the way into every head.
        contrastive_weight: weight of the contrastive term; 0 leaves it out.
        regression_weight: weight of the regression term; 0 leaves it out.
        anchor_weight: weight of the distance of patch tokens to those of the encoder it started from; 0 leaves it out.
        teacher_weights: weight of a teacher within both terms, as in `ecg=1 labs=0.5`; 1 where none is given.
        label_smoothing: of the contrastive term.
        standardise: what the teachers' embeddings go through first, fitted on the training rows: none, centre, or
            whiten.
        patient_aware: another X-ray of the same patient is no negative; false treats it as any other row, as the
            published code does.
        complete_only: train only on rows that every teacher knows, as in the paper.
        keep: share of the patients whose embeddings of a teacher are kept for training and validation, as in `ecg=0.5`.
        num_pairs: train on about this many rows only, whole patients at a time; all if not given.
        shuffle_teachers: negative control: destroy the pairing of images and teachers.
        augment: crop, turn, blur and erase training images (no flip).
        epochs: passes over the training rows.
        batch_size: rows per step and device, all of them each other's negatives; no more than there are.
        chunk_size: images that go through the encoder at a time; less memory, the same gradients, a forward pass more.
        learning_rate: peak learning rate.
        weight_decay: AdamW decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
        gradient_clip: largest gradient norm.
        seed: seed of heads, order, augmentation, dropout and the shuffling of teachers.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, or auto.
        strategy: Lightning strategy: auto, ddp, fsdp.
        workers: loader processes; 0 loads in the training process.
        resume: auto = go on from the last finished epoch if there is one; true = do so or fail; false = start anew.
        out: the run folder to write.
        overwrite: replace a finished run in `out`.

    Example:
        pacx distill --store stores/pairs --encoder runs/mae/encoder --banks runs/bank-ecg \
            runs/bank-labs --out runs/pacx
    """
    arguments = dict(locals())
    _check_arguments(arguments)
    with open_run(out, command="distill", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        base = load_encoder(encoder)
        true = open_banks(banks, cohort)
        weights = by_teacher(teacher_weights, true, option="teacher_weights")
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        run.read("encoder", path=encoder, hash=weights_hash(base))
        run.read("banks", **{name: bank.meta.get("weights_hash") for name, bank in true.items()})
        lessons = plan_lessons(
            cohort, true, complete_only=complete_only, keep=keep, num_pairs=num_pairs, shuffle=shuffle_teachers,
            seed=seed,
        )  # fmt: skip
        if not regression_weight:
            _refuse_nothing_to_contrast(lessons, weights, patient_aware=patient_aware)
        taught, rows = lessons.banks, lessons.rows
        seed_everything(seed)
        student = Student(
            base, {name: bank.dim for name, bank in true.items()}, adaptation=adaptation, rank=rank, alpha=alpha,
            dropout=lora_dropout, last_blocks=last_blocks, shared_width=shared_width, head_dropout=head_dropout,
            train_norms=train_norms, chunk_size=chunk_size, anchored=anchor_weight > 0,
        )  # fmt: skip
        for name in taught:
            student.standardisers[name] = fit_standardiser(lessons.embeddings(name, "train"), standardise)
        module = Distillation(
            student, taught, image_ids=cohort.manifest["image_id"].tolist(),
            patient=lessons.patient if patient_aware else None, contrastive_weight=contrastive_weight,
            regression_weight=regression_weight, anchor_weight=anchor_weight, teacher_weights=weights,
            label_smoothing=label_smoothing, learning_rate=learning_rate, weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )  # fmt: skip
        batch_size = _settle_batch_size(batch_size, len(rows["train"]))

        def loader(split: str, *, training: bool = False) -> Any:
            change = Augment.distill() if augment and training else Augment.none()
            data = StoreDataset(cohort, rows[split], preprocess=base.config.preprocess, augment=change, seed=seed)
            # A small last batch would have few negatives.
            return make_loader(
                data, batch_size=batch_size, shuffle=training, seed=seed, workers=workers, drop_last=training
            )

        training = loader("train", training=True)
        # One row alone has nothing to be told apart from: it cannot say which epoch is best.
        watched = loader("val") if len(rows["val"]) > 1 else None
        judged = next(split for split in ("test", "val", "train") if len(rows[split]))
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, gradient_clip=gradient_clip, monitor=None if watched is None else "val_loss",
        )  # fmt: skip
        fit(trainer, module, training, watched, resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        results = judge(trainer, module, true, cohort, watched=watched, judged=(judged, loader(judged)), seed=seed)
        if results["embedding_spread"] < COLLAPSED:
            log.warning(
                "distill: the student has collapsed: all images have nearly the same embedding (spread %.4f of 1). "
                "Lower --learning_rate, or give more pairs.", results["embedding_spread"],
            )  # fmt: skip
        experts = {name: load_patients(path) for name, path in zip(true, banks, strict=True)}
        seen = learned_from(base.patients, cohort, rows, stage="distill", teachers=experts)
        keep_student(run, module.student.cpu().eval(), base, true, cohort, arguments, seen=seen)
        table = epoch_table(trainer)
        return run.finish(
            {
                **results,
                "teachers": {
                    name: {**found, "num_train": len(lessons.taught_rows(name))}
                    for name, found in results["teachers"].items()
                },
                "shuffled_teachers": shuffle_teachers,
                "train_loss": table.last("train_loss"),
                "skipped_steps": int(table.last("skipped_steps")),
                "epochs": epochs,
                "steps": int(table.last("step")),
                "images_per_second": table.images_per_second,
                "effective_batch_size": batch_size * trainer.world_size,
                "num_train": len(rows["train"]),
                "num_complete": lessons.num_complete,
                **sizes(module.student),
            }
        )


def _settle_batch_size(asked: int, num_rows: int) -> int:
    """Take the batch down to the rows that there are, and say so."""
    size = clip_batch_size(asked, num_rows)
    if size < asked:
        log.info(
            "distill: %d rows, so the batch is %d (%d were asked for): 1 step an epoch; a smaller --batch_size gives "
            "more steps.", num_rows, size, asked,
        )  # fmt: skip
    return size


def _refuse_nothing_to_contrast(lessons: Lessons, weights: Mapping[str, float], *, patient_aware: bool) -> None:
    """Refuse a contrastive loss that would be alone and always 0."""
    counting = [name for name in lessons.banks if weights.get(name, 1.0)]
    if any(lessons.can_contrast(name, patient_aware=patient_aware) for name in counting):
        return
    needed = "of two different patients" if patient_aware else "(two)"
    raise PacxError(
        f"The contrastive loss is the only term, and it would always be 0: no teacher ({', '.join(counting)}) has "
        f"training rows {needed} to tell apart. Give more rows (--num_pairs, --keep), or a --regression_weight above 0."
    )


def _check_arguments(given: dict[str, Any]) -> None:
    """Refuse numbers with which nothing, or the opposite, would be learned."""
    weights = ("contrastive_weight", "regression_weight", "anchor_weight")
    for flag in weights:
        if not 0 <= given[flag] < math.inf:
            raise PacxError(f"{flag} is {given[flag]:g}; it must be a finite number, 0 (left out) or more.")
    if not given["contrastive_weight"] and not given["regression_weight"]:
        raise PacxError("contrastive_weight and regression_weight are both 0: the teachers would teach nothing.")
    for flag in ("label_smoothing", "head_dropout", "lora_dropout"):
        if not 0 <= given[flag] < 1:
            raise PacxError(f"{flag} is {given[flag]:g}; it must be at least 0 and below 1.")
    for flag, least in (("shared_width", 1), ("batch_size", 2 if given["contrastive_weight"] else 1)):
        if given[flag] < least:
            raise PacxError(
                f"{flag} is {given[flag]}; it must be at least {least}"
                f"{', since a row alone has nothing to be told apart from' if least > 1 else ''}."
            )
