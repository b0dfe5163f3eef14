"""From pixels to what an encoder eats: one contract, saved with the weights.

Three steps, in this order, and nothing else:

1. geometry: any H x W picture becomes S x S (`fit_square`),
2. channels: the gray value is repeated once per channel of `mean`,
3. normalisation: `(x - mean) / std`, with x in [0, 1].

Whatever reads single pictures calls this class. Training takes the same steps on whole batches of tensors
(`data.batches`), and a test holds the two together. NumPy and Pillow only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pacx.errors import PacxError

__all__ = ["Geometry", "Preprocess", "fit_box", "fit_square"]

Geometry = Literal["squash", "crop", "pad"]
"""How a rectangle becomes a square: `squash` does not keep the aspect ratio (the paper), `crop` keeps the centre square
of the shorter edge, `pad` keeps everything and adds black bars."""


def fit_square(pixels: NDArray[np.float32], size: int, geometry: Geometry = "squash") -> NDArray[np.float32]:
    """Resize a gray picture to a square, bilinear with antialiasing.

    The filter is Pillow's: a triangle whose support grows with the reduction, so that every source pixel counts.

    Args:
        pixels: shape (H, W), values in [0, 1].
        size: edge of the result in pixels, at least 1.
        geometry: what to do with a picture that is not square. Bars of `pad` are 0 (black); when they cannot be equal,
            the one at the right or at the bottom is a pixel wider.

    Returns:
        Shape (size, size), float32, values in [0, 1].

    Raises:
        PacxError: the picture is not two-dimensional, or the size or geometry is not allowed.
    """
    _check_size(size)
    _check_geometry(geometry)
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise PacxError(f"Found an image of shape {pixels.shape}; allowed: one gray image (height, width), not empty.")
    height, width = pixels.shape
    if geometry == "crop":
        edge = min(height, width)
        left, top = (width - edge) / 2, (height - edge) / 2
        return _resize(pixels, (size, size), box=(left, top, left + edge, top + edge))
    if geometry == "squash" or height == width:
        return _resize(pixels, (size, size))
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    square = np.zeros((size, size), dtype=np.float32)
    square[top : top + inner_height, left : left + inner_width] = _resize(pixels, (inner_width, inner_height))
    return square


def fit_box(pixels: NDArray[np.float32], *, height: int, width: int) -> NDArray[np.float32]:
    """Resize a gray picture (H, W) in [0, 1] to any size, with the filter of `fit_square`."""
    return _resize(pixels, (width, height))


def _resize(
    pixels: NDArray[np.float32], size: tuple[int, int], *, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    resized = np.array(image.resize(size, Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    return np.clip(resized, 0.0, 1.0, out=resized)  # weights sum to 1 only up to rounding


@dataclass(frozen=True)
class Preprocess:
    """What happens to pixels on their way into an encoder."""

    image_size: int = 224
    """edge of the square input in pixels"""
    geometry: Geometry = "squash"
    """how a rectangle becomes a square: squash, crop or pad"""
    mean: tuple[float, ...] = (0.5,)
    """subtracted per channel, on the [0, 1] scale; its length is the number of channels"""
    std: tuple[float, ...] = (0.25,)
    """divided by per channel, on the [0, 1] scale"""

    def __post_init__(self) -> None:
        _check_size(self.image_size)
        _check_geometry(self.geometry)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise PacxError(f"Found {len(self.mean)} means and {len(self.std)} stds; allowed: one of each per channel.")
        if min(self.std) <= 0:
            raise PacxError(f"Found std {self.std}; allowed: positive numbers.")

    @property
    def in_chans(self) -> int:
        """Number of input channels (timm's word)."""
        return len(self.mean)

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a gray picture (H, W) in [0, 1] into a normalised input (C, S, S)."""
        return self.normalise(fit_square(pixels, self.image_size, self.geometry))

    def normalise(self, x: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Normalise squares (..., S, S) in [0, 1] to (..., C, S, S); leading dimensions may be a batch."""
        if not np.issubdtype(x.dtype, np.floating):
            raise PacxError(f"Found {x.dtype} pixels; allowed: floats in [0, 1]. Divide 8-bit pixels by 255 first.")
        mean = np.asarray(self.mean, dtype=np.float32)[:, None, None]
        std = np.asarray(self.std, dtype=np.float32)[:, None, None]
        normalised: NDArray[np.float32] = (x.astype(np.float32, copy=False)[..., None, :, :] - mean) / std
        return normalised

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "image_size": self.image_size,
            "geometry": self.geometry,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Build from `to_dict`'s result.

        Raises:
            PacxError: a key is unknown or missing, or a value is not allowed. Nothing is filled in: a default that the
                weights were not trained with would be wrong without anyone noticing.
        """
        allowed = {field.name for field in fields(cls)}
        if set(values) != allowed:
            unknown, missing = sorted(set(values) - allowed), sorted(allowed - set(values))
            raise PacxError(
                f"Preprocessing settings: unknown keys {unknown}, missing keys {missing}; needed: {sorted(allowed)}."
            )
        return cls(**values)


def _check_size(size: object) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise PacxError(f"Found image size {size!r}; allowed: a whole number of pixels, at least 1.")


def _check_geometry(geometry: object) -> None:
    if geometry not in get_args(Geometry):
        raise PacxError(f"Found geometry {geometry!r}; allowed: {', '.join(get_args(Geometry))}.")


def _numbers(name: str, values: object) -> tuple[float, ...]:
    if isinstance(values, list | tuple) and values:
        numbers = tuple(float(value) for value in values if isinstance(value, int | float))
        if len(numbers) == len(values) and all(map(math.isfinite, numbers)):
            return numbers
    raise PacxError(f"Found {name} {values!r}; allowed: a list of finite numbers, one per channel.")
