import numpy as np
import pytest

from pacx.data.images import ImageError, read_cxr

MEAN = np.float32([0.485, 0.456, 0.406])[:, None, None]
STD = np.float32([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def gray():
    """Every 8-bit level, (2, 32, 40)."""
    return (np.arange(2 * 32 * 40) % 256).reshape(2, 32, 40).astype(np.uint8)


def save(tmp_path, values):
    np.save(tmp_path / "cxr.npy", values)
    return str(tmp_path / "cxr.npy")


def test_imagenets_normalisation_is_undone_exactly_to_the_gray_level(gray, tmp_path):
    unit = gray.astype(np.float32) / np.float32(255)
    file = save(tmp_path, (unit[:, None] - MEAN) / STD)
    image = read_cxr(f"{file}::1", stored="imagenet")
    assert image.pixels.shape == (32, 40) and image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels, unit[1], atol=1e-6)
    np.testing.assert_array_equal(np.rint(image.pixels * 255), gray[1])
    assert image.pixels.min() >= 0 and image.pixels.max() <= 1
    assert image.format == "NPY" and image.steps == ("row 1 of a float32 array", "ImageNet normalisation undone")


@pytest.mark.parametrize("shape", [(2, 32, 40), (2, 1, 32, 40), (2, 3, 32, 40)])
def test_gray_levels_fill_the_range_of_their_type(gray, shape, tmp_path):
    values = np.broadcast_to(gray.reshape(2, 1, 32, 40) if len(shape) == 4 else gray, shape)
    for stored in (values, values.astype(np.uint16) * 257, values.astype(np.float64) / 255):
        image = read_cxr(f"{save(tmp_path, stored)}::1")
        np.testing.assert_allclose(image.pixels, gray[1] / 255, atol=1e-7)


def test_a_mask_may_be_true_and_false(gray, tmp_path):
    image = read_cxr(f"{save(tmp_path, gray > 100)}::0")
    np.testing.assert_array_equal(image.pixels, gray[0] > 100)


def test_channels_that_disagree_are_refused(gray, tmp_path):
    unit = gray[:, None].astype(np.float32) / np.float32(255)
    file = save(tmp_path, (unit - 0.45) / 0.22 * np.ones((3, 1, 1), np.float32))  # one mean and std for all channels
    with pytest.raises(ImageError, match=r"cxr\.npy::0: Its (channels differ|values go from)"):
        read_cxr(f"{file}::0", stored="imagenet")
    colour = np.zeros((1, 3, 8, 8), np.float32)
    colour[:, 0] = 0.5
    with pytest.raises(ImageError, match=r"channels differ by up to 0\.5;"):
        read_cxr(f"{save(tmp_path, colour)}::0")


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, 255.0])
def test_values_outside_0_to_1_are_refused(bad, tmp_path):
    values = np.full((1, 8, 8), 0.5, np.float32)
    values[0, 3, 3] = bad
    with pytest.raises(ImageError, match="values go from"):
        read_cxr(f"{save(tmp_path, values)}::0")


def test_rounding_just_outside_0_to_1_is_clipped(tmp_path):
    values = np.float32([[[-0.0005, 1.0005]]])
    assert read_cxr(f"{save(tmp_path, values)}::0").pixels.tolist() == [[0, 1]]


def test_normalised_values_are_not_taken_for_gray_ones(gray, tmp_path):
    normalised = (gray[:, None].astype(np.float32) / np.float32(255) - MEAN) / STD
    with pytest.raises(ImageError, match="values go from"):
        read_cxr(f"{save(tmp_path, normalised)}::0")
    with pytest.raises(ImageError, match="1 channels of type uint8"):
        read_cxr(f"{save(tmp_path, gray)}::0", stored="imagenet")


def test_other_shapes_types_and_words_are_refused(gray, tmp_path):
    with pytest.raises(ImageError, match=r"shape \(32, 40, 3\); allowed: \(height, width\)"):
        read_cxr(f"{save(tmp_path, np.zeros((1, 32, 40, 3), np.uint8))}::0")
    with pytest.raises(ImageError, match="int64; allowed"):
        read_cxr(f"{save(tmp_path, gray.astype(np.int64))}::0")
    with pytest.raises(ImageError, match="stored='rgb'; allowed: gray, imagenet"):
        read_cxr(f"{save(tmp_path, gray)}::0", stored="rgb")
    with pytest.raises(ImageError, match="rows 0 to 1"):
        read_cxr(f"{save(tmp_path, gray)}::2")
    with pytest.raises(ImageError, match=r"NumPy array\. Name one of its rows"):
        read_cxr(save(tmp_path, gray))


def test_the_size_limit_holds_for_arrays_too(gray, tmp_path):
    with pytest.raises(ImageError, match="32 rows x 40 columns"):
        read_cxr(f"{save(tmp_path, gray)}::0", max_pixels=1000)
