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
from typing import Any

from pacx import __version__
from pacx.data.batches import Augment, StoreDataset, make_loader
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.config import EncoderConfig, EncoderSize
from pacx.models.encoder import Encoder, save_encoder
from pacx.models.mae import MaskedAutoencoder
from pacx.runs import RunFolder, open_run
from pacx.stages.masked_pretraining import MaskedPretraining
from pacx.stages.reconstruct import draw_reconstructions, fixed_images, mask_noise, save_autoencoder
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

__all__ = ["pretrain"]


def pretrain(
    *,
    store: Path,
    size: EncoderSize = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch_size: int = 16,
    image_size: int | None = None,
    mask_ratio: float = 0.9,
    normalise_targets: bool = False,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    epochs: int = 400,
    batch_size: int = 256,
    learning_rate: float = 1.5e-4,
    weight_decay: float = 0.05,
    warmup_epochs: float = 10.0,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    flip: bool = True,
    gradient_clip: float | None = None,
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
    """Pre-train a ViT on chest X-rays by masked autoencoding.

    Args:
        store: the store whose train split is learned; labels are not used.
        size: the usual ViT sizes; width, depth and heads override it.
        width: token width.
        depth: number of transformer blocks.
        heads: attention heads.
        patch_size: edge of a patch in pixels.
        image_size: edge of the input in pixels; the store's own if not given.
        mask_ratio: share of patches that are hidden.
        normalise_targets: predict each patch relative to its own mean and spread.
        decoder_width: token width of the decoder, which is thrown away afterwards.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        epochs: passes over the train split.
        batch_size: images per step; no more than there are.
        learning_rate: peak learning rate (for batches of 256 to 512; not rescaled).
        weight_decay: AdamW decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
        crop_scale: smallest and largest share of the area that a random crop keeps.
        flip: mirror half of the images left to right.
        gradient_clip: largest gradient norm; none by default, as in the paper.
        seed: seed of weights, order, crops and masks.
        precision: auto = bf16-mixed where the GPU has it, else 32-true.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, or auto.
        strategy: Lightning strategy: auto, ddp, fsdp.
        workers: loader processes; 0 loads in the training process.
        resume: auto = go on from the last finished epoch if there is one; true = do so or fail; false = start anew.
        out: the run folder to write.
        overwrite: replace a finished run in `out`.

    Example:
        pacx pretrain --store stores/nih --size small --epochs 100 --out runs/mae
    """
    arguments = dict(locals())
    with open_run(out, command="pretrain", config=arguments, overwrite=overwrite) as run:
        cohort = Store.open(store)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        seed_everything(seed)
        preprocess = cohort.preprocess()
        if image_size is not None:
            preprocess = replace(preprocess, image_size=image_size)
        config = EncoderConfig.named(
            size, preprocess=preprocess, patch_size=patch_size, width=width, depth=depth, heads=heads,
            provenance=_provenance(cohort, mask_ratio=mask_ratio, epochs=epochs),
        )  # fmt: skip
        decoder: dict[str, Any] = {
            "decoder_width": decoder_width, "decoder_depth": decoder_depth, "decoder_heads": decoder_heads,
            "mask_ratio": mask_ratio, "normalise_targets": normalise_targets,
        }  # fmt: skip
        module = MaskedPretraining(
            MaskedAutoencoder(Encoder(config), **decoder),
            image_ids=cohort.manifest["image_id"].tolist(),
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        train_rows, val_rows = cohort.rows("train", needs=("image",)), cohort.rows("val", needs=("image",))
        batch_size = clip_batch_size(batch_size, len(train_rows))
        augment = replace(Augment.pretrain(flip=flip), crop_scale=crop_scale)
        train = StoreDataset(cohort, train_rows, preprocess=preprocess, augment=augment, seed=seed)
        val = StoreDataset(cohort, val_rows, preprocess=preprocess, augment=Augment.none())
        loading: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "workers": workers}
        trainer = make_trainer(
            run, epochs=epochs, seed=seed, precision=precision, accelerator=accelerator, devices=devices,
            strategy=strategy, gradient_clip=gradient_clip, monitor="val_loss" if len(val_rows) else None,
        )  # fmt: skip
        fit(
            trainer,
            module,
            make_loader(train, shuffle=True, **loading),
            make_loader(val, shuffle=False, **loading) if len(val_rows) else None,
            resume=resume_path(run, resume),
        )
        table = epoch_table(trainer)
        _keep(run, module.model.cpu().eval(), cohort, decoder=decoder, seed=seed)
        return run.finish(
            {
                "epochs": epochs,
                "steps": int(table.last("step")),
                "images_per_second": table.images_per_second,
                "train_loss": table.last("train_loss"),
                "val_loss": table.last("val_loss"),
                "skipped_steps": int(table.last("skipped_steps")),
                "num_parameters": sum(parameter.numel() for parameter in module.model.encoder.parameters()),
                "num_parameters_with_decoder": sum(parameter.numel() for parameter in module.model.parameters()),
                "mask_ratio": mask_ratio,
                "visible_tokens": int(table.last("visible_tokens")),
                "num_images": len(train_rows),
                "image_size": preprocess.image_size,
            }
        )


def _provenance(store: Store, *, mask_ratio: float, epochs: int) -> dict[str, Any]:
    return {
        "method": f"masked autoencoding, {mask_ratio:.0%} hidden, {epochs} epochs",
        "parent": None,
        "data": [
            {
                "name": store.name,
                "content_hash": store.content_hash,
                "split_hash": store.meta["split_hash"],
                "split": "train",
                "license": store.meta["license"],
            }
        ],
        "pacx_version": __version__,
    }


def _keep(run: RunFolder, model: MaskedAutoencoder, store: Store, *, decoder: dict[str, Any], seed: int) -> None:
    save_encoder(model.encoder, run.artefact("encoder", "encoder"))
    save_autoencoder(model, run.artefact("autoencoder", "mae.safetensors"), decoder=decoder)
    split = next((name for name in ("val", "test", "train") if len(store.rows(name, needs=("image",)))), None)
    if split is None:
        raise PacxError(f"Store {store.name} has no images.")
    preprocess = model.encoder.config.preprocess
    images, rows = fixed_images(store, split, preprocess=preprocess, count=8)
    noise = mask_noise(rows, model.encoder.config.num_patches, seed=seed)
    caption = (
        f"What the masked autoencoder fills in on {split} images that it was not trained on: the X-ray, the "
        f"{1 - model.mask_ratio:.0%} of patches it sees, and its completion (visible patches pasted back)."
    )
    draw_reconstructions(model, images, noise, path=run.figure("reconstructions.png", caption=caption))
