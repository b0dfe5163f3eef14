"""Stage 1: masked autoencoding of chest X-rays (He et al. 2021, arXiv 2111.06377; here with 90 % masking).

Most patches of an image are hidden, the encoder sees the rest, and a small decoder fills in the hidden pixels; the
decoder is thrown away. At 90 % the few visible patches leave no texture to copy from, so the model has to know
anatomy.

    loss = mean over hidden patches of |prediction - pixels|^2, in normalised pixel units

* AdamW with betas (.9, .95), decay on matrices only, linear warm-up, then a cosine to 0, per step.
* Images are cropped (half to all of the area) and flipped. A flip moves the heart to the right: `--flip false` for
  those who want the encoder to know left from right.
* What a step hides is a function of (seed, epoch, image); validation hides the same patches in every epoch, so the
  curve shows learning and not luck.
* The encoder of the last epoch is kept, as in the published runs; validation loss only watches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
from torch import Tensor

from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.config import EncoderConfig, EncoderSize
from pacx.models.encoder import save_encoder
from pacx.models.flops import mae_step_flops
from pacx.models.mae import Decoder, MaskedAutoencoder
from pacx.runs import RunFolder, open_run
from pacx.stages.compiling import compile_blocks
from pacx.stages.masked_pretraining import MaskedPretraining
from pacx.stages.provenance import learned_from
from pacx.stages.reconstruct import (
    draw_reconstructions,
    fixed_images,
    load_autoencoder,
    mask_noise,
    save_autoencoder,
)
from pacx.stages.run import (
    Precision,
    Resume,
    epoch_table,
    fit,
    make_trainer,
    resume_path,
    seed_everything,
)
from pacx.stages.starting import starting_encoder
from pacx.stages.step_size import settle_step_size
from pacx.stages.watch import WatchReconstructions

__all__ = ["pretrain"]


def pretrain(
    *,
    store: Path,
    encoder: str | None = None,
    size: EncoderSize | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch_size: int | None = None,
    image_size: int | None = None,
    channels: Literal[1, 3] = 1,
    mask_ratio: float = 0.9,
    normalise_targets: bool = False,
    decoder: Decoder = "standard",
    predict_share: float | None = None,
    decoder_width: int = 512,
    decoder_depth: int | None = None,
    decoder_heads: int = 16,
    epochs: int = 400,
    batch_size: int = 256,
    accumulate: int = 1,
    learning_rate: float | None = None,
    base_learning_rate: float | None = None,
    weight_decay: float = 0.05,
    warmup_epochs: float = 10.0,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    flip: bool = True,
    gradient_clip: float | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    compile: bool = False,  # noqa: A002
    accelerator: str = "auto",
    devices: str = "auto",
    num_nodes: int = 1,
    strategy: str = "auto",
    workers: int = 0,
    keep_checkpoints: int = 1,
    checkpoint_minutes: float = 10.0,
    resume: Resume = "auto",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Pre-train a ViT on chest X-rays by masked autoencoding.

    An optimiser step sees batch_size x devices x num_nodes x accumulate images, the effective batch. The learning rate
    is not rescaled with it, unless it is given as base_learning_rate.

    Args:
        store: the store whose train split is learned; labels are not used.
        encoder: start from these weights, anything that `pacx convert` reads; fresh ones if not given.
        size: the usual ViT sizes; width, depth and heads override it; base if not given.
        width: token width.
        depth: number of transformer blocks.
        heads: attention heads.
        patch_size: edge of a patch in pixels; the size's own if not given (14 for huge, else 16).
        image_size: edge of the input in pixels; the store's own, or the given encoder's, if not given.
        channels: 1, or 3 for the gray image three times with ImageNet's normalisation; an encoder given with three
            channels is folded into one, exactly, unless this is 3.
        mask_ratio: share of patches that are hidden.
        normalise_targets: predict each patch relative to its own mean and spread.
        decoder: standard = all tokens attend to each other, all hidden patches are predicted; cross = hidden patches
            attend to visible ones, and a share of them is predicted, for about half the arithmetic.
        predict_share: with decoder cross, share of the hidden patches that is predicted in a step; 0.25 if not given.
        decoder_width: token width of the decoder, which is thrown away afterwards.
        decoder_depth: blocks of the decoder; 8 (standard) or 12 (cross) if not given.
        decoder_heads: attention heads of the decoder.
        epochs: passes over the train split.
        batch_size: images per device and forward pass; no more than there are.
        accumulate: forward passes per optimiser step.
        learning_rate: peak learning rate, whatever the effective batch; 1.5e-4 if neither is given.
        base_learning_rate: instead of learning_rate: the peak is base_learning_rate x effective batch / 256.
        weight_decay: AdamW decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
        crop_scale: smallest and largest share of the area that a random crop keeps.
        flip: mirror half of the images left to right.
        gradient_clip: largest gradient norm; none by default, as in the paper.
        seed: seed of weights, order, crops and masks.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        compile: fuse the transformer blocks with torch.compile; needs a compiler, and some time at the start.
        accelerator: cpu, gpu, mps or auto.
        devices: how many per computer, or auto.
        num_nodes: computers that train together.
        strategy: Lightning strategy: auto, ddp, fsdp.
        workers: loader processes; 0 loads in the training process.
        keep_checkpoints: how many of the newest checkpoints stay.
        checkpoint_minutes: save inside an epoch when so long has passed since the last time; 0 = after every step.
        resume: auto = go on from the last checkpoint if there is one; true = do so or fail; false = start anew.
        out: the run folder to write.
        overwrite: replace a finished run in `out`.

    Example:
        pacx pretrain --store stores/nih --size small --epochs 100 --out runs/mae
    """
    arguments = dict(locals())
    if decoder != "cross" and predict_share is not None:
        raise PacxError(f"predict_share is {predict_share:g}, which only --decoder cross heeds. Leave one of them out.")
    with open_run(out, command="pretrain", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        seed_everything(seed)
        start = starting_encoder(
            cohort, run, encoder=encoder, size=size, width=width, depth=depth, heads=heads, patch_size=patch_size,
            image_size=image_size, channels=channels,
            method=f"masked autoencoding, {mask_ratio:.0%} hidden, {epochs} epochs",
        )  # fmt: skip
        settings: dict[str, Any] = {
            "decoder": decoder, "predict_share": 0.25 if predict_share is None else predict_share,
            "decoder_width": decoder_width, "decoder_depth": decoder_depth, "decoder_heads": decoder_heads,
            "mask_ratio": mask_ratio, "normalise_targets": normalise_targets,
        }  # fmt: skip
        model = MaskedAutoencoder(start, **settings)
        watched = _watched(cohort, start.config, seed=seed)
        train_rows, val_rows = cohort.rows("train", needs=("image",)), cohort.rows("val", needs=("image",))
        start.patients = learned_from(start.patients, cohort, {"train": train_rows, "val": val_rows}, stage="pretrain")
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, num_nodes=num_nodes, gradient_clip=gradient_clip, accumulate=accumulate,
            keep_checkpoints=keep_checkpoints, checkpoint_minutes=checkpoint_minutes,
            callbacks=[WatchReconstructions(watched.images, watched.noise, epochs=epochs)],
            monitor=None,
        )  # fmt: skip
        step = settle_step_size(
            num_images=len(train_rows), num_processes=trainer.world_size, batch_size=batch_size, accumulate=accumulate,
            learning_rate=learning_rate, base_learning_rate=base_learning_rate,
        )  # fmt: skip
        module = MaskedPretraining(
            model, image_ids=cohort.manifest["image_id"].tolist(), learning_rate=step.learning_rate,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        augment = replace(Augment.pretrain(flip=flip), crop_scale=crop_scale)
        preprocess = start.config.preprocess
        train = StoreDataset(cohort, train_rows, preprocess=preprocess, augment=augment, seed=seed)
        val = StoreDataset(cohort, val_rows, preprocess=preprocess, augment=Augment.none())
        loading: dict[str, Any] = {"batch_size": step.batch_size, "seed": seed, "workers": workers}
        epoch_table(trainer).count_flops(mae_step_flops(model))
        if compile:
            compile_blocks(model, trainer.strategy.root_device)
        fit(
            trainer,
            module,
            make_loader(train, shuffle=True, **loading),
            make_loader(val, shuffle=False, **loading) if len(val_rows) else None,
            resume=resume_path(run, resume),
        )
        errors = _keep(run, module.model.cpu(), watched, settings=settings)
        return run.finish(
            {**_results(trainer, module.model), **step._asdict(), **errors, "num_images": len(train_rows)}
        )


class _Watched(NamedTuple):
    """The images by which one looks on, and what is hidden of them."""

    images: Tensor
    noise: Tensor
    what: str


def _watched(store: Store, config: EncoderConfig, *, seed: int) -> _Watched:
    split = next((name for name in ("val", "test", "train") if len(store.rows(name, needs=("image",)))), None)
    if split is None:
        raise PacxError(f"Store {store.name} has no images.")
    images, rows = fixed_images(store, split, preprocess=config.preprocess, count=8)
    what = "training images" if split == "train" else f"{split} images, which it was not trained on"
    return _Watched(images, mask_noise(rows, config.num_patches, seed=seed), what)


def _keep(run: RunFolder, model: MaskedAutoencoder, watched: _Watched, *, settings: dict[str, Any]) -> dict[str, float]:
    """Write what is kept; draw with what was written."""
    save_encoder(model.encoder, run.artefact("encoder", "encoder"))
    save_autoencoder(model, run.artefact("autoencoder", "mae.safetensors"), decoder=settings)
    kept = load_autoencoder(run.path)
    return draw_reconstructions(kept, watched.images, watched.noise, run=run, what=watched.what)


def _results(trainer: L.Trainer, model: MaskedAutoencoder) -> dict[str, Any]:
    table = epoch_table(trainer)
    return {
        "epochs": trainer.max_epochs,
        "steps": int(table.last("step")),
        "images_per_second": table.images_per_second,
        "data_wait": table.mean("data_wait"),
        "flop_utilisation": table.mean("flop_utilisation"),
        "gflop_per_image": mae_step_flops(model) / 1e9,
        "train_loss": table.last("train_loss"),
        "val_loss": table.last("val_loss"),
        "skipped_steps": int(table.last("skipped_steps")),
        "num_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "num_parameters_with_decoder": sum(parameter.numel() for parameter in model.parameters()),
        "mask_ratio": model.mask_ratio,
        "visible_tokens": int(table.last("visible_tokens")),
        "image_size": model.encoder.config.preprocess.image_size,
    }
