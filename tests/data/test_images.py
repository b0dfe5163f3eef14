import os
import struct
import subprocess
import sys
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicom_files import dicom_bytes, jpeg_dicom, make_dicom
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from tests.data.png_chunks import join_chunks, split_chunks

from pacx.data.images import ImageError, is_blank, read_cxr

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STEP = 1 / 255

# 8 rows x 6 columns, every gray level different: 0, 5, ..., 235. Not symmetric in any way.
GRAY = (np.arange(48, dtype=np.uint8) * 5).reshape(8, 6)


def phantom(height: int = 61, width: int = 47) -> np.ndarray:
    """A smooth picture in [0, 1] that reaches both ends."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(y / 9) + np.cos(x / 7) + 0.3 * np.sin(x * y / 200)
    return (waves - waves.min()) / np.ptp(waves)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(bits: int, colour_type: int, rows: np.ndarray, *, width: int, extra: bytes = b"") -> bytes:
    """Write a PNG by hand; rows: packed bytes, one line per row; extra: chunks between header and pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def transparent(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + b"tRNS" + value + struct.pack(">I", zlib.crc32(b"tRNS" + value))


def test_one_phantom_reads_the_same_from_every_kind_of_file() -> None:
    truth = phantom()
    eight, twelve, sixteen = (np.round(truth * (2**bits - 1)).astype(np.uint16) for bits in (8, 12, 16))
    files = {
        "8-bit PNG": encoded(eight.astype(np.uint8), "PNG"),
        "16-bit PNG": encoded(sixteen, "PNG"),
        "RGB PNG": encoded(Image.fromarray(eight.astype(np.uint8)).convert("RGB"), "PNG"),
        "gray palette PNG": encoded(Image.fromarray(eight.astype(np.uint8)).convert("P"), "PNG"),
        "8-bit TIFF": encoded(eight.astype(np.uint8), "TIFF"),
        "16-bit TIFF": encoded(sixteen, "TIFF", compression="tiff_lzw"),
        "float TIFF": encoded(truth.astype(np.float32), "TIFF"),
        "8-bit DICOM": dicom_bytes(make_dicom(eight.astype(np.uint8), bits=8)),
        "12-bit DICOM MONOCHROME2": dicom_bytes(make_dicom(twelve, bits=12)),
        "16-bit DICOM MONOCHROME2": dicom_bytes(make_dicom(sixteen, bits=16)),
        "16-bit DICOM MONOCHROME1": dicom_bytes(
            make_dicom(65535 - sixteen, bits=16, PhotometricInterpretation="MONOCHROME1")
        ),
        "12-bit DICOM with a window over everything": dicom_bytes(
            make_dicom(twelve, bits=12, WindowCenter=2048, WindowWidth=4096)
        ),
        "signed DICOM with a rescale": dicom_bytes(
            make_dicom((twelve.astype(np.int16) - 2048), bits=12, RescaleSlope="2", RescaleIntercept="-1024")
        ),
    }
    pictures = {name: read_cxr(data).pixels for name, data in files.items()}
    for name, pixels in pictures.items():
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous, name
        assert np.abs(pixels - truth).max() <= STEP / 2 + 1e-6, name
        assert pixels.min() == 0.0 and pixels.max() == 1.0, name


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_spans_zero_to_one(bits: int) -> None:
    largest = 2**bits - 1
    levels = np.arange(8, dtype=np.uint8) % (largest + 1)
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, -bits:].ravel())[None]
    image = read_cxr(png(bits, 0, packed, width=8))
    np.testing.assert_allclose(image.pixels[0], levels / largest, atol=1e-6)
    assert image.bit_depth == bits


def test_sixteen_bit_png_keeps_its_sixteen_bits() -> None:
    stored = np.array([[0, 1, 255, 256, 65534, 65535]], dtype=np.uint16)
    image = read_cxr(encoded(stored, "PNG"))
    np.testing.assert_array_equal(np.rint(image.pixels.astype(np.float64) * 65535), stored)
    assert image.bit_depth == 16 and image.steps == ("decoded PNG", "divided by 65535")


def test_gray_stored_as_colour_comes_back_exactly() -> None:
    every_level = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = every_level.astype(np.float32) / np.float32(255)
    gray = Image.fromarray(every_level)
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16))] * 3 + [Image.fromarray(255 - every_level)])
    for name, data in {
        "RGB": encoded(gray.convert("RGB"), "PNG"),
        "RGBA": encoded(gray.convert("RGBA"), "PNG"),
        "LA": encoded(gray.convert("LA"), "PNG"),
        "P": encoded(gray.convert("P"), "PNG"),
        "CMYK": encoded(cmyk, "TIFF"),
        "DICOM RGB": dicom_bytes(make_dicom(np.repeat(every_level[..., None], 3, axis=2), bits=8)),
    }.items():
        np.testing.assert_array_equal(read_cxr(data).pixels, expected, err_msg=name)


def test_colour_becomes_itu_601_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]]], dtype=np.uint8)
    expected = colours[0] @ np.array([0.299, 0.587, 0.114]) / 255
    for data in (encoded(colours, "PNG"), encoded(colours, "TIFF"), dicom_bytes(make_dicom(colours, bits=8))):
        image = read_cxr(data)
        np.testing.assert_allclose(image.pixels[0], expected, atol=STEP / 2)
        assert image.photometric == "RGB" and "ITU-R 601 luma" in image.steps


def test_colour_palette_becomes_luma() -> None:
    colours = np.zeros((4, 6, 3), dtype=np.uint8)
    colours[:, :3], colours[:, 3:] = (255, 0, 0), (30, 60, 90)
    image = read_cxr(encoded(Image.fromarray(colours).quantize(2), "PNG"))
    np.testing.assert_allclose(image.pixels, colours @ np.array([0.299, 0.587, 0.114]) / 255, atol=STEP / 2)
    assert image.photometric == "PALETTE COLOR"


def test_transparency_is_laid_over_black() -> None:
    gray = Image.fromarray(np.full((1, 3), 200, dtype=np.uint8))
    alpha = Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8))
    palette = Image.merge("LA", [gray, alpha]).convert("PA")
    palette.putalpha(alpha)
    expected = np.array([0, 200 * 128 / 255, 200]) / 255
    for data in (
        encoded(Image.merge("LA", [gray, alpha]), "PNG"),
        encoded(Image.merge("RGBA", [gray, gray, gray, alpha]), "PNG"),
        encoded(Image.merge("RGBA", [gray, gray, gray, alpha]), "TIFF"),
        encoded(palette, "TIFF"),
    ):
        image = read_cxr(data)
        np.testing.assert_allclose(image.pixels[0], expected, atol=1e-6)
        assert "transparency over black" in image.steps


def test_gray_that_is_already_multiplied_by_its_alpha_is_not_multiplied_again() -> None:
    gray, alpha = Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 128)
    data = bytearray(encoded(Image.merge("LA", [gray, alpha]), "TIFF"))
    entry = data.index(struct.pack("<HHIH", 338, 3, 1, 2))  # extra samples: 2 = alpha, 1 = associated alpha
    data[entry + 8] = 1
    try:
        Image.open(BytesIO(data)).close()
    except UnidentifiedImageError:
        pytest.skip("this Pillow does not know associated alpha with gray")
    np.testing.assert_allclose(read_cxr(bytes(data)).pixels * 255, 100, atol=1e-4)


def test_an_opaque_alpha_channel_is_not_mentioned() -> None:
    assert "transparency over black" not in read_cxr(encoded(Image.fromarray(GRAY).convert("LA"), "PNG")).steps


def test_transparent_gray_level_of_a_png_becomes_black() -> None:
    eight = np.array([[10, 200, 30]], dtype=np.uint8)
    image = read_cxr(encoded(eight, "PNG", transparency=200))
    np.testing.assert_allclose(image.pixels[0] * 255, [10, 0, 30], atol=1e-4)
    sixteen = np.array([[1000, 40000, 40001]], dtype=">u2")
    image = read_cxr(png(16, 0, sixteen, width=3, extra=transparent(struct.pack(">H", 40000))))
    np.testing.assert_allclose(image.pixels[0] * 65535, [1000, 0, 40001], atol=0.1)
    two_bits = np.array([[0b00_01_10_11]], dtype=np.uint8)
    image = read_cxr(png(2, 0, two_bits, width=4, extra=transparent(struct.pack(">H", 2))))
    np.testing.assert_allclose(image.pixels[0], [0, 1 / 3, 0, 1], atol=1e-6)
    one_bit = np.array([[0b01_000000]], dtype=np.uint8)
    image = read_cxr(png(1, 0, one_bit, width=2, extra=transparent(struct.pack(">H", 1))))
    np.testing.assert_array_equal(image.pixels[0], [0, 0])


def test_transparent_palette_entries_become_black() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    palette.putpalette([100, 100, 100, 150, 150, 150, 200, 200, 200])
    np.testing.assert_allclose(
        read_cxr(encoded(palette, "PNG", transparency=1)).pixels[0] * 255, [100, 0, 200], atol=1e-4
    )
    half = read_cxr(encoded(palette, "PNG", transparency=bytes([255, 0, 51])))
    np.testing.assert_allclose(half.pixels[0] * 255, [100, 0, 40], atol=1e-4)


def test_transparent_colour_of_a_png_becomes_black() -> None:
    colours = np.array([[[10, 20, 30], [200, 200, 200]]], dtype=np.uint8)
    image = read_cxr(encoded(colours, "PNG", transparency=(200, 200, 200)))
    np.testing.assert_allclose(image.pixels[0] * 255, [18, 0], atol=1)


def test_sixteen_bit_colour_png_is_read_within_one_gray_level() -> None:
    ramp = np.repeat(np.linspace(0, 65535, 9).astype(">u2")[None, :, None], 3, axis=2)
    image = read_cxr(png(16, 2, ramp.reshape(1, -1), width=9))
    np.testing.assert_allclose(image.pixels[0], np.linspace(0, 1, 9), atol=STEP)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_with_pillows_own_values(mode: str) -> None:
    gray = Image.fromarray(np.round(phantom() * 255).astype(np.uint8))
    data = encoded(gray.convert(mode), "JPEG", quality=95)
    image = read_cxr(data)
    np.testing.assert_allclose(image.pixels, np.asarray(Image.open(BytesIO(data)).convert("L")) / 255, atol=STEP)
    assert (image.format, image.bit_depth) == ("JPEG", 8)


def test_colour_jpeg_gives_its_luma() -> None:
    flat = np.broadcast_to(np.array([200, 100, 50], dtype=np.uint8), (16, 16, 3))
    np.testing.assert_allclose(read_cxr(encoded(flat, "JPEG", quality=100)).pixels * 255, 124.2, atol=1.5)


def test_adobe_rgb_jpeg_without_colour_transform_gives_its_luma() -> None:
    flat = np.broadcast_to(np.array([200, 100, 50], dtype=np.uint8), (16, 16, 3))
    np.testing.assert_allclose(
        read_cxr(encoded(flat, "JPEG", quality=100, keep_rgb=True)).pixels * 255, 124.2, atol=1.5
    )


def test_adobe_inverted_cmyk_jpeg_is_not_a_negative() -> None:
    gray = np.round(phantom() * 255).astype(np.uint8)
    zero = Image.new("L", gray.shape[::-1])
    cmyk = Image.merge("CMYK", [zero, zero, zero, Image.fromarray(255 - gray)])
    image = read_cxr(encoded(cmyk, "JPEG", quality=98))
    assert b"Adobe" in encoded(cmyk, "JPEG")
    np.testing.assert_allclose(image.pixels, gray / 255, atol=4 * STEP)
    assert image.photometric == "CMYK"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.kron(GRAY, np.ones((8, 8), dtype=np.uint8))
    # What a camera stores so that a viewer which obeys the tag sees `upright` (EXIF 2.3, tag 274).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    if kind == "JPEG":
        options["quality"] = 100
    image = read_cxr(encoded(np.ascontiguousarray(stored), kind, **options))
    np.testing.assert_allclose(image.pixels * 255, upright, atol=3)
    assert any("turned upright" in step for step in image.steps) == (orientation != 1)


def test_tiff_whose_white_is_zero_is_inverted() -> None:
    for stored, full in ((GRAY, 255), (GRAY.astype(np.uint16) * 200, 65535)):
        for compression in (None, "tiff_lzw"):
            image = read_cxr(white_is_zero(stored, compression))
            np.testing.assert_allclose(image.pixels, 1 - stored / full, atol=1e-6)
            assert image.photometric == "MONOCHROME1" and "inverted MONOCHROME1" in image.steps


def white_is_zero(stored: np.ndarray, compression: str | None) -> bytes:
    """Write a TIFF and turn its photometric tag (262, one SHORT) from 1 to 0 without touching the pixels."""
    data = bytearray(encoded(stored, "TIFF", compression=compression))
    entry = data.index(struct.pack("<HHIH", 262, 3, 1, 1))
    data[entry + 8] = 0
    return bytes(data)


def test_signed_sixteen_bit_tiff_spans_its_full_range() -> None:
    data = bytearray(encoded(np.array([[0, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16), "TIFF", tiffinfo={339: 1}))
    entry = data.index(struct.pack("<HHIH", 339, 3, 1, 1))
    data[entry + 8] = 2
    image = read_cxr(bytes(data))
    np.testing.assert_allclose(image.pixels[0], np.array([32768, 65535, 0, 32767]) / 65535, atol=1e-6)


def test_integers_of_32_bits_and_floats_beyond_one_are_stretched_and_say_so() -> None:
    for stored in (np.array([[-100, 0, 300]], dtype=np.int32), np.array([[-100, 0, 300]], dtype=np.float32)):
        image = read_cxr(encoded(stored, "TIFF"))
        np.testing.assert_allclose(image.pixels[0], [0, 0.25, 1], atol=1e-6)
        assert "stretched from -100..300" in image.steps


def test_floats_within_zero_and_one_are_taken_as_they_are() -> None:
    stored = np.array([[0.25, 0.5, 0.625]], dtype=np.float32)
    np.testing.assert_array_equal(read_cxr(encoded(stored, "TIFF")).pixels, stored)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_pixels_are_refused(wrong: float) -> None:
    with pytest.raises(ImageError, match="NaN or infinite"):
        read_cxr(encoded(np.array([[0.5, wrong]], dtype=np.float32), "TIFF"))


def test_a_page_of_several_must_be_chosen() -> None:
    data = encoded(Image.fromarray(GRAY), "TIFF", save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    with pytest.raises(ImageError, match="2 pages"):
        read_cxr(data)
    with pytest.raises(ImageError, match="allowed: 0 to 1"):
        read_cxr(data, frame=2)
    with pytest.raises(ImageError, match="allowed: 0 to 1"):
        read_cxr(data, frame=-1)
    np.testing.assert_allclose(read_cxr(data, frame=1).pixels, 1 - GRAY / 255, atol=1e-6)


def test_the_content_decides_the_format(tmp_path: Path) -> None:
    for name, data, kind in (
        ("a.png", dicom_bytes(make_dicom(GRAY, bits=8)), "DICOM"),
        ("b.dcm", encoded(GRAY, "PNG"), "PNG"),
        ("c", encoded(GRAY, "JPEG"), "JPEG"),
        ("d.jpg", encoded(GRAY, "TIFF"), "TIFF"),
        ("e.tif", dicom_bytes(make_dicom(GRAY, bits=8), preamble=False), "DICOM"),
        ("f.png", dicom_bytes(make_dicom(GRAY, bits=8), meta=False), "DICOM"),
    ):
        (tmp_path / name).write_bytes(data)
        assert read_cxr(tmp_path / name).format == kind
        assert read_cxr(str(tmp_path / name)).format == kind


def test_a_dicom_whose_preamble_is_a_tiff_header_is_a_dicom() -> None:
    data = dicom_bytes(make_dicom(GRAY, bits=8))
    both = b"II\x2a\x00" + data[4:]
    assert read_cxr(both).format == "DICOM"


def test_bytes_and_file_objects_are_sources_too(tmp_path: Path) -> None:
    data = encoded(GRAY, "PNG")
    (tmp_path / "a").write_bytes(data)
    stream = BytesIO(b"header" + data)
    stream.seek(6)
    with (tmp_path / "a").open("rb") as file:
        pictures = [read_cxr(source).pixels for source in (data, bytearray(data), stream, file)]
        assert not file.closed
    for pixels in pictures:
        np.testing.assert_array_equal(pixels, GRAY.astype(np.float32) / np.float32(255))


def test_a_pipe_is_a_source_too() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(encoded(GRAY, "PNG"))
    with os.fdopen(reading, "rb") as stream:
        assert read_cxr(stream).pixels.shape == (8, 6)


def test_a_text_stream_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with (tmp_path / "a.txt").open() as stream, pytest.raises(ImageError, match="'rb'"):
        read_cxr(stream)  # type: ignore[arg-type]


def test_what_is_no_file_gets_one_clear_paragraph(tmp_path: Path) -> None:
    text = tmp_path / "report.dcm"
    text.write_text("The heart is enlarged.\nNo effusion.\n")
    empty = tmp_path / "empty.png"
    empty.touch()
    os.mkfifo(tmp_path / "pipe")
    for source, words in (
        (text, "starts with the text 'The heart is enl'"),
        (empty, r"empty \(0 bytes\)"),
        (tmp_path, "a folder"),
        (tmp_path / "absent.png", "no such file"),
        (tmp_path / "pipe", "not a regular file"),
        ("a\0b", "cannot be opened"),
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a" + bytes(20), "Allowed: DICOM, PNG, JPEG and TIFF"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            read_cxr(source)
        assert "\n" not in str(caught.value)
        if isinstance(source, Path):
            assert str(source) in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), kind)
    with pytest.raises(ImageError, match="damaged, truncated"):
        read_cxr(data[: len(data) // 2])


def test_a_huge_png_header_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    rows = np.zeros((1, 1), dtype=np.uint8)
    header = struct.pack(">II", 40_000, 40_000)
    data = bytearray(png(8, 0, rows, width=1))
    data[16:24] = header
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match="40,000 rows x 40,000 columns, more than the 100,000,000"):
        read_cxr(bytes(data))


def test_the_limit_is_the_callers_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # someone else's setting
    for kind in ("PNG", "JPEG"):
        data = encoded(GRAY, kind)
        assert read_cxr(data, max_pixels=48).pixels.shape == (8, 6)
        with pytest.raises(ImageError, match="8 rows x 6 columns, more than the 47"):
            read_cxr(data, max_pixels=47)


def test_a_huge_tile_in_a_small_tiff_is_refused() -> None:
    tags = ImageFileDirectory_v2()
    for private in (65000, 65001):  # Pillow does not write the tile tags 322 and 323 itself
        tags[private] = 60_000
        tags.tagtype[private] = 4
    data = encoded(GRAY, "TIFF", tiffinfo=tags)
    for private, tile in ((65000, 322), (65001, 323)):
        data = data.replace(struct.pack("<HHI", private, 4, 1), struct.pack("<HHI", tile, 4, 1))
    with pytest.raises(ImageError, match="60,000 rows x 60,000 columns"):
        read_cxr(data)


def test_a_file_longer_than_the_limit_allows_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(200 * 2**20)  # sparse: takes no space
    with pytest.raises(ImageError, match="209,715,200 bytes"):
        read_cxr(tmp_path / "long.png", max_pixels=1000)


def test_the_depth_of_a_png_is_that_of_the_header_that_counts() -> None:
    """Found by fuzzing: a chunk before the header gave NaN, a second header pixels beyond 1."""
    header, *rest = split_chunks(encoded(np.full((4, 5), 40_000, dtype=np.uint16), "PNG"))
    other = (b"IHDR", header[1][:8] + b"\x08" + header[1][9:])
    for chunks in ([(b"teSt", b""), header, *rest], [other, header, *rest]):
        image = read_cxr(join_chunks(chunks))
        np.testing.assert_allclose(image.pixels, 40_000 / 65_535, atol=1e-6)
        assert image.bit_depth == 16


def test_a_tiff_whose_strips_do_not_cover_it_is_refused() -> None:
    """Found by fuzzing: Pillow leaves the rows that no strip has black."""
    data = encoded(GRAY, "TIFF")
    height = data.index(struct.pack("<HHI", 257, 4, 1)) + 8
    with pytest.raises(ImageError, match="its header says 6,000 pixels and 48 are there"):
        read_cxr(data[:height] + struct.pack("<I", 1000) + data[height + 4 :])


def test_an_unknown_choice_of_voi_is_refused() -> None:
    with pytest.raises(ImageError, match="allowed: auto, window, lut, none"):
        read_cxr(encoded(GRAY, "PNG"), voi="best")  # type: ignore[arg-type]


def test_blank_means_at_most_one_pixel_in_a_thousand_outside_two_gray_levels() -> None:
    pixels = np.full((100, 100), 0.3, dtype=np.float32)
    assert is_blank(pixels)
    pixels[0, :10] = 1.0
    assert is_blank(pixels)
    pixels[0, :11] = 1.0
    assert not is_blank(pixels)
    assert is_blank(np.zeros((10, 10), dtype=np.float32)) and is_blank(np.ones((10, 10), dtype=np.float32))
    assert is_blank(0.5 + 0.9 / 255 * np.random.default_rng(0).random((50, 50), dtype=np.float32))
    assert not is_blank(phantom().astype(np.float32))
    assert not is_blank((0.02 * phantom()).astype(np.float32))


def test_a_tall_image_is_blank_by_all_of_its_rows_wherever_the_content_lies() -> None:
    for first in (0, 1, 2, 399):  # three of these lie between the rows that are looked at first
        pixels = np.full((400, 10), 0.3, dtype=np.float32)
        pixels[first, :4] = 1.0
        assert is_blank(pixels)
        pixels[first, :5] = 1.0
        assert not is_blank(pixels)


def test_an_all_black_file_is_read_and_is_blank() -> None:
    image = read_cxr(encoded(np.zeros((8, 8), dtype=np.uint8), "PNG"))
    assert image.pixels.max() == 0 and is_blank(image)


def test_threads_read_the_same_pixels() -> None:
    files = [encoded(np.roll(GRAY, shift), "PNG") for shift in range(8)] + [dicom_bytes(make_dicom(GRAY, bits=8))]
    expected = [read_cxr(data).pixels for data in files]
    wrong: list[int] = []

    def read_all() -> None:
        wrong.extend(i for i, data in enumerate(files) if not np.array_equal(read_cxr(data).pixels, expected[i]))

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_imports_neither_torch_nor_pydicom_before_they_are_needed() -> None:
    code = "import sys, pacx.data.images; print(sorted({'torch', 'pydicom', 'scipy', 'pandas'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_decoding_does_not_import_torch() -> None:
    code = "import sys, pacx.data.dicom, pacx.preprocess; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def damaged(data: bytes, rng: np.random.Generator, kind: int) -> bytes:
    """Cut the end off, change bytes anywhere, flip a bit in the header, or take a piece out."""
    position = int(rng.integers(0, len(data)))
    if kind == 0:
        return data[:position]
    changed = bytearray(data)
    if kind == 1:
        for index in rng.integers(0, len(data), 4):
            changed[index] = int(rng.integers(0, 256))
    elif kind == 2:
        changed[position % 400 % len(data)] ^= 1 << int(rng.integers(0, 8))
    else:
        del changed[position : position + int(rng.integers(1, 24))]
    return bytes(changed)


def seeds() -> dict[str, bytes]:
    gray = np.round(phantom(24, 20) * 255).astype(np.uint8)
    sixteen = gray.astype(np.uint16) * 257
    image = Image.fromarray(gray)
    exif = Image.Exif()
    exif[274] = 6
    rle = make_dicom(sixteen, bits=16)
    rle.compress(RLELossless)
    return {
        "PNG": encoded(image, "PNG"),
        "PNG 16 bit": encoded(sixteen, "PNG"),
        "PNG palette": encoded(image.convert("RGB").quantize(8), "PNG", transparency=3),
        "JPEG": encoded(image, "JPEG", exif=exif),
        "JPEG progressive": encoded(image.convert("RGB"), "JPEG", progressive=True),
        "JPEG CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "TIFF": encoded(sixteen, "TIFF"),
        "TIFF LZW": encoded(image, "TIFF", compression="tiff_lzw"),
        "TIFF float": encoded(gray.astype(np.float32) / 255, "TIFF"),
        "DICOM": dicom_bytes(make_dicom(sixteen, bits=16, WindowCenter=30000, WindowWidth=60000, PixelPaddingValue=0)),
        "DICOM bare": dicom_bytes(make_dicom(gray, bits=8, syntax=ImplicitVRLittleEndian), meta=False),
        "DICOM deflated": dicom_bytes(make_dicom(gray, bits=8, syntax=DeflatedExplicitVRLittleEndian)),
        "DICOM RLE": dicom_bytes(rle),
        "DICOM JPEG": dicom_bytes(jpeg_dicom(gray)),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(seeds()))
def test_damaged_files_give_an_image_or_an_image_error_and_nothing_else(name: str) -> None:
    rng = np.random.default_rng(list(name.encode()))
    data = seeds()[name]
    refused = 0
    for round_ in range(80):
        try:
            image = read_cxr(damaged(data, rng, round_ % 4), max_pixels=100_000)
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 900
        else:
            assert image.pixels.ndim == 2 and image.pixels.dtype == np.float32
            assert image.pixels.min() >= 0 and image.pixels.max() <= 1  # fails for NaN, too
    assert refused >= 10


@pytest.mark.parametrize("name", ["00000773_001.png", "00002070_003.png", "00870a9c.jpg"])
def test_real_full_size_radiographs_read_as_pillow_shows_them(name: str) -> None:
    path = SHARED / "cxr" / "fullsize" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    image = read_cxr(path)
    np.testing.assert_allclose(image.pixels, np.asarray(Image.open(path).convert("L")) / 255, atol=1e-6)
    assert not is_blank(image)


def test_real_one_bit_mask_reads_as_zeros_and_ones() -> None:
    paths = sorted((SHARED / "seg" / "masks").glob("*.png"))
    if not paths:
        pytest.skip(f"no masks in {SHARED / 'seg' / 'masks'}")
    assert set(np.unique(read_cxr(paths[0]).pixels)) == {0.0, 1.0}
