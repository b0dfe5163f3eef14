"""What is done with frozen networks takes: features, mask decoders, attention maps, banks.

* A forward pass per image and view, once per recipe, store and encoder, since features are kept. What is fitted on
  features is left out: below 1 % of that.
* A mask decoder reads kept tokens where the cache holds them, else the encoder makes them anew in every epoch.
"""

from __future__ import annotations

from pacx.costs.known import Known, Teacher
from pacx.costs.need import WEIGHT_BYTES, Arguments, Need
from pacx.costs.networks import FROZEN_BYTES, activation_bytes, encoder_parameters
from pacx.models.config import EncoderConfig
from pacx.models.ecg_flops import ecg_flops
from pacx.models.flops import encoder_flops, mask_decoder_flops

__all__ = ["align_need", "bank_need", "explain_need", "probe_need", "segment_need"]

_FEATURE_BYTES = 8
"""of a number of a kept feature: class token and mean token, each 16 bits and 16 bits of remainder"""


def probe_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what a probe takes: features of every image, under the paper's protocol mirrored ones too."""
    mirrored = arguments["protocol"] == "paper"
    return _features(arguments, known, ("train", "val", "test"), mirrored=("train",) if mirrored else ())


def align_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what an alignment takes, or a read-out of laboratory values: features of every image."""
    return _features(arguments, known, ("train", "val", "test"))


def explain_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what attention maps take; with a task, features for its head and the images with patches removed too."""
    volume, config = known.store(arguments["store"]), known.encoder(arguments["encoder"])
    if volume is None:
        return None
    shown = min(arguments["num_images"], volume.of(arguments["split"]))
    with_head = arguments["task"] is not None
    features = _features(arguments, known, ("train", "val", "test")) if with_head else Need()
    assert features is not None, "its store is known"
    passes = shown * (1 + with_head * 3 * (arguments["steps"] + 1))
    return features._replace(
        rows=shown,
        gpu_memory=_forward_memory(config, arguments["batch_size"]),
        flops=features.flops + passes * encoder_flops(config),
    )


def _features(
    arguments: Arguments, known: Known, splits: tuple[str, ...], *, mirrored: tuple[str, ...] = ()
) -> Need | None:
    """Count the images whose features are not there yet; straight ones, and mirror images."""
    if arguments["encoder"] is None:
        return Need()
    volume, config = known.store(arguments["store"]), known.encoder(arguments["encoder"])
    if volume is None:
        return None
    place = (arguments["out"], arguments["store"], arguments["encoder"])
    straight = volume.of(*splits) * known.is_new(*place, "straight")
    turned = volume.of(*mirrored) * known.is_new(*place, "mirrored") if mirrored else 0
    return Need(
        volume.of(*splits),
        disk=_FEATURE_BYTES * config.width * (straight + turned),
        memory=2 * WEIGHT_BYTES * config.width * volume.of(*splits, *mirrored),
        gpu_memory=_forward_memory(config, arguments["batch_size"]),
        flops=encoder_flops(config) * (straight + turned),
    )


def segment_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what a mask decoder takes."""
    volume, config = known.store(arguments["store"]), known.encoder(arguments["encoder"])
    if volume is None:
        return None
    train = min(volume.of("train"), arguments["train_images"] or volume.of("train"))
    epochs, judged = arguments["epochs"], volume.of("val", "test")
    views = train * (1 + arguments["flip"]) + judged
    tokens = 2 * config.num_patches * config.width * views  # 16 bits each
    keeps = tokens <= arguments["cache_mib"] * 2**20 and not arguments["rotate"]
    passes = views if keeps else epochs * (train + volume.of("val")) + volume.of("test")
    decoder = train * mask_decoder_flops(config, step=True) + volume.of("val") * mask_decoder_flops(config)
    batch = min(arguments["batch_size"] or (256 if arguments["protocol"] == "paper" else 16), max(1, train))
    return Need(
        train,
        epochs,
        disk=tokens * keeps,
        memory=volume.pixels * 2,
        gpu_memory=_forward_memory(config, batch) + batch * 32 * config.preprocess.image_size**2 * WEIGHT_BYTES,
        flops=passes * encoder_flops(config) + epochs * decoder,
    )


def bank_need(arguments: Arguments, known: Known) -> Need | None:
    """Return what embedding a store takes; a teacher that no step before makes is taken to be ECGFounder."""
    volume = known.store(arguments["store"])
    if volume is None:
        return None
    from pacx.models.ecgfounder import EcgNetConfig

    founder = EcgNetConfig()
    teacher = known.teachers.get(str(arguments["teacher"]), Teacher(ecg_flops(founder, samples=5000), founder.dim))
    computed = arguments["teacher"] is not None
    return Need(
        volume.rows, disk=WEIGHT_BYTES * teacher.dim * volume.rows, flops=computed * volume.rows * teacher.flops
    )


def _forward_memory(config: EncoderConfig, batch_size: int) -> int:
    """Weights, and what one block has in hand."""
    return FROZEN_BYTES * encoder_parameters(config) + batch_size * activation_bytes(config) // config.depth
