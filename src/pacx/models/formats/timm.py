"""timm's ViTs: state dicts, folders with timm's `config.json`, and live networks.

* A bare state dict does not say how its images were normalised. timm's own ViTs take .5 and .5, those of DeiT or DINO
  ImageNet's numbers; .5 is assumed and written down. A folder or a `timm:` name does say.
* A folder's `config.json` names the architecture. The network is built from it, without memory, to learn what no
  tensor shows: the epsilon, the heads, the activation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.formats.names import find_depth, find_prefix, take, vit_names
from pacx.models.formats.network import Format, Found
from pacx.models.formats.stated import entries, numbers, whole

__all__ = ["BLOCKS", "TIMM", "describe", "has_timm_names", "read_timm_folder", "read_timm_keys"]

log = logging.getLogger("pacx")

TIMM = Format("timm", eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3, geometry="crop", drops=("head.*", "pre_logits.*"))
BLOCKS = "blocks"
_IN_A_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+\.(?:norm[12]|attn|mlp)\.")
_GEOMETRY = {"center": "crop", "squash": "squash"}
# What a folder may say of its architecture. create_model knows more, and reads or fetches files by it.
_BOUNDS = {"img_size": (1, 4096), "patch_size": (1, 1024), "depth": (1, 256), "reg_tokens": (0, 1024)}
_WHOLE = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "num_classes", "reg_tokens")
_PLAIN = (
    "mlp_ratio", "qkv_bias", "qk_norm", "global_pool", "class_token", "no_embed_class", "init_values", "pre_norm",
    "final_norm", "fc_norm", "pos_embed", "proj_bias", "dynamic_img_size", "dynamic_img_pad", "act_layer", "norm_layer",
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
)  # fmt: skip


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
    cfg = {**config, **entries(config, "pretrained_cfg", source=source)}
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
    if type(network.norm).__name__ not in {"LayerNorm", "LayerNormFp32"}:
        raise PacxError(f"{source} normalises by {type(network.norm).__name__}; pacx's encoder has LayerNorm.")
    size = network.patch_embed.img_size[0]
    stated = {"eps": network.norm.eps, "heads": network.blocks[0].attn.num_heads}
    for name in ("mean", "std"):
        if cfg.get(name):
            stated[name] = numbers(cfg, name, source=source)
    mode = str(cfg.get("crop_mode"))
    if mode in _GEOMETRY:
        stated["geometry"] = _GEOMETRY[mode]
    elif mode == "border":
        log.warning("%s pads pictures with gray and pacx with black; pass geometry to choose another way.", source)
    expects = {"image_size": size, "width": network.embed_dim, "depth": len(network.blocks)}
    return stated, expects


def _skeleton(config: Mapping[str, Any], source: str) -> Any:
    import timm

    name, advice = config["architecture"], "Install the timm that wrote it, or give the weights file alone."
    if not isinstance(name, str) or ":" in name or "/" in name or not timm.is_model(name):
        raise PacxError(f"{source}: timm has no architecture {str(name)[:80]!r}, which its config.json names. {advice}")
    arguments = {**_arguments(config, source), "num_classes": 0}
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, ArithmeticError, LookupError) as error:
        raise PacxError(
            f"{source}: timm cannot build the architecture {name!r} that its config.json names "
            f"({' '.join(str(error).split())}). {advice}"
        ) from error


def _arguments(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Let through what describes an architecture by plain values; refuse all else, such as `checkpoint_path`."""
    said = entries(config, "model_args", source=source)
    for name, value in said.items():
        if name not in _WHOLE and (name not in _PLAIN or not isinstance(value, str | int | float | None)):
            raise PacxError(
                f"{source}: its config.json has model_args.{name} = {str(value)[:80]!r}, which is not among the plain "
                f"settings of an architecture: {', '.join((*_WHOLE, *_PLAIN))}. It was not passed on to timm."
            )
        if name in _WHOLE and value is not None:
            least, most = _BOUNDS.get(name, (0 if name == "num_classes" else 1, 1 << 16))
            for part in value if isinstance(value, list) else [value]:
                whole({name: part}, name, source=source, least=least, most=most)
    return said


def _licence(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {"license": cfg["license"]} if cfg.get("license") else {}
