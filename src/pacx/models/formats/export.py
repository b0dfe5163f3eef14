"""Write an encoder for other libraries: a folder that timm or Hugging Face transformers loads by itself.

* timm: our own file already has timm's names; timm's `config.json` adds the architecture, the normalisation and the
  crop, so that `timm.create_model("local-dir:FOLDER")` and `timm.data.resolve_data_config` find them.
* Hugging Face: `ViTModel.from_pretrained(FOLDER, add_pooling_layer=False)`; names as every version writes them to disk.
  `preprocessor_config.json` holds normalisation and geometry.
* What a library cannot express is refused, not rounded: timm's ViTs compute with epsilon 1e-6 and pad with gray,
  and transformers' processors cannot pad to a square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from pacx.errors import PacxError
from pacx.models.config import SIZES
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.models.formats.huggingface import file_names
from pacx.models.patients import save_patients
from pacx.models.weights import CONFIG_FILE, WEIGHTS_FILE, new_folder, save_tensors, save_weights
from pacx.preprocess import Preprocess
from pacx.runs import write_json

__all__ = ["PROVENANCE", "Target", "check_target", "export"]

Target = Literal["pacx", "timm", "huggingface"]
TIMM_EPS = 1e-6
PROCESSOR_FILE = "preprocessor_config.json"
PROVENANCE = "pacx_provenance"
"""our entry in their `config.json`: where the weights come from, with their licence"""
BILINEAR = 2
"""Pillow's number of the filter that `pacx.preprocess` uses"""


def export(encoder: Encoder, folder: Path, *, to: Target) -> Path:
    """Write a model folder, whole or not at all; `load_encoder` reads each kind back with equal weights.

    Args:
        encoder: a plain encoder.
        folder: made if absent; an older model folder is replaced.
        to: whose layout.

    Raises:
        PacxError: the layout cannot express this encoder, or the place cannot be written.
    """
    if to == "pacx":
        return save_encoder(encoder, folder)
    if to not in get_args(Target):
        raise PacxError(f"There is no layout {to!r}. Choose {', '.join(get_args(Target))}.")
    config = encoder.config
    files = _timm_files(config) if to == "timm" else _huggingface_files(config)
    with new_folder(Path(folder)) as filling:
        if to == "timm":
            save_weights(encoder.vit, filling / WEIGHTS_FILE)
        else:
            save_tensors(_huggingface_tensors(encoder), filling / WEIGHTS_FILE)
        for name, content in files.items():
            write_json(filling / name, content)
        save_patients(encoder.patients, filling)
    return Path(folder)


def check_target(config: EncoderConfig, *, to: Target) -> None:
    """Refuse what a layout cannot express, before anything is written.

    Raises:
        PacxError: it cannot.
    """
    if to != "pacx":
        _timm_files(config) if to == "timm" else _huggingface_files(config)


def _timm_files(config: EncoderConfig) -> dict[str, dict[str, Any]]:
    if config.layer_norm_eps != TIMM_EPS:
        raise PacxError(
            f"timm's ViTs compute with a LayerNorm epsilon of {TIMM_EPS:g}, and this encoder has "
            f"{config.layer_norm_eps:g}: its features would not be the same. Pass eps {TIMM_EPS:g} to accept that, or "
            "export to huggingface."
        )
    preprocess = config.preprocess
    if preprocess.geometry == "pad":
        raise PacxError(
            "timm pads a picture to a square with gray, and this encoder wants black: its features would not be the "
            "same. Pass geometry squash or crop to accept another, or export to pacx."
        )
    architecture, arguments = _timm_architecture(config)
    shape = [preprocess.in_chans, preprocess.image_size, preprocess.image_size]
    data = {
        "input_size": shape,
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": {"squash": "squash", "crop": "center"}[preprocess.geometry],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "custom_load": False,
    }
    content = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": config.width,
        "global_pool": "token",
        "model_args": {"img_size": preprocess.image_size, "in_chans": preprocess.in_chans, **arguments},
        "pretrained_cfg": data,
        PROVENANCE: config.provenance,
    }
    return {CONFIG_FILE: content}


def _timm_architecture(config: EncoderConfig) -> tuple[str, dict[str, Any]]:
    """Return timm's name for the size, and what differs from it; free sizes are written as changes to the base size."""
    shape = (config.width, config.depth, config.heads, config.patch_size)
    for size, usual in SIZES.items():
        if shape == usual and config.mlp_ratio == 4.0:
            return f"vit_{size}_patch{config.patch_size}_224", {}
    changes = {"patch_size": config.patch_size, "embed_dim": config.width, "depth": config.depth}
    return "vit_base_patch16_224", {**changes, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio}


def _huggingface_files(config: EncoderConfig) -> dict[str, dict[str, Any]]:
    preprocess = config.preprocess
    content = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": preprocess.image_size,
        "patch_size": config.patch_size,
        "num_channels": preprocess.in_chans,
        "qkv_bias": True,
        "torch_dtype": "float32",
        PROVENANCE: config.provenance,
    }
    return {CONFIG_FILE: content, PROCESSOR_FILE: _processor(preprocess)}


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    """Describe the preprocessing in transformers' words; ViT's processor squashes, CLIP's crops the centre."""
    edge = {"height": preprocess.image_size, "width": preprocess.image_size}
    usual = {
        "do_resize": True,
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if preprocess.geometry == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": edge, **usual}
    if preprocess.geometry == "crop":
        size = {"shortest_edge": preprocess.image_size}
        crop = {"do_center_crop": True, "crop_size": edge, "do_convert_rgb": preprocess.in_chans == 3}
        return {"image_processor_type": "CLIPImageProcessor", "size": size, **crop, **usual}
    raise PacxError(
        "Hugging Face's image processors cannot pad a picture to a square, as this encoder wants it. Pass geometry "
        "squash or crop to accept another, or export to pacx."
    )


def _huggingface_tensors(encoder: Encoder) -> dict[str, Tensor]:
    state = encoder.vit.state_dict()
    renamed: dict[str, Tensor] = {}
    for timm, names in file_names(encoder.config.depth).items():
        renamed |= dict(zip(names, state[timm].chunk(len(names)), strict=True))
    return renamed
