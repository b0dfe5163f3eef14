"""DICOM's gray chain: from stored values to gray values in [0, 1].

In the order of PS3.4 annex N:

    stored value  ->  modality LUT or rescale  ->  VOI LUT or window  ->  polarity (MONOCHROME1 is inverted)

Each step depends on the stored value alone, so the chain is computed once for each of the at most 65,536 possible
values and the pixels are looked up: exact, and as fast as reading a table.

What becomes 0 and 1 (`voi`):

* "window": the window's own range, everything outside is clipped. The first window counts when there are several.
* "lut": the VOI LUT's output range, 0 to 2^n - 1, n being the bits that its largest entry needs (writers often declare
  16 bits for 12-bit tables).
* "none": the full range that Bits Stored allows, after the modality step. A linear rescale therefore cancels out,
  except that a negative slope inverts; a modality LUT is scaled by the range of its entries.
* "auto": the LUT if there is one, else the window if there is a usable one, else "none".

Also: pixels with the padding value become 0 (black) last of all; unused bits above Bits Stored are dropped; colour
(RGB, YBR_*, PALETTE COLOR: secondary captures) becomes ITU-R 601 luma over its full range, without windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.dicom_header import DicomHeader
from pacx.data.pixels import ImageError, Voi, luma, to_unit

__all__ = ["colour_to_gray", "stored_to_gray"]


def colour_to_gray(stored: NDArray[np.integer[Any]], header: DicomHeader) -> tuple[NDArray[np.float32], list[str]]:
    """Turn a frame (H, W, 3) in RGB into pixels (H, W) in [0, 1]; returns them with the steps taken."""
    largest = 2**header.bits_stored - 1
    return to_unit(luma(_used_bits(stored, header)), largest), ["ITU-R 601 luma", f"divided by {largest}"]


def _used_bits(stored: NDArray[np.integer[Any]], header: DicomHeader) -> NDArray[np.integer[Any]]:
    """Drop the bits that do not belong to the pixel; what is left is unsigned (two's complement if signed)."""
    bits: NDArray[Any] = stored.view(f"u{stored.dtype.itemsize}")
    if not header.transfer_syntax.is_encapsulated and header.bits_stored <= header.high_bit < header.bits_allocated:
        bits = bits >> (header.high_bit + 1 - header.bits_stored)
    used: NDArray[np.integer[Any]] = bits & bits.dtype.type(2**header.bits_stored - 1)
    return used


def stored_to_gray(
    stored: NDArray[np.integer[Any]], header: DicomHeader, voi: Voi
) -> tuple[NDArray[np.float32], list[str]]:
    """Run the gray chain on a frame of one sample per pixel.

    Args:
        stored: shape (H, W), as decoded: unused bits may hold anything.
        header: how to read them.
        voi: which part of their range becomes the gray scale.

    Returns:
        Pixels, shape (H, W), in [0, 1], bright is dense; and the steps taken.

    Raises:
        ImageError: `voi` asks for a window or a table that the file does not have.
    """
    codes = _used_bits(stored, header)
    if header.bits_stored <= 16:
        table, steps = _curve(_signed(np.arange(2**header.bits_stored), header), header, voi)
        pixels = table[codes]
    else:
        pixels, steps = _curve(_signed(codes, header), header, voi)
    if header.padding is not None:
        low, high = header.padding
        padded = (stored >= low) & (stored <= high)
        if padded.any():
            pixels[padded] = 0.0
            steps.append(f"padding {low}..{high} set to black ({padded.mean():.1%} of the pixels)")
    return pixels, steps


def _signed(codes: NDArray[np.integer[Any]], header: DicomHeader) -> NDArray[np.float64]:
    values = codes.astype(np.float64)
    if header.signed:
        values[values >= 2 ** (header.bits_stored - 1)] -= 2**header.bits_stored
    return values


def _curve(values: NDArray[np.float64], header: DicomHeader, voi: Voi) -> tuple[NDArray[np.float32], list[str]]:
    """Map stored values to gray in [0, 1]; returns it with the steps taken."""
    if header.palette is not None:
        colour = np.stack([channel(values) for channel in header.palette], axis=-1).astype(np.uint16)
        largest = 2 ** max(_needed_bits(channel.entries, at_least=8) for channel in header.palette) - 1
        return to_unit(luma(colour), largest), ["palette", "ITU-R 601 luma", f"divided by {largest}"]
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        values, (low, high), steps = _modality(values, header)
        gray, voi_step = _voi(values, low, high, header, voi)
    if not np.isfinite(gray).all():
        raise ImageError(f"Its values overflow ({', '.join([*steps, voi_step])}).")
    steps.append(voi_step)
    if header.photometric == "MONOCHROME1":
        gray = 1.0 - gray
        steps.append("inverted MONOCHROME1")
    return gray.astype(np.float32), steps


def _modality(
    values: NDArray[np.float64], header: DicomHeader
) -> tuple[NDArray[np.float64], tuple[float, float], list[str]]:
    """Apply the modality LUT or rescale; returns values, the range they can have, and the steps taken."""
    if header.modality_table is not None:
        entries = header.modality_table.entries
        return header.modality_table(values), (float(entries.min()), float(entries.max())), ["modality LUT"]
    low = -(2.0 ** (header.bits_stored - 1)) if header.signed else 0.0
    high = low + 2.0**header.bits_stored - 1
    if header.rescale is None:
        return values, (low, high), []
    slope, intercept = header.rescale
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return values * slope + intercept, (ends[0], ends[1]), [f"rescale slope {slope:g} intercept {intercept:g}"]


def _voi(
    values: NDArray[np.float64], low: float, high: float, header: DicomHeader, voi: Voi
) -> tuple[NDArray[np.float64], str]:
    """Apply the chosen grayscale selection; returns values in [0, 1] and the step taken."""
    window, table = header.window, header.voi_table
    if voi == "lut" or (voi == "auto" and table is not None):
        if table is None:
            raise ImageError("It has no VOI LUT, which voi='lut' asks for. Use voi='auto', 'window' or 'none'.")
        bits = _needed_bits(table.entries)
        return table(values) / (2**bits - 1), f"VOI LUT of {bits} bits"
    if voi == "window" or (voi == "auto" and window is not None and window.valid):
        if window is None or not window.valid:
            found = f"an unusable {window}" if window else "no window"
            raise ImageError(f"It has {found}, which voi='window' asks for. Use voi='auto', 'lut' or 'none'.")
        return _WINDOWS[window.function](values, window.center, window.width), str(window)
    passed_over = f" (its {window} is not valid)" if voi == "auto" and window is not None else ""
    return (values - low) / max(high - low, 1e-12), f"full range {low:g}..{high:g}{passed_over}"


def _linear(x: NDArray[np.float64], center: float, width: float) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2.1: the integer window, half a value off centre and one narrower."""
    if width == 1:
        return (x > center - 0.5).astype(np.float64)
    return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _linear_exact(x: NDArray[np.float64], center: float, width: float) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.3.2."""
    return np.clip((x - center) / width + 0.5, 0.0, 1.0)


def _sigmoid(x: NDArray[np.float64], center: float, width: float) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.3.1."""
    return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -700.0, 700.0)))


_WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _needed_bits(entries: NDArray[np.uint16], *, at_least: int = 1) -> int:
    return max(int(entries.max()).bit_length(), at_least)
