"""Small well-formed files of every kind that the reader knows; the mutations start from them.

Every DICOM and every file with metadata carries `CANARY` where a patient's name would stand: no message or warning may
repeat it.
"""

from __future__ import annotations

import functools
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)
from tests.data.dicom_files import dicom_bytes, jpeg_dicom, lookup_table, make_dicom
from tests.data.png_chunks import join_chunks

__all__ = ["CANARY", "seed_files"]

CANARY = "Canary^Cornelia"
_HEIGHT, _WIDTH = 40, 36
# Kinds for which no encoder is at hand come out of pydicom's own wheel.
_PYDICOMS = (
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "JPEG2000.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
)


@functools.cache
def seed_files() -> dict[str, bytes]:
    """Return the files by name; the name begins with the format."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    gray = np.round(127.5 + 127.4 * np.sin(y / 6) * np.cos(x / 5)).astype(np.uint8)
    return {**_rasters(gray), **_dicoms(gray), **_pydicoms_own()}


def _rasters(gray: NDArray[np.uint8]) -> dict[str, bytes]:
    image, sixteen = Image.fromarray(gray), gray.astype(np.uint16) * 257
    colour = Image.merge("RGB", [image, image.rotate(180), image])
    exif = Image.Exif()
    exif[274], exif[270] = 6, CANARY
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Title", CANARY)
    notes.add_text("Comment", CANARY * 20, zip=True)
    alpha = Image.merge("LA", [image, image.rotate(180)])
    return {
        "PNG 8 bit": encoded(image, "PNG", pnginfo=notes, exif=exif),
        "PNG 16 bit": encoded(sixteen, "PNG"),
        "PNG 1 bit": encoded(image.convert("1"), "PNG"),
        "PNG palette": encoded(colour.quantize(8), "PNG", transparency=3),
        "PNG gray and alpha": encoded(alpha, "PNG"),
        "PNG colour and alpha": encoded(colour.convert("RGBA"), "PNG"),
        "PNG interlaced": interlaced_png(gray),
        "JPEG gray": encoded(image, "JPEG", exif=exif),
        "JPEG colour": encoded(colour, "JPEG", subsampling=2, comment=CANARY),
        "JPEG progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG restarts": encoded(image, "JPEG", restart_marker_blocks=3),
        "JPEG CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "TIFF 16 bit": encoded(sixteen, "TIFF", description=CANARY),
        "TIFF 64-bit offsets": encoded(gray.astype(np.float32) / 255, "TIFF", big_tiff=True),
        "TIFF LZW": encoded(image, "TIFF", compression="tiff_lzw"),
        "TIFF deflated": encoded(sixteen, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encoded(colour, "TIFF", compression="jpeg"),
        "TIFF fax": encoded(image.convert("1"), "TIFF", compression="group4"),
        "TIFF pages": encoded(image, "TIFF", save_all=True, append_images=[image, image]),
    }


def _dicoms(gray: NDArray[np.uint8]) -> dict[str, bytes]:
    sixteen, twelve = gray.astype(np.uint16) * 257, gray.astype(np.uint16) * 16
    who: dict[str, Any] = {"PatientName": CANARY, "ViewPosition": "PA", "PixelSpacing": [0.14, 0.14]}
    window = {"WindowCenter": [2048, 900], "WindowWidth": [4096, 500], "RescaleSlope": "1", "RescaleIntercept": "0"}
    tables = {
        "ModalityLUTSequence": [lookup_table(list(range(256)), first=0, bits=8)],
        "VOILUTSequence": [lookup_table(list(range(0, 4096, 16)), first=0, bits=12)],
    }
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * 257).tobytes()
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    files = {
        "DICOM 8 bit": make_dicom(gray, bits=8, **who, **inverse),
        "DICOM 12 bit": make_dicom(twelve, bits=12, **who, **window),
        "DICOM signed": make_dicom(twelve.astype(np.int16) - 2048, bits=12, **who, PixelPaddingValue=-2048),
        "DICOM 32 bit": make_dicom(sixteen.astype(np.uint32) << 8, bits=24, **who),
        "DICOM tables": make_dicom(gray, bits=8, **who, **tables),
        "DICOM palette": make_dicom(gray, bits=8, **who, **palette),
        "DICOM colour": make_dicom(np.stack([gray] * 3, axis=-1), bits=8, **who),
        "DICOM frames": make_dicom(np.stack([gray] * 3), bits=8, **who),
        "DICOM implicit": make_dicom(sixteen, bits=16, syntax=ImplicitVRLittleEndian, **who),
        "DICOM big endian": make_dicom(sixteen, bits=16, syntax=ExplicitVRBigEndian, **who),
        "DICOM deflated": make_dicom(gray, bits=8, syntax=DeflatedExplicitVRLittleEndian, **who),
        "DICOM JPEG": jpeg_dicom(gray, **who),
        "DICOM JPEG lossless": _encapsulated(sixteen, lossless_jpeg(sixteen), JPEGLosslessSV1, **who),
    }
    for name, syntax in (("DICOM RLE", RLELossless), ("DICOM JPEG 2000", JPEG2000Lossless)):
        if get_encoder(syntax).is_available:
            files[name] = make_dicom(twelve, bits=12, **who)
            files[name].compress(syntax, generate_instance_uid=False)
    written = {name: dicom_bytes(ds) for name, ds in files.items()}
    written["DICOM bare"] = dicom_bytes(make_dicom(gray, bits=8, syntax=ImplicitVRLittleEndian, **who), meta=False)
    return written


def _pydicoms_own() -> dict[str, bytes]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return {f"DICOM {name}": (folder / name).read_bytes() for name in _PYDICOMS if (folder / name).exists()}


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """Write an image with Pillow."""
    stream = BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream, kind, **options)
    return stream.getvalue()


def interlaced_png(gray: NDArray[np.uint8]) -> bytes:
    """Write an Adam7 PNG, which Pillow cannot."""
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [gray[top::down, left::right] for top, left, down, right in steps]
    lines = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    header = struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 1)
    return join_chunks([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def _encapsulated(stored: NDArray[Any], stream: bytes, syntax: str, **elements: Any) -> pydicom.FileDataset:
    ds = make_dicom(stored, bits=8 * stored.dtype.itemsize, syntax=syntax, **elements)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    return ds


def lossless_jpeg(stored: NDArray[np.uint16]) -> bytes:
    """Encode 16-bit gray as lossless JPEG, process 14, each pixel predicted by its left neighbour (T.81 annex H)."""
    values = stored.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = values[:, :-1], values[:-1, 0], 1 << 15
    bits = "".join(_huffman(int(difference)) for difference in (values - predicted).ravel())
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = stored.shape
    frame = struct.pack(">HBHHB3B", 11, 16, height, width, 1, 1, 0x11, 0)
    table = struct.pack(">HB16B17B", 36, 0, 0, 0, 0, 0, 17, *[0] * 11, *range(17))  # 17 classes, 5 bits each
    scan = struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table + b"\xff\xda" + scan + body + b"\xff\xd9"


def _huffman(difference: int) -> str:
    """Class of the difference in 5 bits, then as many bits as the class says (T.81, H.1.2.2)."""
    wrapped = (difference + (1 << 15)) % (1 << 16) - (1 << 15)
    length = 16 if wrapped == -(1 << 15) else abs(wrapped).bit_length()
    if length in {0, 16}:
        return f"{length:05b}"
    low = wrapped if wrapped > 0 else wrapped + (1 << length) - 1
    return f"{length:05b}{low:0{length}b}"
