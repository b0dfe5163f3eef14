"""Files of facebookresearch/mae and its descendants, medical_mae among them: `{'model': ...}` with timm's names.

They are known by their decoder (`decoder_*`, `mask_token`) or, where it was cut off, by the fixed sine-cosine
positions. Convention of these files: LayerNorm epsilon 1e-6, ImageNet mean and std, the centre square. medical_mae's
files for other data sets may have been normalised otherwise; no tensor shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pacx.models.formats.network import Format
from pacx.models.formats.positions import is_sincos

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "MAE", "has_decoder", "has_fixed_positions"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAE = Format(
    "mae",
    eps=1e-6,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    geometry="crop",
    drops=("mask_token", "decoder_*", "head.*"),
)


def has_decoder(names: Mapping[str, Tensor]) -> bool:
    """Say whether some names are of a masked autoencoder's decoder."""
    return any(part == "mask_token" or part.startswith("decoder_") for name in names for part in name.split("."))


def has_fixed_positions(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether the table of positions is the sine-cosine one."""
    table = next((value for name, value in tensors.items() if f".{name}".endswith(".pos_embed")), None)
    return table is not None and table.ndim == 3 and is_sincos(table)
