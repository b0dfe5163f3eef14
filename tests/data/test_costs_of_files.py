"""Small files that would keep a decoder busy for long are refused at once; what programs really write is not."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian
from tests.data.dicom_files import dicom_bytes, jpeg_dicom, make_dicom
from tests.data.png_chunks import join_chunks, split_chunks
from tests.data.seed_files import encoded

from pacx.data.images import ImageError, read_cxr

GRAY = (np.arange(48, dtype=np.uint8) * 5).reshape(8, 6)


@pytest.fixture(autouse=True)
def within_two_seconds() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < 2


def progressive(*, num_scans: int, size: tuple[int, int]) -> bytes:
    """A progressive JPEG whose last scan is sent again and again."""
    data = encoded(Image.new("L", size, 100), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * num_scans + b"\xff\xd9"


def test_a_large_jpeg_of_very_many_scans_is_refused() -> None:
    data = progressive(num_scans=10_000, size=(1500, 1000))
    with pytest.raises(ImageError, match=r"1,500,000 pixels in 10,006 scans; allowed: 1,066"):
        read_cxr(data)
    assert read_cxr(progressive(num_scans=20, size=(1500, 1000))).pixels.shape == (1000, 1500)


def test_such_a_jpeg_inside_a_dicom_is_refused() -> None:
    ds = jpeg_dicom(np.zeros((1000, 1500), dtype=np.uint8))
    ds.PixelData = encapsulate([progressive(num_scans=10_000, size=(1500, 1000))])
    with pytest.raises(ImageError, match="scans; allowed: 1,066"):
        read_cxr(dicom_bytes(ds))


def test_a_jpeg_whose_header_declares_far_more_than_there_is_is_refused() -> None:
    """Found by fuzzing: 636 bytes read as 90 million gray pixels, in seconds."""
    data = encoded(GRAY, "JPEG")
    size = data.index(b"\xff\xc0") + 5
    with pytest.raises(ImageError, match="81,000,000 pixels, which take at least 158,203 bytes"):
        read_cxr(data[:size] + struct.pack(">HH", 9000, 9000) + data[size + 4 :])
    for options in ({}, {"progressive": True, "optimize": True}):  # nothing packs better than one gray
        blank = encoded(Image.new("L", (4000, 4000), 77), "JPEG", **options)
        assert read_cxr(blank).pixels.shape == (4000, 4000)


def test_a_jpeg_of_very_many_exif_blocks_is_refused() -> None:
    data = encoded(GRAY, "JPEG")
    block = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0" + bytes(65_527)
    with pytest.raises(ImageError, match="more than 64 Exif blocks"):
        read_cxr(data[:2] + block * 1600 + data[2:])
    assert read_cxr(data[:2] + block * 3 + data[2:]).pixels.shape == (8, 6)


def test_a_png_of_very_many_colour_profiles_or_chunks_is_refused() -> None:
    header, *rest = split_chunks(encoded(GRAY, "PNG"))
    profile = (b"iCCP", b"name\0\0" + zlib.compress(bytes(10**6)))
    with pytest.raises(ImageError, match="more than 16 colour profiles"):
        read_cxr(join_chunks([header, *[profile] * 2000, *rest]))
    with pytest.raises(ImageError, match="more than 100,000 chunks"):
        read_cxr(join_chunks([header, *[(b"teSt", b"")] * 100_001, *rest]))
    assert read_cxr(join_chunks([header, profile, *[(b"teSt", b"")] * 1000, *rest])).pixels.shape == (8, 6)


def test_a_tiff_of_very_many_pages_is_refused() -> None:
    page = Image.fromarray(GRAY)
    stream = BytesIO()
    page.save(stream, "TIFF", save_all=True, append_images=[page] * 1000)
    with pytest.raises(ImageError, match="more than 1,000 pages"):
        read_cxr(stream.getvalue(), frame=0)


def test_very_many_fragments_of_compressed_pixels_are_refused() -> None:
    ds = jpeg_dicom(GRAY)
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" * 120_000
    with pytest.raises(ImageError, match="more than 100,000 fragments"):
        read_cxr(dicom_bytes(ds))


def test_a_dicom_of_very_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacx.data.dicom_header.MAX_READS", 10_000)
    element = b"\x28\0\x02\0US\2\0\1\0"  # SamplesPerPixel
    data = dicom_bytes(make_dicom(GRAY, bits=8))
    start = data.index(b"\x28\0\x02\0US")
    with pytest.raises(ImageError, match="more than 5,000 elements"):
        read_cxr(data[:start] + element * 11_000 + data[start:])
    assert read_cxr(data[:start] + element * 2000 + data[start:]).pixels.shape == (8, 6)


def test_such_a_dicom_that_is_deflated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """800 kB that inflate to 800 MB of empty elements, within the limit of size, took three minutes."""
    monkeypatch.setattr("pacx.data.dicom_header.MAX_READS", 10_000)
    data = dicom_bytes(make_dicom(GRAY, bits=8, syntax=DeflatedExplicitVRLittleEndian))
    meta = data[: 144 + struct.unpack("<I", data[140:144])[0]]
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with pytest.raises(ImageError, match="more than 5,000 elements"):
        read_cxr(meta + deflater.compress(bytes(2**20)) + deflater.flush())


def test_a_look_up_table_sequence_of_very_many_items_is_refused() -> None:
    data = dicom_bytes(make_dicom(GRAY, bits=8))
    start = data.index(b"\xe0\x7f\x10\0OB")
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 300_000
    sequence = b"\x28\0\x10\x30SQ\0\0" + struct.pack("<I", len(items)) + items
    with pytest.raises(ImageError, match="VOILUTSequence has 2,400,000 bytes"):
        read_cxr(data[:start] + sequence + data[start:])
