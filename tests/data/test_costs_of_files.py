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
from tests.data.dicom_files import dicom_bytes, jpeg_dicom
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
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
    with pytest.raises(ImageError, match="more than 100,000 fragments"):
        read_cxr(dicom_bytes(ds))
