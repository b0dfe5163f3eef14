"""Reads any chest X-ray file; this module and the ones that it calls are the only place in pacx that decodes pixels.

`read_cxr` takes DICOM, PNG, JPEG or TIFF and returns gray float32 pixels in [0, 1] in which bright is dense (bone),
with the story of how they came about. It does not resize, crop, normalise or enhance: `pacx.preprocess` does what an
encoder needs.

* The content decides the format. DICOM without its preamble is tried last.
* The header is checked against `max_pixels` before anything is decoded.
* What is 0 and what is 1: the full range of the file's bit depth, so the same picture stored with 8, 12 or 16 bits
  reads the same. DICOM windows and tables: see `pacx.data.dicom_gray`; PNG, JPEG and TIFF: see `pacx.data.raster`.
* A row of a NumPy array (`cxr.npy::17`) is read by `pacx.data.array_images`, and the caller says what its numbers are.
* Nothing global is touched, so threads and processes may call it freely.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, get_args

from pacx.data.array_images import Stored, read_array_image
from pacx.data.array_rows import split_row
from pacx.data.pixels import (
    MAX_PIXELS,
    CxrImage,
    ImageError,
    TooLargeError,
    UnknownFormatError,
    Voi,
    is_blank,
    max_bytes,
    printable,
    refuse_damage,
)
from pacx.data.raster import read_raster

__all__ = ["MAX_PIXELS", "CxrImage", "ImageError", "Stored", "Voi", "is_blank", "read_cxr"]

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II\x2a\x00": "TIFF",
    b"MM\x00\x2a": "TIFF",
    b"II\x2b\x00": "TIFF",
    b"MM\x00\x2b": "TIFF",
}
# The first element of a data set without preamble: group 2 (file meta) or 8, little or big endian.
_BARE_DICOM = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_cxr(
    source: str | Path | bytes | BinaryIO,
    *,
    frame: int | None = None,
    voi: Voi = "auto",
    stored: Stored = "gray",
    max_pixels: int = MAX_PIXELS,
) -> CxrImage:
    """Read a chest X-ray from a file.

    Args:
        source: a path, the file's bytes, or a binary file object (read from where it stands, not closed). A path
            `FILE.npy::17` means row 17 of an array of images.
        frame: which frame of a multi-frame DICOM or multi-page TIFF, from 0; needed when there is more than one.
        voi: DICOM only: which part of the value range becomes the gray scale. "auto" takes the VOI LUT, else the
            window, else everything; "lut" and "window" insist on theirs; "none" takes the full range of the bit depth.
        stored: arrays only: what their numbers are; "gray" (uint8, uint16, or floats in [0, 1]) or "imagenet"
            (normalised with ImageNet's mean and standard deviation, which is undone).
        max_pixels: refuse larger pictures by their header. For DICOM, samples and frames count too.

    Returns:
        The pixels and their provenance.

    Raises:
        ImageError: the source is missing, empty, damaged, too large, or no chest X-ray that pacx can read.
        MissingExtraError: a compressed DICOM needs the extra `dicom`.

    Example:
        >>> image = read_cxr("chest.dcm")  # doctest: +SKIP
        >>> image.pixels.shape, image.view, image.steps  # doctest: +SKIP
        ((1955, 1841), 'PA', ('decoded Explicit VR Little Endian', 'window center 15000 ...', 'inverted MONOCHROME1'))
    """
    if voi not in get_args(Voi):
        raise ImageError(f"Found voi={voi!r}; allowed: {', '.join(get_args(Voi))}.")
    if stored not in get_args(Stored):
        raise ImageError(f"Found stored={stored!r}; allowed: {', '.join(get_args(Stored))}.")
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "") or "The given bytes")
    try:
        file, row = split_row(source) if isinstance(source, str | Path) else (None, None)
        if file is not None and row is not None:
            return read_array_image(file, row, stored=stored, max_pixels=max_pixels)
        data = _read_bytes(source, limit=max_bytes(max_pixels))
        kind = _identify(data)
        if kind == "DICOM":
            # pydicom is imported when a DICOM comes: a PNG data set should not wait for it.
            from pacx.data.dicom import read_dicom

            return read_dicom(data, frame=frame, voi=voi, max_pixels=max_pixels)
        return read_raster(data, kind, frame=frame, max_pixels=max_pixels)
    except ImageError as error:
        # Names and headers may hold line breaks; a message is one paragraph.
        raise type(error)(printable(f"{name}: {error}", longest=1000), public=error.public) from error


def _read_bytes(source: str | Path | bytes | BinaryIO, *, limit: int) -> bytes:
    """Return the whole file; decoders then cannot be misled by lengths that go beyond it."""
    if isinstance(source, str | Path):
        data = _read_path(Path(source), limit=limit)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        with refuse_damage("It cannot be read"):
            data = source.read(limit + 1)
        if not isinstance(data, bytes):
            raise ImageError("It is a text stream; allowed: a binary one. Open the file with mode 'rb'.")
    if not data:
        raise ImageError("It is empty (0 bytes).")
    if len(data) > limit:
        raise TooLargeError(_too_long(len(data), limit))
    return data


def _read_path(path: Path, *, limit: int) -> bytes:
    try:
        if path.is_dir():
            raise ImageError("It is a folder; allowed: one image file.")
        if path.exists() and not path.is_file():
            raise ImageError("It is not a regular file.")
        size = path.stat().st_size
        if size > limit:
            raise TooLargeError(_too_long(size, limit))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("There is no such file.") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise ImageError(f"It cannot be opened ({getattr(error, 'strerror', None) or error}).") from error


def _too_long(size: int, limit: int) -> str:
    return (
        f"It has {size:,} bytes or more; allowed: {limit:,}, which follows from max_pixels. If it is right, raise that."
    )


def _identify(data: bytes) -> str:
    # First, because a DICOM's 128-byte preamble may hold a TIFF header (files that are both).
    if data[128:132] == b"DICM":
        return "DICOM"
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data.startswith(_BARE_DICOM):
        return "DICOM"
    if data.startswith(b"\x93NUMPY"):
        raise UnknownFormatError(
            "It is a NumPy array. Name one of its rows, as in FILE.npy::17 for row 17.",
            public="It is a NumPy array. Allowed: DICOM, PNG, JPEG and TIFF, told by their content.",
        )
    start = data[:16]
    seen = (
        f"the text {start.decode('ascii')!r}"
        if start.isascii() and b"\0" not in start
        else f"the bytes {start.hex(' ')}"
    )
    raise UnknownFormatError(
        f"It is not an image that pacx can read: it starts with {seen}. Allowed: DICOM, PNG, JPEG and TIFF.",
        public="It is not an image that pacx can read. Allowed: DICOM, PNG, JPEG and TIFF, told by their content.",
    )
