"""Segmentation on a frozen encoder: do its patch tokens say where things are?

A small convolutional decoder is trained on the patch tokens; the encoder is not. So the score belongs to the encoder.

    loss = BCE(logits, mask) + 1 - 2 sum(p m) / (sum p + sum m),     p = sigmoid(logits), sums over the batch

* Scores are per image (Dice, IoU and distance of outlines at probability 0.5; `pacx.stages.mask_scores`), averaged over
  images, with intervals from drawing patients. Each image's scores are written to `scores.parquet`, so that two
  encoders can be compared image by image.
* Pooling pixels over batches of 256, as in the paper, is reported beside them (`published`): it makes the score depend
  on the batch size and hides failures.
* An image without the structure scores 1 when nothing is predicted and 0 otherwise; without outline, no distance.
* The decoder of the epoch with the best validation Dice is kept.
* The defaults (`small`) suit tens to thousands of masks. The authors (`paper`) trained on tens of thousands with a
  batch size of 256 and a learning rate of 1e-4, which on small sets leaves the decoder unfinished; they let weight
  decay act on all parameters and chose the epoch by pooled Dice. Known differences: they rotated training images by up
  to 10 degrees, which needs `--rotate 10` and a forward pass per image and epoch, since tokens of rotated images cannot
  be kept; rotated images are interpolated here, theirs took the nearest pixel; bfloat16 or 32 bits, theirs float16.
* Tokens are computed once for both views and kept beside the run (`pacx.frozen.tokens`), for any number of runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from pacx.data.batches import Augment, Batch, StoreDataset, check_geometry, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.frozen.cache import feature_cache
from pacx.frozen.features import encoder_name
from pacx.frozen.seen import check_unseen
from pacx.frozen.tokens import keep_tokens, token_bytes
from pacx.models.encoder import Encoder, load_encoder, weights_hash
from pacx.models.weights import save_weights
from pacx.runs import open_run
from pacx.stages.mask_overlays import draw_masks
from pacx.stages.mask_rows import judged_split, mask_rows
from pacx.stages.mask_scores import batched_scores, overlap_scores, surface_distances
from pacx.stages.optimisation import check_rates, check_warmup
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
from pacx.stages.segmentation import MaskDecoding
from pacx.stages.tokens import ComputedTokens, ReadTokens, TokenSource
from pacx.statistics import bootstrap_mean

__all__ = ["PUBLISHED_BATCH", "Protocol", "segment"]

Protocol = Literal["small", "paper"]
_SETTINGS: dict[Protocol, dict[str, float]] = {
    "small": {"batch_size": 16, "learning_rate": 1e-3, "warmup_epochs": 2.0},
    "paper": {"batch_size": 256, "learning_rate": 1e-4, "warmup_epochs": 5.0},
}
PUBLISHED_BATCH = 256
"""images over whose pixels the published scores are pooled"""
log = logging.getLogger("pacx")


def segment(
    *,
    store: Path,
    encoder: str,
    mask: str = "lung",
    protocol: Protocol = "small",
    epochs: int = 50,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    flip: bool = True,
    rotate: float = 0.0,
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
        protocol: settings where none are given, and what decay and selection look at: small = for tens to thousands
            of masks; paper = as published.
        epochs: passes over the training images.
        batch_size: images per step, no more than there are; 16 (small) or 256 (paper) if not given.
        learning_rate: peak learning rate of the decoder; 1e-3 (small) or 1e-4 (paper) if not given.
        weight_decay: AdamW decay of the decoder's kernels; with paper, of its biases too.
        warmup_epochs: linear warm-up, in epochs; 2 (small) or 5 (paper) if not given.
        flip: mirror half of the training images left to right.
        rotate: largest rotation of training images, degrees to either side; tokens are then computed in each epoch.
        train_images: train on this many images only, drawn once; all if not given.
        cache_mib: disk space that kept tokens may take; above it they are computed in each epoch.
        seed: seed of weights, order, flips and rotations.
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
    chosen = {
        name: usual if arguments[name] is None else arguments[name] for name, usual in _SETTINGS[protocol].items()
    }
    arguments |= chosen
    check_rates(learning_rate=float(chosen["learning_rate"]), weight_decay=weight_decay)
    check_warmup(epochs=epochs, warmup_epochs=float(chosen["warmup_epochs"]))
    if not 0 <= rotate <= 180:
        raise PacxError(f"rotate is {rotate:g}; give degrees from 0 (no rotation) to 180.")
    with open_run(out, command="segment", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        rows = mask_rows(cohort, mask, train_images=train_images, seed=seed)
        judged = judged_split(cohort, rows)
        backbone = load_encoder(encoder)
        check_geometry(cohort, backbone.config.preprocess)
        seen = check_unseen(backbone, cohort, split=judged, needs=("image", "mask"), allow=allow_seen_patients)
        run.read("store", **cohort.identity())
        run.read("encoder", path=encoder, name=encoder_name(encoder), hash=weights_hash(backbone))
        seed_everything(seed)
        selected = "val_pooled_dice" if protocol == "paper" else "val_dice"
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=1, mode="max",
            monitor=selected if len(rows["val"]) else None,
        )  # fmt: skip
        tokens = _token_source(
            backbone, cohort, rows, flip=flip, computed=rotate > 0, cache=feature_cache(out), budget_mib=cache_mib,
            device=trainer.strategy.root_device,
        )  # fmt: skip
        module = MaskDecoding(
            tokens, lambda chosen: cohort.mask(mask, chosen), image_ids=cohort.manifest["image_id"].tolist(), flip=flip,
            learning_rate=float(chosen["learning_rate"]), weight_decay=weight_decay,
            warmup_epochs=float(chosen["warmup_epochs"]), decay_all=protocol == "paper", seed=seed,
        )  # fmt: skip
        loaders = {
            split: _loader(
                cohort, part, tokens, mask=mask, train=split == "train", rotate=rotate,
                batch_size=int(chosen["batch_size"]), seed=seed, workers=workers,
            )
            for split, part in rows.items() if len(part)
        }  # fmt: skip
        fit(trainer, module, loaders["train"], loaders.get("val"), resume=resume_path(run, resume))
        load_weights(module, best_path(run))
        found = join(predict(trainer, module, loaders[judged]))
        truth = cohort.mask(mask, found["index"].numpy())
        scores = _scores(cohort, found["index"].numpy(), found["mask"], truth)
        scores.to_parquet(run.artefact("scores", "scores.parquet"), index=False)
        save_weights(module.decoder, run.artefact("decoder", "decoder.safetensors"))
        draw_masks(run, cohort, mask, scores, found["mask"].numpy(), split=judged)
        return run.finish(
            {
                "mask": mask,
                "encoder": encoder,
                "seen_patients": seen,
                "protocol": protocol,
                **_averages(scores, seed=seed),
                "published": _pooled(found["mask"], truth),
                "split": judged,
                "num_train": len(rows["train"]),
                "num_test": len(scores),
                "num_test_patients": int(scores["patient_id"].nunique()),
                "val_dice": epoch_table(trainer).best("val_dice", mode="max"),
                "epochs": epochs,
                "num_parameters": sum(parameter.numel() for parameter in module.decoder.parameters()),
            }
        )


def _token_source(
    encoder: Encoder,
    store: Store,
    rows: Mapping[str, NDArray[np.int64]],
    *,
    flip: bool,
    computed: bool,
    cache: Path,
    budget_mib: float,
    device: torch.device,
) -> TokenSource:
    """Keep the tokens of all rows, those of training in both views; unless they are too many or are to be computed."""
    everything = np.concatenate(list(rows.values()))
    mib = token_bytes(encoder.config) * (len(everything) + flip * len(rows["train"])) / 1024**2
    if computed or mib > budget_mib:
        if not computed:
            log.info(
                "Tokens of %d images would take %.0f MiB: they are computed anew in each epoch.", len(everything), mib
            )
        return ComputedTokens(encoder)
    encoder = encoder.to(device)
    straight = keep_tokens(encoder, store, everything, cache=cache)
    mirrored = keep_tokens(encoder, store, rows["train"], cache=cache, flip=True) if flip else None
    return ReadTokens(encoder.config, straight, mirrored)


def _loader(
    store: Store,
    rows: NDArray[np.int64],
    tokens: TokenSource,
    *,
    mask: str,
    train: bool,
    rotate: float,
    batch_size: int,
    seed: int,
    workers: int,
) -> DataLoader[Batch]:
    """Load images where tokens are made of them, and else nothing but row numbers."""
    rotated = train and rotate > 0
    augment = Augment(affine_probability=1.0, rotate=rotate) if rotated else Augment.none()
    preprocess = tokens.config.preprocess if isinstance(tokens, ComputedTokens) else None
    dataset = StoreDataset(
        store, rows, preprocess=preprocess, augment=augment, seed=seed, mask=mask if rotated else None
    )
    return make_loader(
        dataset, batch_size=clip_batch_size(batch_size, len(rows)), shuffle=train, seed=seed, workers=workers
    )


def _scores(store: Store, rows: NDArray[np.int64], predicted: Tensor, truth: NDArray[np.bool_]) -> pd.DataFrame:
    """Tabulate the scores of each image; line i belongs to `rows[i]`."""
    dice, iou = overlap_scores(predicted, torch.from_numpy(truth))
    distances = surface_distances(list(predicted.numpy()), list(truth))
    table: pd.DataFrame = store.manifest.iloc[rows][["image_id", "patient_id"]].reset_index(drop=True)
    return table.assign(row=rows, dice=dice.numpy(), iou=iou.numpy(), **distances._asdict())


def _averages(scores: pd.DataFrame, *, seed: int) -> dict[str, Any]:
    metrics = ("dice", "iou", "surface_distance", "hausdorff_95")
    return {
        **{metric: bootstrap_mean(scores[metric], scores["patient_id"], seed=seed) for metric in metrics},
        "distance_unit": "pixels",
        "num_without_distance": int(scores["surface_distance"].isna().sum()),
    }


def _pooled(predicted: Tensor, truth: NDArray[np.bool_]) -> dict[str, float]:
    pooled = batched_scores(predicted, torch.from_numpy(truth), batch_size=PUBLISHED_BATCH)
    return {**pooled._asdict(), "batch_size": PUBLISHED_BATCH}
