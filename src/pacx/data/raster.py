"""PNG, JPEG and TIFF chest X-rays, decoded by Pillow: to gray values in [0, 1].

* What is 0 and what is 1: the full range of the file's bit depth (1 to 16 bits).
* Floating-point TIFFs within [0, 1] are taken as they are. Floats beyond it and 32-bit integers have no agreed full
  scale: they are stretched from their smallest to their largest value, and `steps` says so.
* Colour becomes ITU-R 601 luma; gray stored as colour or as a palette comes back exactly. JPEG gives its own luma
  channel. Colour with 16 bits per channel is reduced to 8 by Pillow. CMYK JPEGs are read as Adobe writes them
  (inverted).
* Transparency is laid over black, the gray of air and of everything outside the collimated field.
* The EXIF (and TIFF) orientation is applied; TIFFs whose white is zero are inverted.

Known limit: to TIFFs, Pillow applies its own size limit too (`PIL.Image.MAX_IMAGE_PIXELS`; by default it warns above 89
and refuses above 179 million pixels), and it is a global setting that this module leaves alone.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pacx.data.costs_of_files import check_length, check_metadata, check_scans, count_pages
from pacx.data.pixels import CxrImage, ImageError, check_size, refuse_damage, to_unit

__all__ = ["read_raster"]

# Opened by class: Image.open would apply Pillow's own size limit, which is a global setting.
_OPENERS: dict[str, type[ImageFile]] = {"PNG": PngImageFile, "JPEG": JpegImageFile, "TIFF": TiffImageFile}
_PHOTOMETRIC = {
    "P": "PALETTE COLOR",
    "PA": "PALETTE COLOR",
    "CMYK": "CMYK",
    "RGB": "RGB",
    "RGBA": "RGB",
    "YCbCr": "YBR_FULL",
}
_WORDS = ("I;16", "I;16B", "I;16L")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT, _TIFF_SAMPLE_FORMAT = 258, 262, 322, 323, 339
_ORIENTATION = 274


def read_raster(data: bytes, kind: str, *, frame: int | None, max_pixels: int) -> CxrImage:
    """Read a PNG, JPEG or TIFF; see `pacx.read_cxr` for the arguments.

    Raises:
        ImageError: it is damaged, too large, has several pages and none is chosen, or is of a kind that is not known.
    """
    check_metadata(data, kind)
    with refuse_damage(f"Its {kind} header cannot be read"):
        image = _OPENERS[kind](BytesIO(data))
        _check_raster_size(image, max_pixels)
        frames = count_pages(image)
    if kind == "JPEG":
        check_length(data, pixels=image.height * image.width)
        check_scans(data, pixels=image.height * image.width, max_pixels=max_pixels)
    if frame is None and frames > 1:
        raise ImageError(
            f"It has {frames} pages and pacx does not guess which one is meant. Choose one: frame=0 to {frames - 1}."
        )
    if frame is not None and not 0 <= frame < frames:
        raise ImageError(f"Found frame={frame}; allowed: 0 to {frames - 1}.")
    steps = [f"decoded {kind}"]
    with refuse_damage(f"Its {kind} pixels cannot be decoded"):
        if frames > 1:
            image.seek(frame or 0)
            _check_raster_size(image, max_pixels)
            steps.append(f"page {frame} of {frames}")
        photometric = _photometric(image)
        bits = _bits(image)
        _check_complete(image)
        if kind == "JPEG" and image.mode == "RGB":
            image.draft("L", None)  # the file's own luma channel: no colour conversion there and back
            steps.append("ITU-R 601 luma")
        orientation = _load_upright(image)
        if orientation != 1:
            steps.append(f"turned upright (orientation {orientation})")
        sample_format = _tag(image, _TIFF_SAMPLE_FORMAT, 1)
        pixels, gray_steps = _raster_gray(image, bits, signed=sample_format == 2)
    steps += gray_steps
    if photometric == "MONOCHROME1" and image.mode not in {"1", "L"}:  # Pillow inverts these two itself
        pixels = 1 - pixels
    if photometric == "MONOCHROME1":
        steps.append("inverted MONOCHROME1")
    return CxrImage(
        pixels=pixels,
        format=kind,
        bit_depth=bits,
        photometric=photometric,
        view=None,
        pixel_spacing=None,
        steps=tuple(steps),
    )


def _check_raster_size(image: ImageFile, max_pixels: int) -> None:
    check_size(image.height, image.width, max_pixels=max_pixels)
    # A tile of a small TIFF may be declared huge, and decoders allocate whole tiles.
    check_size(_tag(image, _TIFF_TILE_HEIGHT, 1), _tag(image, _TIFF_TILE_WIDTH, 1), max_pixels=max_pixels)


def _check_complete(image: ImageFile) -> None:
    """Refuse a TIFF whose strips or tiles do not cover it; Pillow would leave the rest black."""
    if not isinstance(image, TiffImageFile):
        return
    boxes = [tile[1] for tile in image.tile if tile[1] is not None]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    declared = _tag(image, _TIFF_HEIGHT, 0) * _tag(image, _TIFF_WIDTH, 0)
    if covered < declared:
        raise ImageError(f"It is truncated: its header says {declared:,} pixels and {covered:,} are there.")


def _tag(image: ImageFile, number: int, default: int) -> int:
    """Return a TIFF tag's (first) value; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _photometric(image: ImageFile) -> str:
    if _tag(image, _TIFF_PHOTOMETRIC, 1) == 0:
        return "MONOCHROME1"
    return _PHOTOMETRIC.get(image.mode, "MONOCHROME2")


def _bits(image: ImageFile) -> int:
    if isinstance(image, PngImageFile):
        return _png_bits(image)
    return _tag(image, _TIFF_BITS, 1) if isinstance(image, TiffImageFile) else 8


def _png_bits(image: PngImageFile) -> int:
    """Tell the depth from how Pillow unpacks the pixels ("L;4", "I;16B"): a damaged file may have two headers."""
    if image.mode in {"1", "P"}:  # a palette index has no gray depth, its entries have 8 bits
        return 1 if image.mode == "1" else 8
    return int(str(image.tile[0][3]).partition(";")[2].rstrip("B") or 8)


def _load_upright(image: ImageFile) -> int:
    """Decode, apply the orientation that the file states, and return it (1 = as stored)."""
    orientation = _tag(image, _ORIENTATION, 0) or image.getexif().get(_ORIENTATION, 1)
    image.load()  # TIFFs are turned here
    ImageOps.exif_transpose(image, in_place=True)
    return int(orientation) if orientation in range(1, 9) else 1


def _raster_gray(image: Image.Image, bits: int, *, signed: bool) -> tuple[NDArray[np.float32], list[str]]:
    """Turn a decoded Pillow image of any mode into pixels (H, W) in [0, 1]; returns them with the steps taken."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in {"P", "PA"}:
        return _palette_gray(image, key)
    if mode in {"RGB", "CMYK", "YCbCr", "RGBA", "LA", "La"}:
        gray, steps = _colour_gray(image)
        if mode in {"RGBA", "LA"} or (mode == "RGB" and key is not None):
            gray, steps = _over_black(gray, steps, image)
        return gray, steps
    values = np.asarray(image)
    gray, step = _scaled(values, mode, bits, signed=signed)
    if isinstance(key, int):
        gray[values == _key_value(key, mode, bits)] = 0
        return gray, [step, "transparency over black"]
    return gray, [step]


def _key_value(key: int, mode: str, bits: int) -> int:
    """Return a PNG's transparent gray in the values that Pillow decodes to: 2 and 4 bits are widened to 8."""
    if mode == "1":
        return int(key > 0)
    return key * 255 // (2**bits - 1) if mode == "L" and bits < 8 else key


def _colour_gray(image: Image.Image) -> tuple[NDArray[np.float32], list[str]]:
    if image.mode in {"YCbCr", "LA", "La"}:  # the first channel is the gray; in La it is already laid over black
        return to_unit(np.asarray(image.getchannel(0)), 255), ["divided by 255"]
    luma = image.convert("RGB").convert("L")
    return to_unit(np.asarray(luma), 255), ["ITU-R 601 luma", "divided by 255"]


def _over_black(
    gray: NDArray[np.float32], steps: list[str], image: Image.Image
) -> tuple[NDArray[np.float32], list[str]]:
    alpha = (image if image.mode in {"RGBA", "LA", "PA"} else image.convert("RGBA")).getchannel("A")
    if alpha.getextrema()[0] == 255:
        return gray, steps
    return gray * to_unit(np.asarray(alpha), 255), [*steps, "transparency over black"]


def _palette_gray(image: Image.Image, key: Any) -> tuple[NDArray[np.float32], list[str]]:
    """Look the palette's gray up for each index, so that a gray palette loses nothing."""
    palette = np.zeros((256, 1, 3), dtype=np.uint8)
    colours = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 1, 3)[:256]
    palette[: len(colours)] = colours
    table = to_unit(np.asarray(Image.fromarray(palette).convert("L")).ravel(), 255)
    opacity = np.ones(256, dtype=np.float32)
    if isinstance(key, bytes):
        opacity[: len(key)] = to_unit(np.frombuffer(key, dtype=np.uint8), 255)
    elif isinstance(key, int):
        opacity[key] = 0
    steps = ["palette", "ITU-R 601 luma", "divided by 255"] + ([] if opacity.all() else ["transparency over black"])
    gray = (table * opacity)[np.asarray(image.getchannel("P"))]
    return _over_black(gray, steps, image) if image.mode == "PA" else (gray, steps)


def _scaled(values: NDArray[Any], mode: str, bits: int, *, signed: bool) -> tuple[NDArray[np.float32], str]:
    """Bring gray values of one channel to [0, 1] by their bit depth; returns them with the step taken."""
    if mode == "1":
        return values.astype(np.float32), "black and white"
    if mode == "L" and not signed:
        return to_unit(values, 255), "divided by 255"
    if (mode in _WORDS or (mode == "I" and bits == 16)) and not signed:
        return to_unit(values, 2**bits - 1), f"divided by {2**bits - 1}"
    if mode == "I" and bits == 16:
        return to_unit(values + 2**15, 2**16 - 1), "full range -32768..32767"
    if mode == "I":
        return _stretched(values if signed else values.view(np.uint32))
    if mode == "F":
        return _float_gray(values)
    raise ImageError(
        f"Its pixels are of kind {mode}{' (signed)' if signed else ''}; allowed: gray, palette, RGB or CMYK."
    )


def _float_gray(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):  # NaN and infinity both reach the smallest or the largest value
        raise ImageError("It holds NaN or infinite pixels; allowed: finite numbers.")
    if low >= 0 and high <= 1:
        return values.astype(np.float32), "taken as it is (floats within 0..1)"
    return _stretched(values)


def _stretched(values: NDArray[Any]) -> tuple[NDArray[np.float32], str]:
    low, high = float(values.min()), float(values.max())
    gray = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return gray.astype(np.float32), f"stretched from {low:g}..{high:g}"
