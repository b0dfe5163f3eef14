"""Decodes one frame of a DICOM file: header checks, pixel data, codecs. The gray values are `pacx.data.dicom_gray`'s.

Sizes are checked three times before a decoder runs: the header against the limit, the length of uncompressed pixel data
against the header, and the size inside a compressed stream against the header. Compressed transfer syntaxes go through
pydicom's optional plugins; the extra `dicom` brings them.

Known limits: overlays are not drawn; rescale and windows inside the functional groups of enhanced multi-frame objects
are not looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from pacx.data.costs_of_files import check_fragments, check_scans
from pacx.data.dicom_gray import colour_to_gray, stored_to_gray
from pacx.data.dicom_header import DicomHeader, open_dicom, read_header
from pacx.data.pixels import CxrImage, ImageError, Voi, check_size, refuse_damage
from pacx.errors import MissingExtraError

__all__ = ["read_dicom"]

_GRAY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"}
_EXTRA_SYNTAXES = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}


def read_dicom(data: bytes, *, frame: int | None, voi: Voi, max_pixels: int) -> CxrImage:
    """Read one frame of a DICOM file; see `pacx.read_cxr` for the arguments.

    Raises:
        ImageError: there is no image in it that can be read.
        MissingExtraError: its compression needs the extra `dicom`.
    """
    # 16 bits a sample and 64 MiB of everything else; what is deflated is small, so its own length limits nothing.
    ds = open_dicom(data, max_size=2 * max_pixels + 64 * 2**20)
    header = read_header(ds)
    check_size(header.rows, header.columns, samples=header.samples, frames=header.frames, max_pixels=max_pixels)
    index = _choose_frame(header.frames, frame)
    _check_photometric(header)
    stored = _decode(ds, header, index, max_pixels=max_pixels)
    steps = [f"decoded {header.transfer_syntax.name}"]
    if header.frames > 1:
        steps.append(f"frame {index} of {header.frames}")
    pixels, gray_steps = colour_to_gray(stored, header) if header.samples == 3 else stored_to_gray(stored, header, voi)
    steps += gray_steps
    if header.spacing_source not in {"", "PixelSpacing"}:
        steps.append(f"pixel spacing is {header.spacing_source}")
    return CxrImage(
        pixels=pixels,
        format="DICOM",
        bit_depth=header.bits_stored,
        photometric=header.photometric,
        view=header.view,
        pixel_spacing=header.pixel_spacing,
        steps=tuple(steps),
    )


def _choose_frame(frames: int, frame: int | None) -> int:
    if frame is None and frames > 1:
        raise ImageError(
            f"It has {frames} frames and pacx does not guess which one is meant. Choose one: frame=0 to {frames - 1}."
        )
    if frame is not None and not 0 <= frame < frames:
        raise ImageError(f"Found frame={frame}; allowed: 0 to {frames - 1}.")
    return frame or 0


def _check_photometric(header: DicomHeader) -> None:
    allowed = _COLOUR if header.samples == 3 else _GRAY | {"PALETTE COLOR"}
    if header.samples not in {1, 3} or header.photometric not in allowed:
        raise ImageError(
            f"Its photometric interpretation is {header.photometric or 'missing'} with {header.samples} samples per "
            f"pixel; allowed: {', '.join(sorted(_GRAY))} or PALETTE COLOR with 1, {', '.join(sorted(_COLOUR))} with 3.",
            quoted=header.photometric,
        )
    if header.samples == 3 and header.bits_stored > 16:
        raise ImageError(f"It is a colour image of {header.bits_stored} bits per sample; allowed: at most 16.")


def _decode(ds: Dataset, header: DicomHeader, index: int, *, max_pixels: int) -> NDArray[np.integer[Any]]:
    """Return the stored values of one frame: (H, W), or (H, W, 3) in RGB."""
    syntax = header.transfer_syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(
            f"Its transfer syntax is {syntax.name}; allowed: uncompressed, deflated, RLE, JPEG, JPEG-LS and JPEG 2000.",
            quoted=syntax.name,
        ) from error
    if not decoder.is_available:
        raise MissingExtraError(f"Decoding {syntax.name} pixels", extra="dicom")
    if syntax.is_encapsulated:
        _check_codestream(ds, header, index, max_pixels=max_pixels)
    else:
        _check_length(ds, header)
    hint = ""
    if syntax in _EXTRA_SYNTAXES and "pylibjpeg" not in decoder.available_plugins:
        hint = " by the installed decoders; the extra [dicom] brings more of them"
    with refuse_damage(f"Its {syntax.name} pixels cannot be decoded{hint}"):
        # Unused bits are dropped later: done here, files with an unusual high bit would lose their pixels.
        stored, _ = decoder.as_array(ds, index=index, correct_unused_bits=False)
    expected = (header.rows, header.columns) + ((3,) if header.samples == 3 else ())
    if stored.shape != expected:
        raise ImageError(f"Its pixels decode to shape {stored.shape} but its header says {expected}.")
    native: NDArray[np.integer[Any]] = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return native


def _check_length(ds: Dataset, header: DicomHeader) -> None:
    """Compare the pixel data that is there with what the header declares."""
    bits = header.rows * header.columns * header.samples * header.frames * header.bits_allocated
    if header.photometric == "YBR_FULL_422":
        bits = bits * 2 // 3
    found, declared = len(ds.PixelData), (bits + 7) // 8
    if found < declared:
        raise ImageError(f"It is truncated: its header declares {declared:,} bytes of pixels and {found:,} are there.")


def _check_codestream(ds: Dataset, header: DicomHeader, index: int, *, max_pixels: int) -> None:
    """Refuse a compressed frame that is not of the size that the DICOM header says, or too costly to decode.

    The limit was checked against the header; a decoder allocates what the compressed stream says.
    """
    check_fragments(ds.PixelData)
    offsets = None
    with refuse_damage("Its compressed frames cannot be told apart"):
        if "ExtendedOffsetTable" in ds:
            offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
        frame = get_frame(ds.PixelData, index, number_of_frames=header.frames, extended_offsets=offsets)
    size = _codestream_size(frame)
    if size is not None and size != (header.rows, header.columns):
        raise ImageError(
            f"Its header says {header.rows} rows x {header.columns} columns but the compressed picture inside is "
            f"{size[0]} x {size[1]}."
        )
    if frame.startswith(b"\xff\xd8"):
        check_scans(frame, pixels=header.rows * header.columns, max_pixels=max_pixels)


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) from a JPEG, JPEG-LS or JPEG 2000 header; None for anything else."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: start of codestream, image and tile size
    if start >= 0:
        right, bottom, left, top = (_big_endian(frame, start + 8 + 4 * i, length=4) for i in range(4))
        return bottom - top, right - left
    if not frame.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):  # a frame header
            return _big_endian(frame, position + 5, length=2), _big_endian(frame, position + 7, length=2)
        # 0xFF before a marker is fill; every other segment before the frame header states its length.
        position += 1 if marker == 0xFF else 2 + _big_endian(frame, position + 2, length=2)
    return None


def _big_endian(data: bytes, start: int, *, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")
