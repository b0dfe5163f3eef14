"""Make our encoder of a network that a format has found: settle what its file leaves open, and write down how.

Shapes tell width, depth, patch, channels and image size. What they do not tell (LayerNorm epsilon, normalisation,
geometry, number of heads) is taken from the user, else from the source's own words, else from the convention of its
format; `provenance` says which. Two files with equal tensors and another epsilon give other features.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.weights import audit, fill, name_some
from pacx.preprocess import Geometry, Preprocess
from pacx.runs import plain

__all__ = ["Format", "Found", "Overrides", "build"]

log = logging.getLogger("pacx")
HEAD_WIDTH = 64
_NAMES = {"eps": "LayerNorm epsilon", "mean": "mean", "std": "std", "geometry": "geometry", "heads": "heads"}


@dataclass(frozen=True)
class Format:
    """A kind of file, and what its users take for granted."""

    name: str
    eps: float
    """LayerNorm epsilon"""
    mean: tuple[float, ...]
    """pixel mean per channel, [0, 1] scale"""
    std: tuple[float, ...]
    geometry: Geometry
    """how its users make a picture square"""
    drops: tuple[str, ...] = ()
    """shell-like patterns of tensors that are no part of the encoder"""


@dataclass(frozen=True)
class Overrides:
    """What the user says; None leaves it to the source."""

    image_size: int | None = None
    eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    geometry: Geometry | None = None
    heads: int | None = None
    lora_alpha: float | None = None
    fold: bool = False

    def __post_init__(self) -> None:
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise PacxError(f"Found lora_alpha {self.lora_alpha}; it is a positive number.")

    def given(self) -> dict[str, Any]:
        """Return what was said, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class Found:
    """A plain ViT in timm's names, and what its source says of it."""

    format: Format
    tensors: Mapping[str, Tensor]
    source: str
    """what to call it in messages"""
    origin: Mapping[str, Any]
    """where it comes from, for the provenance"""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """pattern -> number of tensors that were left out"""
    stated: Mapping[str, Any] = field(default_factory=dict)
    """what the source says of eps, mean, std, geometry, heads"""
    expects: Mapping[str, int] = field(default_factory=dict)
    """numbers that its configuration gives, to be compared with the shapes"""


def build(found: Found, overrides: Overrides) -> Encoder:
    """Make an encoder at the size of its own position table, in evaluation mode.

    Raises:
        PacxError: tensors of shapes that no plain ViT has, or that contradict the configuration; numbers that are not
            finite; or a normalisation that nobody states.
    """
    tensors, shape = _measure(found)
    settled, assumed = _settle(found, overrides, shape)
    try:
        preprocess = Preprocess(shape["image_size"], settled["geometry"], settled["mean"], settled["std"])
        config = EncoderConfig(
            preprocess,
            patch_size=shape["patch_size"],
            width=shape["width"],
            depth=shape["depth"],
            heads=settled["heads"],
            mlp_ratio=_ratio(shape["hidden"], shape["width"]),
            layer_norm_eps=settled["eps"],
            provenance=plain(
                {
                    "format": found.format.name,
                    **found.origin,
                    "dropped": found.dropped,
                    "stated": found.stated,
                    "assumed": assumed,
                    "given": overrides.given(),
                }
            ),
        )
    except PacxError as error:
        raise PacxError(f"{found.source}: {error}") from error
    with torch.device("meta"):  # the weights come from the file; nothing is drawn first
        encoder = Encoder(config)
    what = f"The weights in {found.source} are not those of one plain ViT"
    audit(tensors, encoder.vit.state_dict(), what=what, advice="Save the file again from the network itself.")
    # A copy: tensors may be maps of the file, and views of each other.
    fill(encoder.vit, {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()})
    _refuse_not_finite(encoder, found.source)
    if assumed:
        words = ", ".join(f"{_NAMES[name]} {value}" for name, value in assumed.items())
        log.info("%s (%s) does not say, so assumed: %s", found.source, found.format.name, words)
    return encoder.eval()


def _measure(found: Found) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read the architecture off the shapes; positions without an entry for the class token get one of zeros."""
    tensors = dict(found.tensors)
    _refuse_not_real(tensors, found.source)
    kernel, table = tensors["patch_embed.proj.weight"], tensors["pos_embed"]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise PacxError(
            f"{found.source}: patch_embed.proj.weight has shape {tuple(kernel.shape)}; pacx takes square patches, "
            "(width, channels, P, P)."
        )
    width, channels, patch_size, _ = kernel.shape
    rows = table.shape[1] if table.ndim == 3 and table.shape[0] == 1 else 0
    if _is_square(rows) and not _is_square(rows - 1):
        tensors["pos_embed"] = torch.cat([table.new_zeros(1, 1, table.shape[2]), table], dim=1)
        rows += 1
    if rows < 2 or not _is_square(rows - 1):
        raise PacxError(
            f"{found.source}: pos_embed has shape {tuple(table.shape)}; pacx takes (1, 1 + N, width) for a square of N "
            "patches."
        )
    shape = {
        "width": width,
        "channels": channels,
        "patch_size": patch_size,
        "image_size": math.isqrt(rows - 1) * patch_size,
        "depth": sum(name.endswith(".norm1.weight") for name in tensors),
        "hidden": tensors["blocks.0.mlp.fc1.weight"].shape[0],
    }
    wrong = [
        f"{name} {shape[name]} instead of {value}" for name, value in found.expects.items() if shape[name] != value
    ]
    if wrong:
        raise PacxError(f"The weights in {found.source} contradict its config.json: {'; '.join(wrong)}.")
    return tensors, shape


def _settle(found: Found, overrides: Overrides, shape: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choose each number from the user, the source or the convention, in this order; return what was assumed apart."""
    given, by_convention = overrides.given(), _conventions(found.format, shape)
    settled: dict[str, Any] = {}
    assumed: dict[str, Any] = {}
    for name in _NAMES:
        if name in given or name in found.stated:
            settled[name] = given.get(name, found.stated.get(name))
        elif name in by_convention:
            settled[name] = assumed[name] = by_convention[name]
        else:
            raise PacxError(_unknown(name, found, shape))
    for name in ("mean", "std"):
        if len(settled[name]) != shape["channels"]:
            raise PacxError(
                f"{found.source} has {shape['channels']} input channels; found {name} {list(settled[name])}. Give one "
                "number per channel."
            )
    return settled, assumed


def _conventions(format_: Format, shape: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"eps": format_.eps, "geometry": format_.geometry}
    if shape["channels"] == len(format_.mean):
        found |= {"mean": format_.mean, "std": format_.std}
    if shape["width"] % HEAD_WIDTH == 0:
        found["heads"] = shape["width"] // HEAD_WIDTH
    return found


def _unknown(name: str, found: Found, shape: Mapping[str, int]) -> str:
    if name == "heads":
        return (
            f"{found.source} does not say how many attention heads it has, and its width {shape['width']} is no "
            f"multiple of the usual {HEAD_WIDTH} per head. Pass heads."
        )
    return (
        f"{found.source} has {shape['channels']} input channel{'s' if shape['channels'] > 1 else ''} and does not say "
        f"by which mean and std its images were normalised; {found.format.name} files have no convention for that. "
        "Pass mean and std."
    )


def _ratio(hidden: int, width: int) -> float:
    """Return the ratio from which `int(width * ratio)` gives the hidden width again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _refuse_not_real(tensors: Mapping[str, Tensor], source: str) -> None:
    bad = [
        f"{name} ({str(value.dtype).removeprefix('torch.')}, {str(value.layout).removeprefix('torch.')}, "
        f"{tuple(value.shape)} on {value.device.type})"
        for name, value in tensors.items()
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta or not value.numel()
        or not value.ndim
    ]  # fmt: skip
    if bad:
        raise PacxError(
            f"The weights in {source} are not all dense real numbers: {name_some(bad)}. Quantised or sparse weights "
            "must be turned back by what made them."
        )


def _refuse_not_finite(encoder: Encoder, source: str) -> None:
    bad = [name for name, value in encoder.vit.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise PacxError(f"The weights in {source} are not all finite: {name_some(bad)}. Its training diverged.")
