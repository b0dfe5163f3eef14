"""Correlated random texture for tissue: sums of smoothly interpolated random grids."""

from __future__ import annotations

import numpy as np

from pacx.data.phantom.projection import Floats

__all__ = ["enlarge", "value_noise"]


def enlarge(coarse: Floats, size: int) -> Floats:
    """Interpolate a square grid linearly to (size, size)."""
    place = np.clip((np.arange(size) + 0.5) * coarse.shape[0] / size - 0.5, 0, coarse.shape[0] - 1.001)
    low = place.astype(int)
    part = (place - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part, np.float32)


def value_noise(size: int, rng: np.random.Generator, *, octaves: tuple[int, ...]) -> Floats:
    """Draw a texture of unit-scale variance, (size, size); octaves are cells per edge, coarse ones weighing more."""
    total = np.zeros((size, size), np.float32)
    for cells in octaves:
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        total += enlarge(grid, size) * np.float32((octaves[0] / cells) ** 0.5)
    return total
