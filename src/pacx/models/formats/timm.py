"""timm's ViTs: state dicts, folders with timm's `config.json`, and live networks.

* A bare state dict does not say how its images were normalised. timm's own ViTs take .5 and .5, those of DeiT or DINO
  ImageNet's numbers; .5 is assumed and written down. A folder or a `timm:` name does say.
* A folder's `config.json` names the architecture. The network is built from it, without memory, to learn what no
  tensor shows: the epsilon, the heads, the activation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.formats.names import find_depth, find_prefix, take, vit_names
from pacx.models.formats.network import Format, Found

__all__ = ["BLOCKS", "TIMM", "describe", "has_timm_names", "read_timm_folder", "read_timm_keys"]

TIMM = Format("timm", eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3, geometry="crop", drops=("head.*", "pre_logits.*"))
BLOCKS = "blocks"
_IN_A_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+\.(?:norm[12]|attn|mlp)\.")
_GEOMETRY = {"center": "crop", "squash": "squash", "border": "pad"}


def has_timm_names(names: Mapping[str, Tensor]) -> bool:
    """Say whether some tensors are of timm's blocks."""
    return any(_IN_A_BLOCK.search(name) for name in names)


def read_timm_keys(
    tensors: Mapping[str, Tensor], *, format_: Format, source: str, origin: Mapping[str, Any], **more: Any
) -> Found:
    """Take a ViT with timm's names, whatever stands before them; `more` are further fields of `Found`."""
    prefix = find_prefix(tensors, BLOCKS, source=source) or ""
    wanted = vit_names(find_depth(tensors, BLOCKS), prefix=prefix)
    taken, dropped = take(tensors, wanted, prefix=prefix, drops=format_.drops, source=source)
    return Found(format_, taken, source, {**origin, "prefix": prefix}, dropped, **more)


def read_timm_folder(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, source: str, origin: Mapping[str, Any]
) -> Found:
    """Take the ViT of a folder in timm's layout.

    Raises:
        PacxError: timm does not know the architecture, or it is no plain ViT.
    """
    skeleton = _skeleton(config, source)
    found = read_timm_keys(tensors, format_=TIMM, source=source, origin=origin)
    cfg = {**config, **config.get("pretrained_cfg", {})}
    stated, expects = describe(skeleton, cfg, source=source)
    return Found(TIMM, found.tensors, source, {**found.origin, **_licence(cfg)}, found.dropped, stated, expects)


def describe(network: Any, cfg: Mapping[str, Any], *, source: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what a live timm network states, and the numbers that its weights must agree with.

    Raises:
        PacxError: it computes otherwise than a plain ViT.
    """
    from timm.models.vision_transformer import VisionTransformer

    if type(network) is not VisionTransformer:
        raise PacxError(f"{source} is timm's {type(network).__name__}; pacx takes plain ViTs (VisionTransformer).")
    activation = network.blocks[0].mlp.act
    if not isinstance(activation, nn.GELU) or activation.approximate != "none":
        raise PacxError(f"{source} computes with {type(activation).__name__}; pacx's encoder has the exact GELU.")
    size = network.patch_embed.img_size[0]
    stated = {"eps": network.norm.eps, "heads": network.blocks[0].attn.num_heads}
    for name in ("mean", "std"):
        if cfg.get(name):
            stated[name] = tuple(float(value) for value in cfg[name])
    if cfg.get("crop_mode") in _GEOMETRY:
        stated["geometry"] = _GEOMETRY[cfg["crop_mode"]]
    expects = {"image_size": size, "width": network.embed_dim, "depth": len(network.blocks)}
    return stated, expects


def _skeleton(config: Mapping[str, Any], source: str) -> Any:
    import timm

    arguments = {**dict(config.get("model_args") or {}), "num_classes": 0}
    try:
        with torch.device("meta"):
            return timm.create_model(str(config["architecture"]), pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise PacxError(
            f"{source}: timm cannot build the architecture {config['architecture']!r} that its config.json names "
            f"({' '.join(str(error).split())}). Install the timm that wrote it, or give the weights file alone."
        ) from error


def _licence(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {"license": cfg["license"]} if cfg.get("license") else {}
