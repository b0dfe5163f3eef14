"""What trainings take.

* Arithmetic: images times epochs times a step, and a forward pass for each validation image. Heads on top are left out:
  below 1 % of an encoder.
* Checkpoints are 12 bytes per trained parameter (the weight and the two means of AdamW), and one more than is kept,
  because the new one is written before the old one goes.
* Host memory: the images, read in random order, so that no disk has to seek.
"""

from __future__ import annotations

from typing import NamedTuple

from pacx.costs.known import Known, Teacher
from pacx.costs.need import WEIGHT_BYTES, Arguments, Need
from pacx.costs.networks import (
    FROZEN_BYTES,
    TRAINED_BYTES,
    activation_bytes,
    decoder_parameters,
    encoder_parameters,
    lora_parameters,
    masked_activation_bytes,
)
from pacx.costs.volumes import Volume
from pacx.models.config import EncoderConfig
from pacx.models.ecg_flops import ecg_flops
from pacx.models.flops import (
    MaskedShape,
    block_flops,
    encoder_flops,
    lora_step_flops,
    masked_forward_flops,
    masked_step_flops,
)
from pacx.preprocess import Preprocess

__all__ = ["distill_need", "finetune_need", "fit_ecg_need", "fit_labs_need", "pretrain_need"]

_CHECKPOINT_BYTES = 12


def pretrain_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what masked autoencoding takes."""
    volume = known.store(arguments["store"])
    config = _new_encoder(arguments, known, volume)
    known.encoders[f"{arguments['out']}/encoder"] = config
    if volume is None:
        return None
    shape = _masked_shape(arguments, config)
    train, parameters = volume.of("train"), encoder_parameters(config) + decoder_parameters(config, shape)
    steps = train * masked_step_flops(config, shape) + volume.of("val") * masked_forward_flops(config, shape)
    return Need(
        train,
        arguments["epochs"],
        disk=_checkpoints(parameters, 1 + arguments["keep_checkpoints"])
        + WEIGHT_BYTES * (parameters + encoder_parameters(config)),
        memory=volume.pixels,
        gpu_memory=TRAINED_BYTES * parameters + _batch(arguments, train) * masked_activation_bytes(config, shape),
        flops=arguments["epochs"] * steps,
    )


def _new_encoder(arguments: Arguments, known: Known, volume: Volume | None) -> EncoderConfig:
    if arguments["encoder"] is not None:
        return known.encoder(arguments["encoder"])
    edge = arguments["image_size"] or (volume.size if volume else 0) or Preprocess().image_size
    values = (0.5,) * arguments["channels"]
    return EncoderConfig.named(
        arguments["size"] or "base",
        preprocess=Preprocess(image_size=edge, mean=values, std=values),
        **{key: arguments[key] for key in ("patch_size", "width", "depth", "heads")},
    )


def _masked_shape(arguments: Arguments, config: EncoderConfig) -> MaskedShape:
    cross = arguments["decoder"] == "cross"
    usual = MaskedShape(0, 0.25 if cross else 1.0, cross, depth=12 if cross else 8)
    return usual._replace(
        num_visible=max(1, int(config.num_patches * (1 - arguments["mask_ratio"]) + 1e-6)),
        predict_share=usual.predict_share if arguments["predict_share"] is None else arguments["predict_share"],
        width=arguments["decoder_width"],
        depth=usual.depth if arguments["decoder_depth"] is None else arguments["decoder_depth"],
    )


def distill_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what distillation takes."""
    volume, config = known.store(arguments["store"]), known.encoder(arguments["encoder"])
    known.encoders[f"{arguments['out']}/encoder"] = config
    if volume is None:
        return None
    forward, total = encoder_flops(config), encoder_parameters(config)
    learning = _learning(arguments, config)
    anchor, chunks = arguments["anchor_weight"] > 0, arguments["chunk_size"]
    step = learning.flops + forward * (anchor + bool(chunks))
    train = min(volume.of("train"), arguments["num_pairs"] or volume.of("train"))
    kept = chunks or _batch(arguments, train)
    return Need(
        train,
        arguments["epochs"],
        disk=_checkpoints(learning.parameters, 3) + WEIGHT_BYTES * total,
        memory=volume.pixels,
        gpu_memory=TRAINED_BYTES * learning.parameters
        + FROZEN_BYTES * total * (1 + anchor)
        + kept * activation_bytes(config),
        flops=arguments["epochs"] * (train * step + volume.of("val") * forward),
    )


class _Learning(NamedTuple):
    parameters: int
    flops: int


def _learning(arguments: Arguments, config: EncoderConfig) -> _Learning:
    forward, total = encoder_flops(config), encoder_parameters(config)
    if arguments["adaptation"] == "lora":
        rank = arguments["rank"]
        return _Learning(lora_parameters(config, rank=rank), lora_step_flops(config, rank=rank))
    if arguments["adaptation"] == "last":
        blocks = min(arguments["last_blocks"], config.depth)
        return _Learning(total * blocks // config.depth, forward + 2 * blocks * block_flops(config))
    return _Learning(total, 3 * forward)


def finetune_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what training an encoder with its head takes."""
    volume, config = known.store(arguments["store"]), known.encoder(arguments["encoder"])
    if volume is None:
        return None
    forward, total = encoder_flops(config), encoder_parameters(config)
    train = round(volume.of("train") * arguments["fraction"])
    return Need(
        train,
        arguments["epochs"],
        disk=_checkpoints(total, 3) + WEIGHT_BYTES * total,
        memory=volume.pixels,
        gpu_memory=TRAINED_BYTES * total + _batch(arguments, train) * activation_bytes(config),
        flops=arguments["epochs"] * forward * (3 * train + volume.of("val")) + volume.of("test") * forward,
    )


def fit_labs_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what the laboratory teacher takes."""
    volume = known.store(arguments["store"])
    if volume is None:
        return None
    train, hidden, dim = max(1, volume.of("train")), arguments["hidden"], arguments["dim"]
    encoder, decoder = 2 * volume.num_labs * hidden + hidden * dim, dim * hidden + hidden * volume.num_labs
    known.teachers[str(arguments["out"])] = Teacher(2 * encoder, dim)
    epochs = arguments["epochs"] or round(min(500, max(50, 1950 * arguments["batch_size"] / train)))
    flops = 6 * (encoder + decoder) * train * epochs
    return Need(train, epochs, disk=_checkpoints(encoder + decoder, 3), flops=flops)


def fit_ecg_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what the ECG teacher takes."""
    from pacx.models.ecgfounder import EcgNetConfig

    volume = known.store(arguments["store"])
    if volume is None:
        return None
    changes = {key: arguments[key] for key in ("widths", "blocks", "stem_width", "batch_norm", "dropout")}
    config = EcgNetConfig.named(arguments["size"], num_classes=1, **changes)
    rate = arguments["rate"] or (500 if arguments["size"] == "ecgfounder" else 100)
    record = ecg_flops(config, samples=10 * rate)
    known.teachers[str(arguments["out"])] = Teacher(record, config.dim)
    train, epochs = volume.of("train"), arguments["epochs"]
    return Need(train, epochs, memory=volume.ecgs, flops=epochs * record * (3 * train + volume.of("val")))


def _checkpoints(parameters: int, number: int) -> int:
    return _CHECKPOINT_BYTES * parameters * number


def _batch(arguments: Arguments, train: int) -> int:
    return min(int(arguments["batch_size"]), max(1, train))
