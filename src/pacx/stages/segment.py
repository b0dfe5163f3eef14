"""Segmentation on a frozen encoder: do its patch tokens say where things are?

A small convolutional decoder is trained on the patch tokens; the encoder is not. So the score belongs to the encoder.

    loss = BCE(logits, mask) + 1 - 2 sum(p m) / (sum p + sum m),     p = sigmoid(logits), sums over the batch

* Scores are per image (Dice and IoU at probability 0.5), averaged over images, with intervals from drawing patients.
  Pooling pixels over a batch, as is often done, makes the score depend on the batch size and hides failures.
* An image without the structure scores 1 when nothing is predicted and 0 otherwise.
* The decoder of the epoch with the best validation Dice is kept.
* The defaults suit tens to thousands of masks; the authors trained on tens of thousands with batch size 256 and a
  learning rate of 1e-4, which on small sets leaves the decoder unfinished.
* Each image's score is written to `scores.parquet`, so that two encoders can be compared image by image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.frozen.seen import check_unseen
from pacx.models.encoder import load_encoder, weights_hash
from pacx.models.weights import save_weights
from pacx.runs import RunFolder, open_run
from pacx.stages.pairing import join
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
from pacx.stages.segmentation import MaskDecoding, overlap_scores
from pacx.stages.tokens import FrozenTokens
from pacx.statistics import bootstrap_mean

__all__ = ["segment"]


def segment(
    *,
    store: Path,
    encoder: str,
    mask: str = "lung",
    epochs: int = 50,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup_epochs: float = 2.0,
    flip: bool = True,
    train_images: int | None = None,
    cache_mib: float = 2048.0,
    seed: int = 0,
    precision: Precision = "auto",
    accelerator: str = "auto",
    workers: int = 0,
    resume: Resume = "auto",
    allow_seen_patients: bool = False,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a mask decoder on a frozen encoder's patch tokens and score it.

    Args:
        store: a store with masks.
        encoder: encoder folder, random:FOLDER for fresh weights of the same architecture, or any foreign weights
            that `pacx convert` takes.
        mask: which of the store's masks.
        epochs: passes over the training images.
        batch_size: images per step; no more than there are.
        learning_rate: peak learning rate of the decoder.
        weight_decay: AdamW decay of the decoder's kernels.
        warmup_epochs: linear warm-up, in epochs.
        flip: mirror half of the training images left to right.
        train_images: train on this many images only, drawn once; all if not given.
        cache_mib: memory that remembered tokens may take; above it they are computed in each epoch.
        seed: seed of weights, order and flips.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        workers: loader processes; 0 loads in the training process.
        resume: auto = go on from the last finished epoch if there is one; true = do so or fail; false = start anew.
        out: the run folder to write.
        allow_seen_patients: score the encoder even if it was trained on some of these patients; the result says so.
        overwrite: replace a finished run in `out`.

    Example:
        pacx segment --store stores/lungs --encoder runs/mae/encoder --mask lung --out runs/lungs
    """
    arguments = dict(locals())
    with open_run(out, command="segment", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        backbone = load_encoder(encoder)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        run.read("encoder", path=encoder, hash=weights_hash(backbone))
        cohort.mask(mask, [0])  # an unknown mask is refused before anything is computed
        seed_everything(seed)
        rows = _rows(cohort, train_images=train_images, seed=seed)
        judged = "test" if len(rows["test"]) else "val"
        seen = check_unseen(backbone, cohort, split=judged, needs=("image", "mask"), allow=allow_seen_patients)
        everything = np.concatenate(list(rows.values()))
        module = MaskDecoding(
            FrozenTokens(backbone, everything, flip=flip, budget_mib=cache_mib),
            lambda chosen: cohort.mask(mask, chosen),
            image_ids=cohort.manifest["image_id"].tolist(),
            flip=flip, learning_rate=learning_rate, weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        loaders = {
            split: make_loader(
                StoreDataset(cohort, part, preprocess=backbone.config.preprocess, augment=Augment.none(), seed=seed),
                batch_size=clip_batch_size(batch_size, len(part)),
                shuffle=split == "train",
                seed=seed,
                workers=workers,
            )
            for split, part in rows.items()
            if len(part)
        }
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=1, mode="max",
            monitor="val_dice" if "val" in loaders else None,
        )  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        if judged not in loaders:
            raise PacxError(f"Store {cohort.name} has neither test nor val images with masks: nothing to score on.")
        found = join(predict(trainer, module, loaders[judged]))
        scores = _scores(cohort, mask, found["index"].numpy(), found["mask"])
        scores.to_parquet(run.artefact("scores", "scores.parquet"), index=False)
        save_weights(module.decoder, run.artefact("decoder", "decoder.safetensors"))
        _draw(run, cohort, mask, scores, found["mask"].numpy())
        return run.finish(
            {
                "mask": mask,
                "encoder": encoder,
                "seen_patients": seen,
                "dice": bootstrap_mean(scores["dice"], scores["patient_id"], seed=seed),
                "iou": bootstrap_mean(scores["iou"], scores["patient_id"], seed=seed),
                "split": judged,
                "num_train": len(rows["train"]),
                "num_test": len(scores),
                "num_test_patients": int(scores["patient_id"].nunique()),
                "val_dice": epoch_table(trainer).best("val_dice", mode="max"),
                "epochs": epochs,
                "num_parameters": sum(parameter.numel() for parameter in module.decoder.parameters()),
            }
        )


def _rows(store: Store, *, train_images: int | None, seed: int) -> dict[str, NDArray[np.int64]]:
    rows = {split: store.rows(split, needs=("image", "mask")) for split in ("train", "val", "test")}
    if train_images is not None:
        order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(rows["train"])
        rows["train"] = np.sort(order[:train_images])
    return rows


def _scores(store: Store, mask: str, rows: NDArray[np.int64], predicted: Tensor) -> pd.DataFrame:
    """Tabulate both scores; line i belongs to `rows[i]`."""
    dice, iou = overlap_scores(predicted, torch.from_numpy(store.mask(mask, rows)))
    table: pd.DataFrame = store.manifest.iloc[rows][["image_id", "patient_id"]].reset_index(drop=True)
    return table.assign(row=rows, dice=dice.numpy(), iou=iou.numpy())


def _draw(run: RunFolder, store: Store, mask: str, scores: pd.DataFrame, predicted: NDArray[np.bool_]) -> None:
    """Draw truth and prediction from the worst to the best image, evenly spaced in rank: failures are not left out."""
    from matplotlib.figure import Figure

    assert store.images is not None
    ranked = scores.sort_values("dice")
    chosen = ranked.iloc[np.unique(np.linspace(0, len(ranked) - 1, num=min(8, len(ranked))).round().astype(int))]
    path = run.figure(
        "overlays.png",
        caption=(
            f"Masks ({mask}) on {len(scores)} unseen images, from the worst (left) to the best: "
            "truth in blue, prediction in orange, Dice above."
        ),
    )
    figure = Figure(figsize=(1.8 * len(chosen), 2.05), dpi=110, facecolor="white")
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axis, line, row, dice in zip(axes, chosen.index, chosen["row"], chosen["dice"], strict=True):
        axis.imshow(store.images[row], cmap="gray", vmin=0, vmax=255)
        for area, colour, style in ((store.mask(mask, [row])[0], "#3fa7ff", "-"), (predicted[line], "#ff9f1c", "--")):
            if area.any() and not area.all():
                axis.contour(area, levels=[0.5], colors=[colour], linewidths=1.1, linestyles=style)
        axis.set_title(f"{dice:.3f}", fontsize=9, pad=3)
        axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, top=0.88, bottom=0.005, wspace=0.03)
    figure.savefig(path)
