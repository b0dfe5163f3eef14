"""The part of a DICOM header that decides how its pixels look, as plain Python values.

pydicom converts an element when it is first looked at and raises all sorts of exceptions on damaged ones. So everything
is looked at here, once, and the decoder (`pacx.data.dicom`) never sees the data set's elements again.

Files without preamble, without file meta group, or without transfer syntax are read too: the encoding is then told from
the first element, as pydicom does. A deflated data set is inflated only up to a limit.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacx.data.pixels import ImageError, printable, refuse_damage

__all__ = ["DicomHeader", "LookupTable", "Window", "open_dicom", "read_header"]

MAX_READS = 300_000
MAX_TABLE_BYTES = 1 << 21
"""of a look-up table sequence; a table of 65,536 entries has 131 kB"""


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A table of DICOM: stored value `first` maps to the first entry; values outside map to the nearest end."""

    first: int
    entries: NDArray[np.uint16]
    bits: int
    """bits per entry that the descriptor declares"""

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map values, rounded to the nearest whole one."""
        position = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        mapped: NDArray[np.float64] = self.entries[position].astype(np.float64)
        return mapped


@dataclass(frozen=True)
class Window:
    """A VOI window: which values get the gray scale, and by which function (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str

    @property
    def valid(self) -> bool:
        """Whether the standard allows these numbers: LINEAR needs a width of at least 1, the others a positive one."""
        smallest = 1.0 if self.function == "LINEAR" else math.ulp(0.0)
        return math.isfinite(self.center) and math.isfinite(self.width) and self.width >= smallest

    def __str__(self) -> str:
        return f"window center {self.center:g} width {self.width:g} ({self.function})"


@dataclass(frozen=True)
class DicomHeader:
    """What is needed to turn stored values into gray."""

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    transfer_syntax: UID
    modality_table: LookupTable | None
    rescale: tuple[float, float] | None
    """slope, intercept"""
    voi_table: LookupTable | None
    window: Window | None
    padding: tuple[int, int] | None
    """stored values from ... to (both included) that are no part of the picture"""
    palette: tuple[LookupTable, LookupTable, LookupTable] | None
    view: str | None
    pixel_spacing: tuple[float, float] | None
    spacing_source: str
    """the element that the spacing was found in"""


class _Patient(BytesIO):
    """A file whose reader loses patience: pydicom takes one or two reads for an element, and has no limit of its own.

    800 MB of zeros, which deflate to 800 kB, are 100 million empty elements and would keep it busy for minutes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError(f"Its header has more than {MAX_READS // 2:,} elements; no X-ray has so many.")
        return super().read(size)


def open_dicom(data: bytes, *, max_size: int) -> Dataset:
    """Parse a DICOM file without decoding its pixels.

    Args:
        data: the whole file.
        max_size: bytes that a deflated data set may inflate to.

    Raises:
        ImageError: it cannot be parsed, or has absurdly many elements, or would inflate beyond the limit.
    """
    with refuse_damage("Its DICOM data set cannot be parsed"):
        if DeflatedExplicitVRLittleEndian.encode() in data:
            _check_deflated(data, max_size=max_size)
        return dcmread(_Patient(data), force=True)


def _check_deflated(data: bytes, *, max_size: int) -> None:
    """Refuse a deflated data set that is a bomb: pydicom itself inflates without any limit."""
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    vr = data[stream.tell() + 4 : stream.tell() + 6]
    if not vr.isalpha():  # pydicom would parse these elements in another way than the next line does
        raise ImageError("It is deflated and its file meta group is damaged.")
    read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
    )
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data[stream.tell() :], max_size + 1)
    except zlib.error:
        return  # the identifier is only mentioned; or pydicom will find the same damage
    if len(inflated) > max_size:
        raise ImageError(f"Its deflated data set is larger than {max_size:,} bytes when inflated.")
    # pydicom would read what it inflates itself with endless patience.
    read_dataset(_Patient(inflated), is_implicit_VR=False, is_little_endian=True)


def read_header(ds: Dataset) -> DicomHeader:
    """Collect what decides how the pixels look.

    Raises:
        ImageError: the file holds no image, or an element is missing or makes no sense.
    """
    with refuse_damage("Its DICOM header cannot be read"):
        _check_pixel_data(ds)
        bits_allocated = _integer(ds, "BitsAllocated")
        bits_stored = _integer(ds, "BitsStored", default=bits_allocated)
        signed = _integer(ds, "PixelRepresentation", default=0) == 1
        if bits_allocated not in {1, 8, 16, 32} or not 1 <= bits_stored <= bits_allocated:
            raise ImageError(
                f"It declares {bits_stored} bits stored in {bits_allocated} allocated; allowed: 1, 8, 16 or 32 "
                "allocated, and not more stored than allocated."
            )
        spacing, spacing_source = _pixel_spacing(ds)
        return DicomHeader(
            rows=_integer(ds, "Rows"),
            columns=_integer(ds, "Columns"),
            samples=_integer(ds, "SamplesPerPixel", default=1),
            frames=_integer(ds, "NumberOfFrames", default=1),
            bits_allocated=bits_allocated,
            bits_stored=bits_stored,
            high_bit=_integer(ds, "HighBit", default=bits_stored - 1),
            signed=signed,
            photometric=_text(ds, "PhotometricInterpretation") or "",
            transfer_syntax=_transfer_syntax(ds),
            modality_table=_sequence_table(ds, "ModalityLUTSequence"),
            rescale=_rescale(ds),
            voi_table=_sequence_table(ds, "VOILUTSequence"),
            window=_window(ds),
            padding=_padding(ds, signed=signed, bits_allocated=bits_allocated),
            palette=_palette(ds),
            view=_text(ds, "ViewPosition"),
            pixel_spacing=spacing,
            spacing_source=spacing_source,
        )


def _check_pixel_data(ds: Dataset) -> None:
    if "PixelData" in ds:
        if not isinstance(ds.PixelData, bytes) or not ds.PixelData:
            raise ImageError("Its pixel data element is empty or damaged.")
        return
    if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        raise ImageError("It holds floating-point pixels (a parametric map); allowed: whole-number X-ray pixels.")
    modality = _text(ds, "Modality")
    raise ImageError(
        "It holds no pixel data" + (f" (modality {modality})" if modality else "") + ": it is truncated, or a DICOM "
        "object that is not an image, such as a report or a presentation state.",
        quoted=modality or "",
    )


def _first(value: Any) -> Any:
    """Return the first of several values; None for an empty element."""
    if value is None or not hasattr(value, "__len__"):
        return value
    if len(value) == 0 or isinstance(value, str | bytes):
        return value or None
    return value[0]


def _integer(ds: Dataset, keyword: str, *, default: int | None = None) -> int:
    value = _first(ds.get(keyword))
    if value is None and default is not None:
        return default
    if value is None:
        raise ImageError(f"Its DICOM header has no {keyword}.")
    return int(value)


def _number(ds: Dataset, keyword: str) -> float | None:
    value = _first(ds.get(keyword))
    return None if value is None else float(value)


def _text(ds: Dataset, keyword: str) -> str | None:
    """Return a code string in capitals; damaged ones are cut, since they may end up in a message."""
    return printable(str(_first(ds.get(keyword)) or ""), longest=16).upper() or None


def _transfer_syntax(ds: Dataset) -> UID:
    stated = ds.file_meta.get("TransferSyntaxUID")
    if stated:
        return UID(stated)
    if ds["PixelData"].is_undefined_length:
        raise ImageError("Its pixels are compressed and no transfer syntax says how. Restore the file meta group.")
    is_implicit, is_little_endian = ds.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _rescale(ds: Dataset) -> tuple[float, float] | None:
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    if slope is None and intercept is None:
        return None
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ImageError(f"Its rescale slope {slope:g} and intercept {intercept:g} cannot be used.")
    return slope, intercept


def _window(ds: Dataset) -> Window | None:
    center, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    if center is None or width is None:
        return None
    function = _text(ds, "VOILUTFunction") or "LINEAR"
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise ImageError(
            f"Its VOI LUT function is {function}; allowed: LINEAR, LINEAR_EXACT, SIGMOID.", quoted=function
        )
    return Window(center, width, function)


def _padding(ds: Dataset, *, signed: bool, bits_allocated: int) -> tuple[int, int] | None:
    value = _first(ds.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = _first(ds.get("PixelPaddingRangeLimit"))
    ends = [int(value), int(value if limit is None else limit)]
    # Writers that declare the element unsigned give a negative value as its two's complement.
    ends = [end - (1 << bits_allocated) if signed and end >> (bits_allocated - 1) == 1 else end for end in ends]
    return min(ends), max(ends)


def _sequence_table(ds: Dataset, keyword: str) -> LookupTable | None:
    raw = ds.get_item(keyword)
    if raw is not None and isinstance(raw.value, bytes) and len(raw.value) > MAX_TABLE_BYTES:
        raise ImageError(f"Its {keyword} has {len(raw.value):,} bytes; allowed: {MAX_TABLE_BYTES:,}.")
    item = _first(ds.get(keyword))
    return None if item is None else _table(item["LUTDescriptor"].value, item["LUTData"].value, ds)


def _palette(ds: Dataset) -> tuple[LookupTable, LookupTable, LookupTable] | None:
    if _text(ds, "PhotometricInterpretation") != "PALETTE COLOR":
        return None
    if "RedPaletteColorLookupTableData" not in ds:
        raise ImageError("It is a PALETTE COLOR image without (unsegmented) palette tables.")
    stem = "PaletteColorLookupTable"
    red, green, blue = (
        _table(ds[f"{name}{stem}Descriptor"].value, ds[f"{name}{stem}Data"].value, ds)
        for name in ("Red", "Green", "Blue")
    )
    return red, green, blue


def _table(descriptor: Any, data: Any, ds: Dataset) -> LookupTable:
    """Read the three descriptor values (PS3.3 C.11.1.1.1) and the entries, stored as numbers or as bytes."""
    count, first, bits = (int(value) for value in descriptor)
    count = count % (1 << 16) or (1 << 16)  # 0 stands for 65,536; a signed element may give it as negative
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        byte_order = "<" if ds.original_encoding[1] else ">"
        entries = np.frombuffer(data, dtype=f"{byte_order}u2" if wide else np.uint8).astype(np.uint16)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)
    if not len(entries):
        raise ImageError("A look-up table in its header is empty.")
    return LookupTable(first, entries[:count], bits)


def _pixel_spacing(ds: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Find the spacing in the patient, else at the detector, else of the film scanner; (0, 0) means unknown."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = ds.get(keyword)
        if value is None or isinstance(value, str | int | float) or len(value) != 2:
            continue
        row, column = float(value[0]), float(value[1])
        if 0 < row < math.inf and 0 < column < math.inf:
            return (row, column), keyword
    return None, ""
