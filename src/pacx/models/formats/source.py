"""From what a user calls an encoder to the encoder: the one place that tells formats apart.

* By content: names and shapes of tensors, and the `config.json` of a folder. Never by a file's name or suffix.
* The weights file of a model folder counts as the folder, so that its configuration is not lost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.channels import fold_channels, folded
from pacx.models.config import EncoderConfig
from pacx.models.encoder import Encoder
from pacx.models.formats import lora
from pacx.models.formats.authors import (
    LIGHTNING_MAE,
    PACX_CHECKPOINT,
    PUBLISHED_ALPHA,
    has_pacx_names,
    is_lightning,
)
from pacx.models.formats.export import PROVENANCE
from pacx.models.formats.files import FOLDER_FILES, Weights, folder_weights, read_weights
from pacx.models.formats.hub import download, is_timm_name, read_timm_name
from pacx.models.formats.huggingface import has_huggingface_names, read_huggingface
from pacx.models.formats.mae import MAE, has_decoder, has_fixed_positions
from pacx.models.formats.network import Found, Overrides, build
from pacx.models.formats.positions import with_image_size
from pacx.models.formats.timm import TIMM, has_timm_names, read_timm_folder, read_timm_keys
from pacx.models.patients import SeenPatients, load_patients
from pacx.models.weights import CONFIG_FILE, WEIGHTS_FILE, load_weights, name_some, read_config
from pacx.runs import plain
from pacx.shipped import PREFIX, shipped_folder

__all__ = ["read_encoder"]

log = logging.getLogger("pacx")

RANDOM, TIMM_NAME, HUB = "random:", "timm:", "hf-hub:"
PROCESSOR_FILE = "preprocessor_config.json"
ACCEPTED = (
    f"a folder with {CONFIG_FILE} and weights (of pacx, Hugging Face or timm), a file of weights, timm:NAME, "
    "hf-hub:OWNER/NAME, shipped:NAME, or random:FOLDER[:SEED] for fresh weights of the same architecture"
)


def read_encoder(source: str, overrides: Overrides) -> Encoder:
    """Load an encoder from anything that pacx knows; see `pacx.load_encoder`."""
    if source.startswith(RANDOM):
        name, seed = _split_seed(source.removeprefix(RANDOM))
        return _fresh(_config(name, overrides), seed)
    encoder = loaded = _load(source, overrides)
    if overrides.image_size is not None:
        encoder = with_image_size(encoder, overrides.image_size)
    if overrides.fold and encoder.config.preprocess.in_chans > 1:
        encoder = fold_channels(encoder)
    encoder.patients = loaded.patients
    return encoder.eval()


def _load(source: str, overrides: Overrides) -> Encoder:
    if source.startswith(PREFIX):
        return _load_folder(shipped_folder(source) / "encoder", overrides, name=source)
    if source.startswith(TIMM_NAME):
        return build(read_timm_name(source.removeprefix(TIMM_NAME)), overrides)
    if source.startswith(HUB):
        return _load_folder(download(source.removeprefix(HUB)), overrides, name=source)
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, overrides)
    if path.is_file():
        return _load_file(path, overrides)
    if is_timm_name(source):
        return build(read_timm_name(source), overrides)
    raise PacxError(f"{source} does not exist. An encoder is {ACCEPTED}.")


def _load_file(path: Path, overrides: Overrides) -> Encoder:
    if _is_of_a_model_folder(path):
        return _load_folder(path.parent, overrides, file=path)
    return build(_recognise(read_weights(path), overrides), overrides)


def _is_of_a_model_folder(path: Path) -> bool:
    beside = path.parent
    named = path.name in FOLDER_FILES and (beside / CONFIG_FILE).is_file()
    kind = _kind(read_config(beside)) if named else None
    return kind is not None and (kind != "pacx" or path.name == WEIGHTS_FILE)


def _load_folder(folder: Path, overrides: Overrides, *, name: str | None = None, file: Path | None = None) -> Encoder:
    """Load a model folder by the kind of its configuration.

    Args:
        folder: with its `config.json`.
        overrides: what the user says.
        name: what it is called elsewhere.
        file: the weights in it that the user named, if there are several.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise PacxError(_no_model_folder(folder))
    config = read_config(folder)
    kind = _kind(config)
    if kind == "pacx":
        encoder = _load_own(folder, overrides)
        encoder.patients = load_patients(folder)
        return encoder
    if kind is None:
        raise PacxError(
            f"{folder / CONFIG_FILE} is of no model that pacx knows: it has no `format` (pacx), `model_type` (Hugging "
            f"Face) or `architecture` (timm). An encoder is {ACCEPTED}."
        )
    weights = folder_weights(folder, file)
    tensors, origin = _unwrap(weights, overrides)
    called = name or str(folder)
    origin["file"] = f"{name or folder.resolve().name}/{weights.path.name}"
    if name:
        origin["revision"] = folder.name  # the hub's cache calls a snapshot by its commit
    if PROVENANCE in config:  # one that we exported
        origin["parent"] = config[PROVENANCE]
    if kind == "timm":
        found = read_timm_folder(tensors, config, source=called, origin=origin)
    else:
        processor = _read_processor(folder)
        found = read_huggingface(tensors, source=called, origin=origin, config=config, processor=processor)
    encoder = build(found, overrides)
    encoder.patients = load_patients(folder)  # of one that we exported
    return encoder


def _kind(config: Mapping[str, Any]) -> str | None:
    if str(config.get("format", "")).startswith("pacx-encoder"):
        return "pacx"
    return "huggingface" if "model_type" in config else "timm" if "architecture" in config else None


def _load_own(folder: Path, overrides: Overrides) -> Encoder:
    config = EncoderConfig.from_dict(read_config(folder))
    with torch.device("meta"):  # the weights come from the file; nothing is drawn first
        encoder = Encoder(_changed(config, overrides))
    load_weights(encoder.vit, folder / WEIGHTS_FILE)
    return encoder.eval()


def _recognise(weights: Weights, overrides: Overrides) -> Found:
    """Tell by the names of its tensors what a file is, and take the encoder out of it."""
    source = str(weights.path)
    if any(".encoder.vit.blocks." in f".{name}" for name in weights.tensors):
        raise PacxError(
            f"{source} is a working file of a pacx run. Give the run's encoder folder, RUN/encoder: it holds the same "
            "weights and says how images must be prepared."
        )
    tensors, origin = _unwrap(weights, overrides)
    if has_huggingface_names(tensors):
        return read_huggingface(tensors, source=source, origin=origin)
    if not has_timm_names(tensors):
        raise PacxError(
            f"{source} holds {len(tensors)} tensors of no vision transformer that pacx knows: "
            f"{name_some(sorted(tensors))}. Known are the names of timm (blocks.0.attn.qkv.weight, ...) and of Hugging "
            "Face's ViT and ViTMAE, and what can be made of them (DDP, Lightning and PEFT wrappers)."
        )
    if has_pacx_names(tensors):
        format_ = PACX_CHECKPOINT
    elif has_decoder(tensors):
        format_ = LIGHTNING_MAE if is_lightning(tensors, weights.others) else MAE
    else:
        format_ = MAE if has_fixed_positions(tensors) else TIMM
    return read_timm_keys(tensors, format_=format_, source=source, origin=origin)


def _unwrap(weights: Weights, overrides: Overrides) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take the wrappers of DDP and torch.compile off the names, and merge adapters."""
    tensors = weights.tensors
    for wrapper in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    origin = {"file": weights.path.name, "sha256": weights.sha256, "entry": weights.entry}
    if not lora.has_adapters(tensors):
        return tensors, origin
    told = {"given": overrides.lora_alpha, "hyper-parameters": lora.find_alpha(weights.others)}
    if has_pacx_names(tensors):
        told["published"] = PUBLISHED_ALPHA
    said_by, alpha = next(((who, value) for who, value in told.items() if value is not None), ("nobody", None))
    merged, ranks = lora.merge(tensors, alpha=alpha, source=str(weights.path))
    return merged, {**origin, "merged": {"alpha": alpha, "alpha_from": said_by, "ranks": ranks}}


def _config(source: str, overrides: Overrides) -> EncoderConfig:
    """Return the configuration alone; of our own folders no weights are read."""
    path = Path(source)
    if path.is_dir() and (path / CONFIG_FILE).is_file() and _kind(read_config(path)) == "pacx":
        config = _changed(EncoderConfig.from_dict(read_config(path)), overrides)
        preprocess = config.preprocess
        if overrides.image_size is not None:
            preprocess = replace(preprocess, image_size=overrides.image_size)
        return replace(config, preprocess=folded(preprocess) if overrides.fold else preprocess)
    return read_encoder(source, overrides).config


def _changed(config: EncoderConfig, overrides: Overrides) -> EncoderConfig:
    """Put what the user says over what our own file says, and note it."""
    given = {
        name: value for name, value in overrides.given().items() if name not in {"image_size", "fold", "lora_alpha"}
    }
    if not given:
        return config
    preprocess = replace(
        config.preprocess, **{name: given[name] for name in ("geometry", "mean", "std") if name in given}
    )
    if preprocess.in_chans != config.preprocess.in_chans:
        raise PacxError(
            f"The encoder has {config.preprocess.in_chans} input channels; found mean {list(preprocess.mean)} and std "
            f"{list(preprocess.std)}. Give one number per channel."
        )
    changed = replace(
        config,
        preprocess=preprocess,
        heads=given.get("heads", config.heads),
        layer_norm_eps=given.get("eps", config.layer_norm_eps),
    )
    return changed.noting(
        ", ".join(f"{name} {plain(value)} given in place of the file's" for name, value in given.items())
    )


def _fresh(config: EncoderConfig, seed: int) -> Encoder:
    with torch.random.fork_rng(devices=[]):  # the caller's random stream goes on as if nothing had been drawn
        torch.manual_seed(seed)
        encoder = Encoder(config)
    encoder.config = replace(config, provenance={"weights": f"random, seed {seed}"})
    encoder.patients = SeenPatients()  # nobody
    return encoder.eval()


def _split_seed(text: str) -> tuple[str, int]:
    name, colon, seed = text.rpartition(":")
    if not (colon and seed.isdecimal()):
        return text, 0
    if len(seed) > 20 or int(seed) >= 1 << 64:
        raise PacxError(f"Found seed {seed[:40]} in {RANDOM}{text[:200]}; allowed: from 0 to 2**64 - 1.")
    return name, int(seed)


def _read_processor(folder: Path) -> dict[str, Any]:
    path = folder / PROCESSOR_FILE
    return read_config(folder, name=PROCESSOR_FILE) if path.is_file() else {}


def _no_model_folder(folder: Path) -> str:
    inside = folder / "encoder"
    if (inside / CONFIG_FILE).is_file():
        return f"{folder} is not an encoder folder: it has no {CONFIG_FILE}. Did you mean {inside}?"
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} is a PEFT adapter without the network that it adapts. Merge the two with PEFT "
            "(`merge_and_unload`) and save the result."
        )
    return f"{folder} is not an encoder folder: it has no {CONFIG_FILE}. An encoder is {ACCEPTED}."
