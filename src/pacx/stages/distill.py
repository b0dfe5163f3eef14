"""Stage 2: distil any number of frozen teachers into the X-ray encoder (PaCX-MAE).

    L = lambda_C * contrastive + lambda_R * regression            (`pacx.objectives.distillation_loss`)

* The teachers are banks: embeddings by row, with holes. A row trains if it has an image and at least one teacher;
  a missing ECG does not keep the labs of the same patient from teaching. `complete_only` is the paper's way.
* The encoder learns through LoRA and its norms; heads and projections are thrown away afterwards. What remains is a
  plain encoder folder, and, for analysis, the adapter in PEFT's format and the heads.
* AdamW, warm-up and a cosine down to 1 % of the peak, gradients clipped at norm 1. Augmentation without flips: the
  heart stays on its side.
* Validation runs over the whole validation split; the epoch with the lowest validation loss is kept.
* `shuffle_teachers` is the negative control: the pairing of images and teachers is destroyed within each split, all
  else stays. Retrieval against the true bank must then be at chance, and whatever a probe still gains does not come
  from physiology.

Weights of the two terms: the paper gives none, the authors' command line had .5 and 1.0; here both are 1.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from pacx import __version__
from pacx.data.bank import Bank, open_banks
from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.models.encoder import Encoder, load_encoder, save_encoder, weights_hash
from pacx.models.student import Adaptation, Student, TrainNorms
from pacx.models.weights import save_tensors
from pacx.runs import RunFolder, open_run, write_json
from pacx.stages.distillation import Distillation
from pacx.stages.pairing import Paired, join, search
from pacx.stages.provenance import training_data
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
from pacx.statistics import bootstrap_mean

__all__ = ["distill", "paired_rows"]

log = logging.getLogger("pacx")

_COLLAPSED = 0.02
"""spread of the image embeddings below which they are all but one point"""


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
    label_smoothing: float = 0.02,
    complete_only: bool = False,
    shuffle_teachers: bool = False,
    augment: bool = True,
    epochs: int = 50,
    batch_size: int = 500,
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
        label_smoothing: of the contrastive term.
        complete_only: train only on rows that every teacher knows, as in the paper.
        shuffle_teachers: negative control: destroy the pairing of images and teachers.
        augment: crop, turn, blur and erase training images (no flip).
        epochs: passes over the training rows.
        batch_size: rows per step and device, all of them each other's negatives; no more than there are.
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
    with open_run(out, command="distill", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        base = load_encoder(encoder)
        true = open_banks(banks, cohort)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        run.read("encoder", path=encoder, hash=weights_hash(base))
        run.read("banks", **{name: bank.meta.get("weights_hash") for name, bank in true.items()})
        rows = {split: paired_rows(cohort, true, split, complete_only=complete_only) for split in _SPLITS}
        taught = true
        if shuffle_teachers:
            split = cohort.manifest["split"].to_numpy(dtype=str)
            patient = cohort.manifest["patient_id"]
            taught = {name: bank.shuffled(split, patient=patient, seed=seed) for name, bank in true.items()}
        seed_everything(seed)
        student = Student(
            base, {name: bank.dim for name, bank in true.items()}, adaptation=adaptation, rank=rank, alpha=alpha,
            dropout=lora_dropout, last_blocks=last_blocks, shared_width=shared_width, head_dropout=head_dropout,
            train_norms=train_norms,
        )  # fmt: skip
        module = Distillation(
            student, taught, image_ids=cohort.manifest["image_id"].tolist(), contrastive_weight=contrastive_weight,
            regression_weight=regression_weight, label_smoothing=label_smoothing, learning_rate=learning_rate,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs,
        )  # fmt: skip
        batch_size = clip_batch_size(batch_size, len(rows["train"]))
        loaders = {
            split: make_loader(
                StoreDataset(
                    cohort,
                    part,
                    preprocess=base.config.preprocess,
                    augment=Augment.distill() if augment and split == "train" else Augment.none(),
                    seed=seed,
                ),
                batch_size=batch_size,
                shuffle=split == "train",
                seed=seed,
                workers=workers,
                drop_last=split == "train",  # a small last batch would have few negatives
            )
            for split, part in rows.items()
            if len(part)
        }
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, gradient_clip=gradient_clip, monitor="val_loss" if "val" in loaders else None,
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        judged = "test" if "test" in loaders else "val" if "val" in loaders else "train"
        results = _judge(trainer, module, true, loaders, cohort, judged=judged, seed=seed)
        if results["embedding_spread"] < _COLLAPSED:
            log.warning(
                "distill: the student has collapsed: all images have nearly the same embedding (spread %.4f of 1). "
                "Lower --learning_rate, or give more pairs.", results["embedding_spread"],
            )  # fmt: skip
        _keep(run, module.student.cpu().eval(), base, true, cohort, arguments)
        table = epoch_table(trainer)
        return run.finish(
            {
                **results,
                "shuffled_teachers": shuffle_teachers,
                "train_loss": table.last("train_loss"),
                "skipped_steps": int(table.last("skipped_steps")),
                "epochs": epochs,
                "steps": int(table.last("step")),
                "images_per_second": table.images_per_second,
                "num_train": len(rows["train"]),
                "num_complete": len(paired_rows(cohort, true, "train", complete_only=True)),
                **_sizes(module.student),
            }
        )


_SPLITS = ("train", "val", "test")


def paired_rows(store: Store, banks: Mapping[str, Bank], split: str, *, complete_only: bool) -> NDArray[np.int64]:
    """Return the rows of a split with an image and one teacher at least, or all teachers."""
    rows = store.rows(split, needs=("image",))
    present = np.stack([bank.present[rows] for bank in banks.values()])
    return rows[present.all(axis=0) if complete_only else present.any(axis=0)]


def _judge(
    trainer: L.Trainer,
    module: Distillation,
    true: Mapping[str, Bank],
    loaders: Mapping[str, Any],
    store: Store,
    *,
    judged: str,
    seed: int,
) -> dict[str, Any]:
    """Measure the kept student: on validation as it was trained, and on unseen rows against the true banks."""
    watched = "val" if "val" in loaders else judged
    measured = module.measure(join(predict(trainer, module, loaders[watched])))
    module.banks = true
    made = join(predict(trainer, module, loaders[judged]))
    patient = store.manifest["patient_id"].to_numpy(dtype=str)[made["index"].numpy()]
    teachers = {}
    for name, terms in made["teachers"].items():
        pair = Paired(**terms)
        cosine = torch.cosine_similarity(pair.predicted, pair.embedding, dim=-1)[pair.present].double().numpy()
        teachers[name] = {
            **search(made["shared"], pair, patient, seed=seed),
            "regression_cosine": bootstrap_mean(cosine, patient[pair.present.numpy()], seed=seed),
        }
    return {
        "val_loss": measured["loss"] if "val" in loaders else float("nan"),
        "temperature": 1 / float(module.student.scale().detach()),
        "positive_cosine": _mean([measured[f"positive_cosine/{name}"] for name in true]),
        "negative_cosine": _mean([measured[f"negative_cosine/{name}"] for name in true]),
        "embedding_spread": measured["spread"],
        "retrieval_split": judged,
        "teachers": teachers,
    }


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def _sizes(student: Student) -> dict[str, int]:
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    in_encoder = [parameter for parameter in student.encoder.parameters() if parameter.requires_grad]
    return {
        "trainable_parameters": sum(parameter.numel() for parameter in learned),
        "trainable_encoder_parameters": sum(parameter.numel() for parameter in in_encoder),
        "total_parameters": sum(parameter.numel() for parameter in student.parameters()),
    }


def _keep(
    run: RunFolder,
    student: Student,
    base: Encoder,
    banks: Mapping[str, Bank],
    store: Store,
    arguments: Mapping[str, Any],
) -> None:
    """Write the merged encoder, the adapter, and the heads."""
    merged = student.merged_encoder()
    facts = [
        {key: bank.meta.get(key) for key in ("teacher", "kind", "weights_hash", "preprocessing", "store")}
        for bank in banks.values()
    ]
    provenance = {
        "method": f"distillation from {', '.join(banks)} ({arguments['adaptation']}), {arguments['epochs']} epochs",
        "parent": {"hash": weights_hash(base), "provenance": base.config.provenance},
        "teachers": facts,
        "shuffled_teachers": arguments["shuffle_teachers"],
        "data": training_data(store),
        "pacx_version": __version__,
    }
    merged.config = replace(merged.config, provenance=json.loads(json.dumps(provenance)))
    save_encoder(merged, run.artefact("encoder", "encoder"))
    if arguments["adaptation"] == "lora":
        student.save_adapter(run.artefact("adapter", "adapter"))
    heads = {key: value for key, value in student.state_dict().items() if not key.startswith("encoder.")}
    save_tensors(heads, run.artefact("heads", "heads.safetensors"))
    write_json(
        run.path / "heads.json",
        {
            "shared_width": arguments["shared_width"],
            "teachers": {name: bank.dim for name, bank in banks.items()},
            "encoder_hash": weights_hash(merged),
            "banks": facts,
        },
    )
