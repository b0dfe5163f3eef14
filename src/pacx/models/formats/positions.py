"""Position tables for images of another size than the network was trained on.

A fixed sine-cosine table is a formula: the table of the new grid is computed, not guessed from the old one. Learned
tables are resampled, bicubic with antialiasing, as timm does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from pacx.models.encoder import Encoder, sincos_positions

__all__ = ["is_sincos", "with_image_size"]

# Rounding to bfloat16 moves a sine by up to .004. Learned tables are nowhere near the formula.
TOLERANCE = 4e-3


def is_sincos(table: Tensor) -> bool:
    """Say whether a table (1, 1 + N, D) is the fixed one of its grid, but for rounding."""
    rows, width = table.shape[1], table.shape[2]
    grid = round((rows - 1) ** 0.5)
    if grid * grid != rows - 1 or width % 4:
        return False
    return bool((table[0].float() - sincos_positions(width, grid)).abs().max() <= TOLERANCE)


def with_image_size(encoder: Encoder, image_size: int) -> Encoder:
    """Return an encoder for images of another size, with the same weights but for the positions.

    Raises:
        PacxError: the size is no multiple of the patch size.
    """
    old = encoder.config
    config = replace(old, preprocess=replace(old.preprocess, image_size=image_size))
    if config.grid == old.grid:
        return encoder
    weights = dict(encoder.vit.state_dict())
    fixed = is_sincos(weights["pos_embed"])
    if fixed:
        weights["pos_embed"] = sincos_positions(config.width, config.grid)[None]
    else:
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [config.grid, config.grid])
    how = "computed anew" if fixed else "resampled, bicubic"
    note = f"positions {how}: {old.grid} x {old.grid} -> {config.grid} x {config.grid} patches"
    with torch.device("meta"):
        resized = Encoder(config.noting(note))
    resized.vit.load_state_dict(weights, strict=True, assign=True)
    return resized.train(encoder.training)
