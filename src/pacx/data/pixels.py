"""What every decoder of chest X-rays shares: result, error, size limit, gray from colour, blank test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = [
    "MAX_PIXELS",
    "CxrImage",
    "ImageError",
    "TooLargeError",
    "UnknownFormatError",
    "Voi",
    "check_size",
    "is_blank",
    "luma",
    "max_bytes",
    "printable",
    "refuse_damage",
    "to_unit",
]

Voi = Literal["auto", "window", "lut", "none"]
"""Which part of a DICOM's value range becomes the gray scale; see `pacx.data.dicom_gray`."""

MAX_PIXELS = 100_000_000
"""Default size limit. The largest detectors have about 25 million pixels, film scanners about 60 million."""

BLANK_SHARE = 0.999
"""An image is blank when at least this share of its pixels lies within two neighbouring 8-bit gray levels."""


# Up to the closing quote, or to the end: Python itself cuts long values off.
_QUOTED = re.compile(r"""(?<!\w)b?(?:'(?:\\.|[^'\\])*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\Z))""", re.DOTALL)


class ImageError(PacxError):
    """A file, or part of one, that does not give a chest X-ray.

    Attributes:
        public: the message without words out of the file, which may name a patient. A server answers with it.
    """

    def __init__(self, message: str, *, quoted: str = "", public: str | None = None) -> None:
        """Take a message, and of it what is quoted from the file."""
        super().__init__(message)
        self.public = public or (message.replace(quoted, "(not shown)") if quoted else message)


class TooLargeError(ImageError):
    """A file with more bytes or pixels than are allowed."""


class UnknownFormatError(ImageError):
    """A file that is neither DICOM nor PNG, JPEG or TIFF."""


@dataclass(frozen=True, eq=False)
class CxrImage:
    """A decoded chest X-ray and where its gray values come from."""

    pixels: NDArray[np.float32] = field(repr=False)
    """shape (H, W), values in [0, 1]; bright is dense (bone), whatever the file's own polarity was"""
    format: str
    """DICOM, PNG, JPEG or TIFF: found in the content, not in the file name"""
    bit_depth: int
    """bits per sample that the file declares (DICOM: Bits Stored)"""
    photometric: str
    """the file's photometric interpretation in DICOM's words: MONOCHROME1, MONOCHROME2, RGB, PALETTE COLOR, ..."""
    view: str | None
    """View Position of a DICOM (PA, AP, LL, ...); None where the file does not say"""
    pixel_spacing: tuple[float, float] | None
    """(between rows, between columns) in mm; None where the file does not say"""
    steps: tuple[str, ...]
    """what was done to the stored values, in order"""


def is_blank(image: CxrImage | NDArray[np.float32]) -> bool:
    """Tell whether an image shows nothing: constant, or nearly so.

    Blank means that 99.9 % of the pixels lie within two neighbouring of 256 gray levels, a range of less than 2/255.
    A burnt-in letter or a few dead pixels do not make a picture. `read_cxr` reads such files without complaint;
    `pacx prepare` rejects them.

    Args:
        image: what `read_cxr` returned, or its pixels: shape (H, W), values in [0, 1].
    """
    pixels = image.pixels if isinstance(image, CxrImage) else image
    allowed = pixels.size - BLANK_SHARE * pixels.size
    few = pixels[:: len(pixels) // 64 + 1]  # in a real picture, too many differ in these rows already
    return _num_outside(few) <= allowed and _num_outside(pixels) <= allowed


def _num_outside(pixels: NDArray[np.float32]) -> int:
    """Count the pixels that are not of the most frequent two neighbouring of 256 gray levels."""
    levels = (pixels * np.float32(255)).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    return int(levels.size - (counts[:-1] + counts[1:]).max())


def check_size(height: int, width: int, *, max_pixels: int, samples: int = 1, frames: int = 1) -> None:
    """Refuse a picture by what its header says, before anything is decoded.

    Raises:
        ImageError: there are no pixels, or more than allowed.
    """
    if min(height, width, samples, frames) < 1:
        raise ImageError(
            f"Its header says {height} rows, {width} columns and {frames} frames; a picture needs at least one each."
        )
    if height * width * samples * frames > max_pixels:
        parts = f"{height:,} rows x {width:,} columns" + "".join(
            f" x {count:,} {name}" for count, name in ((samples, "samples"), (frames, "frames")) if count > 1
        )
        raise TooLargeError(
            f"Its header says {parts}, more than the {max_pixels:,} pixels that are allowed. No chest X-ray is that "
            "large; if this one is, raise max_pixels."
        )


def max_bytes(max_pixels: int) -> int:
    """Return the largest file that can be an image of `max_pixels`: 8 bytes per pixel and 64 MiB of everything else."""
    return 8 * max_pixels + 64 * 2**20


@contextmanager
def refuse_damage(what: str) -> Iterator[None]:
    """Turn whatever a decoder library raises on damaged input into an `ImageError`.

    The only place where every exception is caught: Pillow, pydicom and the codecs behind them raise almost any type
    (OSError, SyntaxError, KeyError, struct.error, RecursionError, ...) when a file is truncated or scrambled. Keep
    what is wrapped small: a mistake of ours in there would look like a damaged file.
    """
    try:
        yield
    except PacxError:
        raise
    except Exception as error:
        # Libraries quote the value that they stumble over, and that may be a patient's name out of the header.
        reason = printable(_QUOTED.sub("…", str(error)), longest=300)
        reason = reason if reason.strip("… ") else type(error).__name__
        told = f"{what}: the file is damaged, truncated or of a kind that is not supported"
        raise ImageError(f"{told} ({reason}).", public=f"{told}.") from error


def printable(text: str, *, longest: int) -> str:
    """Return text that came out of a file in one line, without control characters and not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line[:longest]


def luma(rgb: NDArray[Any]) -> NDArray[Any]:
    """Turn colour (..., 3) of 8 or 16 bits into gray of the same type with the weights of ITU-R BT.601.

    Y = 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point, as in Pillow's `convert("L")`. The weights add up to exactly
    2^16, so a gray picture stored as RGB comes back bit for bit.
    """
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    red *= 19595
    green *= 38470
    blue *= 7471
    red += green
    red += blue
    red += 1 << 15
    red >>= 16
    return red.astype(rgb.dtype)


def to_unit(values: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    """Divide unsigned values by the largest one that their bit depth allows: 0 to 0.0, `full_scale` to exactly 1.0."""
    scaled: NDArray[np.float32] = np.divide(values, np.float32(full_scale), dtype=np.float32)
    return scaled
