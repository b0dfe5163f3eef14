import numpy as np
import pytest

from pacx.errors import PacxError
from pacx.preprocess import Preprocess, fit_square


def wide(height: int = 40, width: int = 80) -> np.ndarray:
    """A picture whose left quarter is 0.25, middle half 0.5 and right quarter 0.75."""
    pixels = np.full((height, width), 0.5, dtype=np.float32)
    pixels[:, : width // 4], pixels[:, -(width // 4) :] = 0.25, 0.75
    return pixels


def test_squash_keeps_the_whole_picture_and_changes_the_aspect_ratio() -> None:
    square = fit_square(wide(), 20, "squash")
    assert square.shape == (20, 20) and square.dtype == np.float32
    np.testing.assert_allclose(square[:, :4], 0.25, atol=1e-6)
    np.testing.assert_allclose(square[:, 7:13], 0.5, atol=1e-6)
    np.testing.assert_allclose(square[:, 16:], 0.75, atol=1e-6)


def test_crop_keeps_the_centre_square() -> None:
    square = fit_square(wide(), 20, "crop")
    np.testing.assert_allclose(square[:, 1:-1], 0.5, atol=1e-6)
    # The filter of an edge pixel reaches one source pixel over the edge, as if the crop came after the resizing.
    np.testing.assert_allclose(square[:, 0], 0.5 - 0.25 / 8, atol=1e-6)
    np.testing.assert_array_equal(fit_square(wide().T, 20, "crop"), square.T)


def test_crop_of_an_odd_margin_is_centred_to_half_a_pixel() -> None:
    ramp = np.tile(np.linspace(0, 1, 41, dtype=np.float32), (40, 1))
    cropped = fit_square(ramp, 10, "crop")
    np.testing.assert_allclose(cropped + cropped[:, ::-1], 1.0, atol=1e-6)


def test_pad_adds_equal_black_bars() -> None:
    square = fit_square(wide(), 20, "pad")
    np.testing.assert_array_equal(square[:5], 0)
    np.testing.assert_array_equal(square[15:], 0)
    np.testing.assert_allclose(square[5:15, 8:12], 0.5, atol=1e-6)
    np.testing.assert_array_equal(fit_square(wide().T, 20, "pad"), square.T)


def test_pad_puts_the_odd_pixel_at_the_bottom() -> None:
    square = fit_square(np.ones((1, 2), dtype=np.float32), 3, "pad")  # 1.5 rows round to 2
    np.testing.assert_array_equal(square[:, 0] > 0, [True, True, False])


def test_a_line_of_one_pixel_survives_padding() -> None:
    assert fit_square(np.ones((1, 1000), dtype=np.float32), 16, "pad").sum() == 16


@pytest.mark.parametrize("geometry", ["squash", "crop", "pad"])
def test_a_square_of_the_right_size_is_returned_as_it_is(geometry: str) -> None:
    pixels = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    np.testing.assert_array_equal(fit_square(pixels, 32, geometry), pixels)


def test_reduction_is_antialiased() -> None:
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)
    np.testing.assert_allclose(fit_square(checkerboard, 8, "squash")[1:-1, 1:-1], 0.5, atol=0.02)


def test_resized_values_stay_within_zero_and_one() -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (97, 61)).astype(np.float32)
    square = fit_square(pixels, 201, "squash")
    assert square.min() >= 0 and square.max() <= 1


def test_reads_pictures_that_are_views_with_strides() -> None:
    pixels = np.random.default_rng(2).random((20, 30), dtype=np.float32)
    np.testing.assert_array_equal(fit_square(pixels[::-1, ::2], 15), fit_square(pixels[::-1, ::2].copy(), 15))


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 8), (8,)])
def test_only_one_gray_picture_is_allowed(shape: tuple[int, ...]) -> None:
    with pytest.raises(PacxError, match="shape"):
        fit_square(np.zeros(shape, dtype=np.float32), 8, "squash")


def test_call_resizes_and_normalises_each_channel_with_its_own_numbers() -> None:
    preprocess = Preprocess(image_size=8, geometry="squash", mean=(0.5, 0.25), std=(0.25, 0.5))
    x = preprocess(np.full((16, 12), 0.75, dtype=np.float32))
    assert x.shape == (2, 8, 8) and x.dtype == np.float32 and preprocess.in_chans == 2
    np.testing.assert_allclose(x[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(x[1], 1.0, atol=1e-6)


def test_normalise_takes_a_batch() -> None:
    preprocess = Preprocess(image_size=4)
    batch = np.random.default_rng(0).random((3, 4, 4), dtype=np.float32)
    normalised = preprocess.normalise(batch)
    assert normalised.shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(normalised[1], preprocess(batch[1]))


def test_normalise_refuses_bytes_because_their_scale_would_be_a_guess() -> None:
    with pytest.raises(PacxError, match="255"):
        Preprocess().normalise(np.zeros((4, 4), dtype=np.uint8))


def test_settings_survive_the_way_through_a_dictionary() -> None:
    preprocess = Preprocess(image_size=320, geometry="pad", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert hash(Preprocess.from_dict(preprocess.to_dict())) == hash(preprocess)


def test_unknown_and_missing_keys_are_named() -> None:
    values = Preprocess().to_dict()
    values["size"] = values.pop("image_size")
    with pytest.raises(PacxError, match=r"unknown keys \['size'\], missing keys \['image_size'\]"):
        Preprocess.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"image_size": 224.0},
        {"image_size": True},
        {"geometry": "stretch"},
        {"mean": ()},
        {"mean": (0.5, 0.5)},
        {"mean": 0.5},
        {"mean": ("0.5",)},
        {"mean": (float("nan"),)},
        {"std": (0.0,)},
        {"std": (-1.0,)},
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PacxError, match="allowed"):
        Preprocess.from_dict(Preprocess().to_dict() | change)
