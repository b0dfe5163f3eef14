"""Chest X-rays that lie in NumPy arrays: a row of a published `.npy` file, to gray values in [0, 1].

An array does not say what its numbers mean, so the source of the data set does (`Stored`); nothing is guessed from
the values, they are only checked:

* `gray`: whole numbers fill the range of their type (0-255, 0-65535), floats lie in [0, 1], False is black.
* `imagenet`: floats that were normalised for a network with ImageNet's mean and standard deviation per channel
  (Symile-MIMIC). That is undone; the three channels must then agree and lie in [0, 1], within `TOLERANCE`.

A row is (H, W), or (1 or 3, H, W) with equal channels: chest X-rays are gray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pacx.data.array_rows import read_row
from pacx.data.pixels import CxrImage, ImageError, check_size, to_unit
from pacx.errors import PacxError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "TOLERANCE", "Stored", "read_array_image"]

Stored = Literal["gray", "imagenet"]
"""What the numbers of an array of images are."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""red, green, blue on the scale 0 to 1"""
TOLERANCE = 1e-3
"""how far gray values may lie outside [0, 1] and channels apart: a quarter of an 8-bit level"""


def read_array_image(path: Path, row: int, *, stored: Stored, max_pixels: int) -> CxrImage:
    """Read one row of an array of images.

    Raises:
        ImageError: the file or row cannot be used, or its numbers are not what `stored` says.
    """
    try:
        values = read_row(path, row)
    except PacxError as error:
        raise ImageError(str(error)) from error
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[0] not in {1, 3}):
        raise ImageError(f"It has shape {values.shape}; allowed: (height, width), or (1 or 3, height, width).")
    check_size(values.shape[-2], values.shape[-1], max_pixels=max_pixels)
    channels = values.reshape(-1, *values.shape[-2:])
    scaled, step = _normal_undone(channels) if stored == "imagenet" else _as_stored(channels)
    return CxrImage(
        pixels=_gray(scaled),
        format="NPY",
        bit_depth=8 * values.dtype.itemsize,
        photometric="MONOCHROME2",
        view=None,
        pixel_spacing=None,
        steps=(f"row {row} of a {values.dtype} array", step),
    )


def _normal_undone(channels: NDArray[Any]) -> tuple[NDArray[np.float32], str]:
    if len(channels) != 3 or channels.dtype.kind != "f":
        raise ImageError(
            f"It has {len(channels)} channels of type {channels.dtype}; normalised for ImageNet means 3 of floats."
        )
    mean, std = (np.asarray(value, dtype=np.float32)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return channels.astype(np.float32) * std + mean, "ImageNet normalisation undone"


def _as_stored(channels: NDArray[Any]) -> tuple[NDArray[np.float32], str]:
    if channels.dtype.kind == "f":
        return channels.astype(np.float32), "taken as it is (floats)"
    if channels.dtype == np.bool_:
        return channels.astype(np.float32), "black and white"
    if channels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"Its numbers are of type {channels.dtype}; allowed: uint8, uint16, bool, floats in [0, 1].")
    full = np.iinfo(channels.dtype).max
    return to_unit(channels, full), f"divided by {full}"


def _gray(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make one gray picture of channels that should be equal and within [0, 1]."""
    low, high = float(channels.min()), float(channels.max())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also refuses NaN
        raise ImageError(
            f"Its values go from {low:g} to {high:g} where 0 to 1 is allowed: it was normalised in another way than "
            "stated, or is damaged."
        )
    apart = float(np.ptp(channels, axis=0).max())
    if apart > TOLERANCE:
        raise ImageError(
            f"Its channels differ by up to {apart:.3g}; those of a gray picture agree. It is in colour, or was "
            "normalised in another way than stated."
        )
    gray: NDArray[np.float32] = np.clip(channels.mean(axis=0), 0.0, 1.0)
    return gray
