import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import dicom_bytes, jpeg_dicom, lookup_table, make_dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, get_decoder
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pacx.data.images import ImageError, read_cxr
from pacx.errors import MissingExtraError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "cxr" / "dicom" / "RG1_UNCR.dcm"

# 12-bit values in every part of the range, ends included; an odd number of pixels.
TWELVE = np.linspace(0, 4095, 77).astype(np.uint16).reshape(7, 11)
EIGHT = np.linspace(0, 255, 77).astype(np.uint8).reshape(7, 11)


def read(stored: np.ndarray, *, bits: int, voi: str = "auto", **elements: object) -> np.ndarray:
    return read_cxr(dicom_bytes(make_dicom(stored, bits=bits, **elements)), voi=voi).pixels


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_transfer_syntaxes_read_the_same(syntax: str) -> None:
    image = read_cxr(dicom_bytes(make_dicom(TWELVE, bits=12, syntax=syntax)))
    np.testing.assert_allclose(image.pixels, TWELVE / 4095, atol=1e-6)
    assert (image.format, image.bit_depth, image.photometric) == ("DICOM", 12, "MONOCHROME2")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_meta_group_reads_the_same(syntax: str) -> None:
    ds = make_dicom(TWELVE, bits=12, syntax=syntax)
    np.testing.assert_allclose(read_cxr(dicom_bytes(ds, meta=False)).pixels, TWELVE / 4095, atol=1e-6)


def test_a_file_without_preamble_or_transfer_syntax_reads_the_same() -> None:
    ds = make_dicom(TWELVE, bits=12)
    np.testing.assert_allclose(read_cxr(dicom_bytes(ds, preamble=False)).pixels, TWELVE / 4095, atol=1e-6)
    data = dicom_bytes(ds)
    element = data.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack("<H", data[element + 6 : element + 8])[0]
    without = data[:element] + data[element + 8 + length :]
    np.testing.assert_allclose(read_cxr(without).pixels, TWELVE / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_reads_the_same(syntax: str) -> None:
    if not get_decoder(syntax).is_available:
        pytest.skip("needs pacx[dicom]")
    large = np.tile(TWELVE, (8, 6))  # the JPEG 2000 encoder wants at least 32 pixels in each direction
    signed, eight = large.astype(np.int16) - 2048, np.tile(EIGHT, (8, 6))
    for stored, bits, full in ((large, 12, 4095), (signed, 12, 4095), (eight, 8, 255)):
        ds = make_dicom(stored, bits=bits)
        ds.compress(syntax)
        expected = (stored - float(stored.min())) / full
        np.testing.assert_allclose(read_cxr(dicom_bytes(ds)).pixels, expected, atol=1e-6)


def test_jpeg_compression_reads_within_its_loss() -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))
    image = read_cxr(dicom_bytes(jpeg_dicom(smooth)))
    np.testing.assert_allclose(image.pixels, smooth / 255, atol=3 / 255)
    assert image.steps[0] == "decoded JPEG Baseline (Process 1)"


def pydicoms_own(name: str) -> Path:
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not path.exists():
        pytest.skip(f"this pydicom has no {name}")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_one_real_picture_in_six_transfer_syntaxes_reads_as_pydicom_windows_it(name: str) -> None:
    path = pydicoms_own(name)
    ds = pydicom.dcmread(path)
    if not get_decoder(ds.file_meta.TransferSyntaxUID).is_available:
        pytest.skip("needs pacx[dicom]")
    windowed = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    np.testing.assert_allclose(read_cxr(path).pixels, (windowed + 2**15) / (2**16 - 1), atol=1e-6)


def test_a_real_palette_picture_reads_as_pydicom_colours_it() -> None:
    path = pydicoms_own("examples_palette.dcm")
    ds = pydicom.dcmread(path)
    colours = apply_color_lut(ds.pixel_array, ds) / 65535
    image = read_cxr(path)
    np.testing.assert_allclose(image.pixels, colours @ np.array([0.299, 0.587, 0.114]), atol=1e-4)
    assert image.photometric == "PALETTE COLOR"


def test_monochrome1_is_inverted() -> None:
    image = read_cxr(dicom_bytes(make_dicom(TWELVE, bits=12, PhotometricInterpretation="MONOCHROME1")))
    np.testing.assert_allclose(image.pixels, 1 - TWELVE / 4095, atol=1e-6)
    assert image.steps[-1] == "inverted MONOCHROME1"


def test_signed_pixels_span_the_range_of_their_bits() -> None:
    signed = np.array([[-2048, -1, 0, 2047]], dtype=np.int16)
    np.testing.assert_allclose(read(signed, bits=12)[0], np.array([0, 2047, 2048, 4095]) / 4095, atol=1e-6)
    np.testing.assert_allclose(read(signed, bits=16)[0], (signed[0] + 32768.0) / 65535, atol=1e-6)
    bytes_ = np.array([[-128, 0, 127]], dtype=np.int8)
    np.testing.assert_allclose(read(bytes_, bits=8)[0], [0, 128 / 255, 1], atol=1e-6)


def test_unused_bits_are_dropped() -> None:
    junk = TWELVE | 0xA000
    np.testing.assert_allclose(read(junk, bits=12), TWELVE / 4095, atol=1e-6)
    positive_with_clear_top = np.array([[0x0FFF]], dtype=np.int16)  # -1 in 12 bits whose upper bits were not extended
    np.testing.assert_allclose(read(positive_with_clear_top, bits=12), 2047 / 4095, atol=1e-6)


def test_a_high_bit_at_the_top_of_the_word_is_respected() -> None:
    np.testing.assert_allclose(read(TWELVE << 4, bits=12, HighBit=15), TWELVE / 4095, atol=1e-6)


def test_thirty_two_bit_and_one_bit_pixels_span_zero_to_one() -> None:
    stored = np.array([[0, 2**31, 2**32 - 1]], dtype=np.uint32)
    np.testing.assert_allclose(read(stored, bits=32)[0], [0, 0.5, 1], atol=1e-6)
    ds = make_dicom(np.zeros((2, 4), dtype=np.uint8), bits=1, BitsAllocated=1, PixelData=b"\xa5\x00")
    np.testing.assert_array_equal(read_cxr(dicom_bytes(ds)).pixels, [[1, 0, 1, 0], [0, 1, 0, 1]])


def test_linear_window_follows_the_formula_of_the_standard() -> None:
    pixels = read(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1001)
    # PS3.3 C.11.2.1.2.1 with c - 0.5 = 1999.5 and w - 1 = 1000
    np.testing.assert_allclose(pixels, np.clip((TWELVE - 1999.5) / 1000 + 0.5, 0, 1), atol=1e-6)


def test_linear_window_of_width_one_is_a_threshold() -> None:
    stored = np.array([[9, 10, 11]], dtype=np.uint16)
    np.testing.assert_array_equal(read(stored, bits=12, WindowCenter=10, WindowWidth=1)[0], [0, 1, 1])


def test_linear_exact_and_sigmoid_windows_follow_the_formulas_of_the_standard() -> None:
    exact = read(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact, np.clip((TWELVE - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-6)
    sigmoid = read(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-4 * (TWELVE - 2000.0) / 1000)), atol=1e-6)


def test_the_window_comes_after_the_rescale() -> None:
    pixels = read(
        TWELVE,
        bits=12,
        RescaleSlope="0.5",
        RescaleIntercept="-1000",
        WindowCenter=0,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(pixels, np.clip((TWELVE * 0.5 - 1000) / 1000 + 0.5, 0, 1), atol=1e-6)


def test_the_first_of_several_windows_counts() -> None:
    several = read(TWELVE, bits=12, WindowCenter=[2000, 100], WindowWidth=[1001, 200])
    np.testing.assert_array_equal(several, read(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1001))


def test_voi_chooses_between_table_window_and_everything() -> None:
    table = lookup_table([0, 0, 1023], first=1000, bits=10)
    ds = make_dicom(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1001, VOILUTSequence=[table])
    data = dicom_bytes(ds)
    np.testing.assert_array_equal(read_cxr(data, voi="lut").pixels, TWELVE >= 1002)
    np.testing.assert_array_equal(read_cxr(data).pixels, read_cxr(data, voi="lut").pixels)
    np.testing.assert_allclose(read_cxr(data, voi="none").pixels, TWELVE / 4095, atol=1e-6)
    expected = np.clip((TWELVE - 1999.5) / 1000 + 0.5, 0, 1)
    np.testing.assert_allclose(read_cxr(data, voi="window").pixels, expected, atol=1e-6)


@pytest.mark.parametrize("voi", ["window", "lut"])
def test_a_window_or_table_that_is_not_there_is_named(voi: str) -> None:
    with pytest.raises(ImageError, match=f"voi='{voi}'"):
        read(TWELVE, bits=12, voi=voi)


def test_an_invalid_window_is_passed_over_with_a_word_or_refused_when_asked_for() -> None:
    data = dicom_bytes(make_dicom(TWELVE, bits=12, WindowCenter=0, WindowWidth=0))
    image = read_cxr(data)
    np.testing.assert_allclose(image.pixels, TWELVE / 4095, atol=1e-6)
    assert "is not valid" in image.steps[-1]
    with pytest.raises(ImageError, match="width 0"):
        read_cxr(data, voi="window")


def test_tables_map_as_pydicom_maps_them() -> None:
    rng = np.random.default_rng(0)
    modality = sorted(rng.integers(0, 65536, 3000).tolist())
    voi = sorted(rng.integers(0, 4096, 5000).tolist())
    voi[-1] = 4095
    ds = make_dicom(
        TWELVE,
        bits=12,
        ModalityLUTSequence=[lookup_table(modality, first=500, bits=16)],
        VOILUTSequence=[lookup_table(voi, first=20000, bits=12)],
    )
    data = dicom_bytes(ds)
    reread = pydicom.dcmread(BytesIO(data))
    expected = apply_voi(apply_modality_lut(TWELVE, reread), reread) / 4095
    np.testing.assert_allclose(read_cxr(data).pixels, expected, atol=1e-6)


def test_a_table_of_twelve_bits_that_declares_sixteen_still_reaches_white() -> None:
    table = lookup_table(list(range(4096)), first=0, bits=16)
    np.testing.assert_allclose(read(TWELVE, bits=12, VOILUTSequence=[table]), TWELVE / 4095, atol=1e-6)


def test_a_modality_table_without_window_is_scaled_by_its_own_range() -> None:
    table = lookup_table([100, 200, 300], first=0, bits=16)
    stored = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    np.testing.assert_allclose(read(stored, bits=12, ModalityLUTSequence=[table])[0], [0, 0.5, 1, 1], atol=1e-6)


def test_a_rescale_without_window_cancels_out_but_a_negative_slope_inverts() -> None:
    shifted = read(TWELVE, bits=12, RescaleSlope="3.5", RescaleIntercept="-1024")
    np.testing.assert_allclose(shifted, TWELVE / 4095, atol=1e-6)
    inverted = read(TWELVE, bits=12, RescaleSlope="-1", RescaleIntercept="4095")
    np.testing.assert_allclose(inverted, 1 - TWELVE / 4095, atol=1e-6)


def test_a_rescale_slope_of_zero_is_refused() -> None:
    with pytest.raises(ImageError, match="slope 0"):
        read(TWELVE, bits=12, RescaleSlope="0", RescaleIntercept="1")


def test_a_rescale_that_overflows_is_refused() -> None:
    with pytest.raises(ImageError, match="overflow"):
        read(TWELVE, bits=12, RescaleSlope="1e308", RescaleIntercept="0")


def test_padding_becomes_black_in_either_polarity() -> None:
    stored = np.array([[0, 100, 4000, 4095]], dtype=np.uint16)
    pixels = read(stored, bits=12, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(pixels[0], [0, 1 - 100 / 4095, 1 - 4000 / 4095, 0], atol=1e-6)
    pixels = read(stored, bits=12, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
    np.testing.assert_allclose(pixels[0], [0, 100 / 4095, 0, 0], atol=1e-6)


def test_padding_outside_the_stored_bits_is_found() -> None:
    signed = np.array([[-2000, 0, 500]], dtype=np.int16)  # -2000 does not fit into 11 bits
    image = read_cxr(dicom_bytes(make_dicom(signed, bits=11, PixelPaddingValue=-2000)))
    np.testing.assert_allclose(image.pixels[0], np.array([0, 1024, 1524]) / 2047 * [0, 1, 1], atol=1e-6)
    assert "padding -2000..-2000 set to black (33.3% of the pixels)" in image.steps
    unsigned = np.array([[63536, 100]], dtype=np.uint16)
    np.testing.assert_allclose(read(unsigned, bits=12, PixelPaddingValue=63536)[0], [0, 100 / 4095], atol=1e-6)


def test_colour_secondary_captures_become_luma() -> None:
    colours = np.array([[[200, 100, 50], [255, 255, 255]], [[0, 0, 0], [10, 250, 30]]], dtype=np.uint8)
    expected = colours @ np.array([0.299, 0.587, 0.114]) / 255
    rgb = make_dicom(colours, bits=8)
    np.testing.assert_allclose(read_cxr(dicom_bytes(rgb)).pixels, expected, atol=0.5 / 255 + 1e-6)
    planar = make_dicom(colours, bits=8, PlanarConfiguration=1, PixelData=colours.transpose(2, 0, 1).tobytes())
    np.testing.assert_allclose(read_cxr(dicom_bytes(planar)).pixels, expected, atol=0.5 / 255 + 1e-6)
    ycbcr = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    ybr = make_dicom(colours, bits=8, PhotometricInterpretation="YBR_FULL", PixelData=ycbcr.tobytes())
    image = read_cxr(dicom_bytes(ybr))
    np.testing.assert_allclose(image.pixels, expected, atol=2 / 255)
    assert image.photometric == "YBR_FULL"


def test_ybr_full_422_is_read_although_it_is_shorter() -> None:
    luma = np.array([[10, 20, 30, 40], [50, 60, 70, 80]], dtype=np.uint8)
    pairs = b"".join(bytes([a, b, 128, 128]) for a, b in luma.reshape(-1, 2))
    colour = np.zeros((2, 4, 3), dtype=np.uint8)
    ds = make_dicom(colour, bits=8, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs)
    np.testing.assert_allclose(read_cxr(dicom_bytes(ds)).pixels, luma / 255, atol=1.01 / 255)


@pytest.mark.parametrize(("bits", "entry_bytes"), [(8, 1), (16, 2)])
def test_a_gray_palette_is_lossless(bits: int, entry_bytes: int) -> None:
    levels = np.array([0, 10, 200, 255]) * (1 if bits == 8 else 257)
    entries = levels.astype(f"<u{entry_bytes}").tobytes()
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = entries
    stored = np.array([[3, 1], [2, 0]], dtype=np.uint8)
    np.testing.assert_allclose(read(stored, bits=8, **elements) * 255, [[255, 10], [200, 0]], atol=1e-3)


def test_a_frame_of_several_must_be_chosen() -> None:
    frames = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2])
    data = dicom_bytes(make_dicom(frames, bits=8))
    with pytest.raises(ImageError, match="3 frames"):
        read_cxr(data)
    for frame in (-1, 3):
        with pytest.raises(ImageError, match=f"frame={frame}; allowed: 0 to 2"):
            read_cxr(data, frame=frame)
    image = read_cxr(data, frame=1)
    np.testing.assert_allclose(image.pixels, 1 - EIGHT / 255, atol=1e-6)
    assert "frame 1 of 3" in image.steps
    ds = make_dicom(frames, bits=8)
    ds.compress(RLELossless)
    np.testing.assert_array_equal(read_cxr(dicom_bytes(ds), frame=1).pixels, image.pixels)


def test_view_and_spacing_are_kept() -> None:
    image = read_cxr(dicom_bytes(make_dicom(EIGHT, bits=8, ViewPosition="PA ", PixelSpacing=["0.2", "0.1"])))
    assert image.view == "PA" and image.pixel_spacing == (0.2, 0.1)
    image = read_cxr(dicom_bytes(make_dicom(EIGHT, bits=8, PixelSpacing=["0", "0"], ImagerPixelSpacing=[0.14, 0.14])))
    assert image.pixel_spacing == (0.14, 0.14) and image.steps[-1] == "pixel spacing is ImagerPixelSpacing"
    image = read_cxr(dicom_bytes(make_dicom(EIGHT, bits=8)))
    assert image.view is None and image.pixel_spacing is None


def test_the_size_limit_counts_rows_columns_samples_and_frames() -> None:
    frames = dicom_bytes(make_dicom(np.zeros((3, 7, 11), dtype=np.uint8), bits=8))
    assert read_cxr(frames, frame=0, max_pixels=231).pixels.shape == (7, 11)
    with pytest.raises(ImageError, match="7 rows x 11 columns x 3 frames, more than the 230"):
        read_cxr(frames, frame=0, max_pixels=230)
    colour = dicom_bytes(make_dicom(np.zeros((7, 11, 3), dtype=np.uint8), bits=8))
    with pytest.raises(ImageError, match="x 3 samples"):
        read_cxr(colour, max_pixels=230)


def test_a_huge_header_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacx.data.dicom._decode", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageError, match="60,000 rows x 60,000 columns"):
        read(EIGHT, bits=8, Rows=60_000, Columns=60_000)


def test_pixel_data_shorter_than_declared_is_truncated() -> None:
    data = dicom_bytes(make_dicom(TWELVE, bits=12))
    with pytest.raises(ImageError, match="declares 154 bytes of pixels and 144 are there"):
        read_cxr(data[:-10])
    with pytest.raises(ImageError, match="no pixel data"):
        read_cxr(data[:300])


def test_a_compressed_picture_of_another_size_than_the_header_says_is_refused() -> None:
    with pytest.raises(ImageError, match="compressed picture inside is 7 x 11"):
        read_cxr(dicom_bytes(jpeg_dicom(EIGHT, Rows=70, Columns=110)))
    if get_decoder(JPEG2000Lossless).is_available:
        ds = make_dicom(np.tile(TWELVE, (8, 6)), bits=12)
        ds.compress(JPEG2000Lossless)
        ds.Rows = 5
        with pytest.raises(ImageError, match="compressed picture inside is 56 x 66"):
            read_cxr(dicom_bytes(ds))


def test_a_deflated_bomb_is_not_inflated() -> None:
    data = dicom_bytes(make_dicom(EIGHT, bits=8, syntax=DeflatedExplicitVRLittleEndian))
    meta = data[: 144 + struct.unpack("<I", data[140:144])[0]]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = meta + deflater.compress(bytes(80 * 2**20)) + deflater.flush()
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="when inflated"):
        read_cxr(bomb, max_pixels=1000)


def test_missing_decoders_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    ds = make_dicom(EIGHT, bits=8, syntax=JPEGLSLossless, PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(MissingExtraError, match=r"JPEG-LS Lossless.*pip install '\.\[dicom\]'"):
        read_cxr(dicom_bytes(ds))


def test_video_is_refused_by_name() -> None:
    ds = make_dicom(EIGHT, bits=8, syntax=MPEG4HP41, PixelData=encapsulate([b"\0\0\0\1"]))
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(ImageError, match="MPEG-4"):
        read_cxr(dicom_bytes(ds))


def test_compressed_pixels_without_a_transfer_syntax_are_refused() -> None:
    ds = jpeg_dicom(EIGHT)
    data = dicom_bytes(ds)
    element = data.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack("<H", data[element + 6 : element + 8])[0]
    with pytest.raises(ImageError, match="no transfer syntax"):
        read_cxr(data[:element] + data[element + 8 + length :])


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"SamplesPerPixel": 2}, "2 samples"),
        ({"BitsStored": 9}, "9 bits stored in 8"),
        ({"BitsAllocated": 12}, "12 allocated"),
        ({"Rows": 0}, "0 rows"),
        ({"Rows": None}, "no Rows"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 2}, "CUBIC"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
    ],
)
def test_headers_that_make_no_sense_are_refused(elements: dict[str, object], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read(EIGHT, bits=8, **elements)


def test_a_dicom_that_is_no_image_says_what_it_is() -> None:
    ds = make_dicom(EIGHT, bits=8, Modality="SR")
    del ds.PixelData
    with pytest.raises(ImageError, match=r"no pixel data \(modality SR\)"):
        read_cxr(dicom_bytes(ds))


def test_the_real_computed_radiograph_has_bright_bones_and_dark_lungs() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    image = read_cxr(REAL)
    stored = pydicom.dcmread(REAL).pixel_array.astype(np.float64)
    expected = 1 - np.clip((stored - 14999.5) / 29999 + 0.5, 0, 1)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert image.pixels.shape == (1955, 1841)
    assert (image.bit_depth, image.photometric, image.view) == (15, "MONOCHROME1", "PA")
    assert image.pixel_spacing is None  # the file says 0 mm
    lung, spine = image.pixels[700:800, 450:550].mean(), image.pixels[700:800, 870:970].mean()
    assert spine > lung + 0.2
