"""What a caller gives an encoder, taken apart into single images and read; what is no image is refused by name.

* An array (H, W) is an image, an array (B, H, W) a stack of them. One that could as well be a colour picture is
  neither: embedding its rows as images would be wrong without anyone noticing.
* Pixels are never guessed at: floats lie in [0, 1], integers are uint8 or uint16 over their full range.
* Tensors are normalised already, so nothing can be told from their values but that they are numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.errors import PacxError
from pacx.preprocess import Preprocess

__all__ = ["Image", "Images", "check_tensor", "list_given", "read_pixels", "refuse_not_finite"]

Image = str | Path | bytes | BinaryIO | NDArray[Any]
"""A file, its bytes, a file opened for reading bytes, or gray pixels (H, W)."""
Images = Tensor | Image | Sequence[Image]
"""Whatever `Encoder.prepare` takes."""

_EMPTY = "No images to embed: the list is empty."
_ALLOWED = (
    "an image is a path, a file's bytes, an open binary file or a gray array (H, W): floats in [0, 1], as "
    "pacx.read_cxr(path).pixels gives them, uint8 or uint16."
)


def list_given(images: Image | Sequence[Image]) -> list[Image]:
    """Take apart what is not a tensor; the images themselves are looked at when they are read.

    Args:
        images: one image, several, or a stack of gray arrays (B, H, W).

    Returns:
        At least one image.

    Raises:
        PacxError: nothing is given, it is neither an image nor several, or an array could be a colour picture.
    """
    if isinstance(images, np.ndarray):
        found = _list_array(images)
    elif _is_file(images):
        found = [images]
    elif isinstance(images, Iterable) and not isinstance(images, Mapping | Set):
        found = list(cast("Iterable[Image]", images))
    else:
        raise PacxError(f"Found {type(images).__name__}; {_ALLOWED}")
    if not found:
        raise PacxError(_EMPTY)
    return found


def read_pixels(image: Image) -> NDArray[np.float32]:
    """Return the gray pixels (H, W) in [0, 1] of a file, its bytes or an array.

    Raises:
        PacxError: a file that cannot be read, or a type, shape or range that is no image.
    """
    if _is_file(image):
        # The one reader of files; only who gives a file needs it.
        from pacx.data.images import read_cxr

        return read_cxr(image).pixels
    if not isinstance(image, np.ndarray):
        raise PacxError(f"Found {type(image).__name__}; {_ALLOWED}")
    if image.ndim != 2 or not (image.dtype in (np.uint8, np.uint16) or np.issubdtype(image.dtype, np.floating)):
        raise PacxError(f"Found {image.dtype} array {image.shape}; {_ALLOWED}")
    if not image.size:
        raise PacxError(f"Found an array {image.shape} without any pixel; {_ALLOWED}")
    if image.dtype in (np.uint8, np.uint16):
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    if not (image.min() >= 0 and image.max() <= 1):  # also catches NaN
        raise PacxError(f"Found pixel values from {image.min():g} to {image.max():g}; an image has values in [0, 1].")
    return image.astype(np.float32, copy=False)


def check_tensor(images: Tensor, preprocess: Preprocess) -> None:
    """Refuse a tensor that is not (B, C, S, S) of floats, as `Encoder.prepare` makes them.

    Raises:
        PacxError: another shape or type, or no images in it.
    """
    expected = (preprocess.in_chans, preprocess.image_size, preprocess.image_size)
    if images.ndim != 4 or images.shape[1:] != expected:
        raise PacxError(
            f"Found a tensor of shape {tuple(images.shape)}; this encoder takes preprocessed tensors "
            f"(B, {', '.join(map(str, expected))}). Give gray arrays (H, W) to have them preprocessed."
        )
    if not images.is_floating_point():
        raise PacxError(
            f"Found a tensor of {str(images.dtype).removeprefix('torch.')}; tensors count as preprocessed and hold "
            "normalised floats. Give gray arrays (H, W) to have them preprocessed."
        )
    if not len(images):
        raise PacxError(_EMPTY)


def refuse_not_finite(images: Tensor) -> None:
    """Refuse a tensor (B, C, S, S) with NaN or infinity; it makes embeddings of nothing.

    Raises:
        PacxError: says which image is the first such one.
    """
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        raise PacxError(
            f"Found NaN or infinity in image {int(finite.int().argmin())} (from 0) of a tensor; preprocessed images "
            "are finite numbers. Mend or leave out such images."
        )


def _is_file(image: object) -> TypeGuard[str | Path | bytes | BinaryIO]:
    return isinstance(image, str | Path | bytes | bytearray | memoryview) or hasattr(image, "read")


def _list_array(images: NDArray[Any]) -> list[Image]:
    if images.ndim == 1 and images.dtype.kind in "OUS":  # a column of paths
        return list(images)
    if images.ndim != 3:
        return [images]
    # A stack of so many pictures, or pictures of so few columns, is rarer than a picture in colour.
    if images.shape[0] in (3, 4) or images.shape[-1] in (1, 3, 4):
        raise PacxError(
            f"Found {images.dtype} array {images.shape}, which may be one colour picture or a stack of gray ones. "
            "Convert a picture to gray (H, W); give a stack as a list of (H, W) arrays: list(stack)."
        )
    return list(images)
