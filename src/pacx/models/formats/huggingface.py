"""Hugging Face transformers' `ViT*` and `ViTMAE*`: `config.json`, weights, `preprocessor_config.json`.

* Queries, keys and values are three matrices here and one in timm. Two layouts of names are about: the one that every
  version writes to disk (`encoder.layer.0.attention.attention.query`), and the one that version 5 has in memory
  (`layers.0.attention.q_proj`).
* The configuration gives the epsilon (1e-12 unless set, whatever the weights were trained with), heads and activation;
  the image processor gives mean, std and geometry. A file without them gets the libraries' defaults.
* Positions, learned or fixed, are in the file; heads, poolers and decoders are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.formats.mae import IMAGENET_MEAN, IMAGENET_STD
from pacx.models.formats.names import Wanted, find_depth, find_prefix, take
from pacx.models.formats.network import Format, Found
from pacx.models.formats.stated import number, numbers, whole

__all__ = ["VIT", "VIT_MAE", "file_names", "has_huggingface_names", "read_huggingface"]

VIT = Format(
    "huggingface-vit",
    eps=1e-12,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    geometry="squash",
    drops=("pooler.*", "classifier.*", "decoder.*", "embeddings.mask_token"),
)
VIT_MAE = Format(
    "huggingface-vit-mae",
    eps=1e-12,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    geometry="squash",
    drops=("decoder.*",),
)
BLOCKS = r"encoder\.layer|layers"
_STEM = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
# timm's layer -> its names on disk, and in the memory of version 5
_LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "norm1": (("layernorm_before",), ("layernorm_before",)),
    "attn.qkv": (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "attn.proj": (("attention.output.dense",), ("attention.o_proj",)),
    "norm2": (("layernorm_after",), ("layernorm_after",)),
    "mlp.fc1": (("intermediate.dense",), ("mlp.fc1",)),
    "mlp.fc2": (("output.dense",), ("mlp.fc2",)),
}


def file_names(depth: int, *, prefix: str = "", in_memory: bool = False, qkv_bias: bool = True) -> Wanted:
    """Return timm's names -> names here, several where timm has one tensor for them."""
    names: dict[str, tuple[str, ...]] = {timm: (prefix + name,) for timm, name in _STEM.items()}
    blocks = "layers" if in_memory else "encoder.layer"
    for block in range(depth):
        for layer, versions in _LAYERS.items():
            for kind in ("weight", "bias") if qkv_bias or layer != "attn.qkv" else ("weight",):
                here = tuple(f"{prefix}{blocks}.{block}.{part}.{kind}" for part in versions[in_memory])
                names[f"blocks.{block}.{layer}.{kind}"] = here
    return names


def has_huggingface_names(names: Mapping[str, Tensor]) -> bool:
    """Say whether some tensors are of transformers' ViT."""
    marks = ("embeddings.patch_embeddings.", ".layernorm_before.", ".layernorm_after.")
    return any(mark in f".{name}" for name in names for mark in marks)


def read_huggingface(
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    origin: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
) -> Found:
    """Take a ViT with transformers' names.

    Args:
        tensors: by their names in the file.
        source: what to call the file or folder.
        origin: where it comes from.
        config: content of `config.json`, if it is there.
        processor: content of `preprocessor_config.json`, if it is there.

    Raises:
        PacxError: another network than ViT or ViTMAE, or one that our encoder cannot represent.
    """
    config, processor = config or {}, processor or {}
    prefix = find_prefix(tensors, BLOCKS, source=source)
    if prefix is None:
        raise PacxError(f"{source} has transformers' names and no blocks (encoder.layer.0. ...). Copy it again.")
    told = "num_hidden_layers" in config
    depth = whole(config, "num_hidden_layers", source=source, most=256) if told else find_depth(tensors, BLOCKS)
    in_memory = not any(name.startswith(f"{prefix}encoder.layer.") for name in tensors)
    masked = config.get("model_type") == "vit_mae" or any(name.startswith("decoder.decoder_") for name in tensors)
    format_ = VIT_MAE if masked else VIT
    qkv_bias = bool(config.get("qkv_bias", True))
    wanted = file_names(depth, prefix=prefix, in_memory=in_memory, qkv_bias=qkv_bias)
    taken, dropped = take(tensors, wanted, prefix=prefix, drops=format_.drops, source=source)
    _check_config(config, source)
    if not qkv_bias:  # no bias is a bias of zero
        taken |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(3 * taken["norm.bias"].shape[0]) for i in range(depth)}
    origin = {**origin, "prefix": prefix, **({"license": config["license"]} if config.get("license") else {})}
    stated = {**_of_config(config, source), **_of(processor, source)}
    return Found(format_, taken, source, origin, dropped, stated, _expects(config))


def _check_config(config: Mapping[str, Any], source: str) -> None:
    kind = config.get("model_type")
    if kind not in (None, "vit", "vit_mae"):
        raise PacxError(
            f"{source} is a network of type {kind!r}; of transformers' networks pacx takes vit and vit_mae."
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise PacxError(f"{source} computes with {config['hidden_act']!r}; pacx's encoder has the exact GELU.")


def _of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    stated = {}
    if "layer_norm_eps" in config:
        stated["eps"] = number(config, "layer_norm_eps", source=source)
    if "num_attention_heads" in config:
        stated["heads"] = whole(config, "num_attention_heads", source=source)
    return stated


def _of(processor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read normalisation and geometry; a processor that does not normalise has mean 0 and std 1."""
    if not processor:
        return {}
    factor = number({"rescale_factor": 1 / 255, **processor}, "rescale_factor", source=source)
    if not processor.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise PacxError(
            f"{source} scales pixels otherwise than to [0, 1]; pacx cannot feed it. Pass a folder that does."
        )
    stated: dict[str, Any] = {}
    said = {name: processor.get(name) for name in ("image_mean", "image_std")}
    mean, std = (numbers(said, name, source=source) if said[name] is not None else () for name in said)
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * len(mean or (0, 0, 0)), (1.0,) * len(std or (1, 1, 1))
    if mean and std:
        stated |= {"mean": mean, "std": std}
    size = processor.get("size")
    if isinstance(size, int) or (isinstance(size, Mapping) and "height" in size):
        stated["geometry"] = "squash"
    elif isinstance(size, Mapping) and "shortest_edge" in size:
        stated["geometry"] = "crop"
    return stated


def _expects(config: Mapping[str, Any]) -> dict[str, int]:
    words = {
        "hidden_size": "width",
        "num_channels": "channels",
        "patch_size": "patch_size",
        "image_size": "image_size",
        "intermediate_size": "hidden",
    }
    return {ours: config[theirs] for theirs, ours in words.items() if isinstance(config.get(theirs), int)}
