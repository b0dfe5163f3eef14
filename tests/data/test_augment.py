from __future__ import annotations

import numpy as np
import pytest
import torch

from pacx.data.augment import Augment, change, draw
from pacx.errors import PacxError

torch.set_num_threads(1)
SIZE = 64
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
BLOB = np.exp(-((ROWS - 24) ** 2 + (COLUMNS - 40) ** 2) / 150)
PIXELS = torch.from_numpy((BLOB * 255).astype(np.uint8))
MASK = torch.from_numpy(BLOB > 0.5)


def draw_one(image_id: str) -> np.ndarray:
    return draw(seed=0, epochs=[0], image_ids=[image_id])


def augmented(
    augment: Augment, image_id: str, size: int = SIZE, *, pixels: torch.Tensor = PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    image, mask = change(pixels[None], MASK[None], size=size, augment=augment, drawn=draw_one(image_id))
    return image[0, 0].numpy(), mask[0, 0].numpy()


def centre(weight: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: len(weight), : len(weight)]
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


def test_draws_are_pinned_across_machines_and_versions() -> None:
    drawn = draw(seed=1, epochs=[0, 2], image_ids=["x", "00001280_004"])
    np.testing.assert_array_equal(drawn[1, :3], PINNED)
    assert ((drawn >= 0) & (drawn < 1)).all()
    many = draw(seed=0, epochs=[0] * 500, image_ids=[str(number) for number in range(500)])
    np.testing.assert_allclose(many.mean(axis=0), 0.5, atol=0.06)  # 4 and a half standard errors
    np.testing.assert_allclose(np.corrcoef(many.T) - np.eye(many.shape[1]), 0, atol=0.22)


PINNED = [0.10281098243070541, 0.5115141157088806, 0.39825581517689923]


def test_nothing_is_changed_by_default() -> None:
    image, mask = augmented(Augment.none(), "a")
    np.testing.assert_array_equal(image, PIXELS.numpy().astype(np.float32) / 255)
    np.testing.assert_array_equal(mask, MASK.numpy())


def test_about_half_of_the_images_are_mirrored_exactly() -> None:
    plain = PIXELS.numpy().astype(np.float32) / 255
    images = [augmented(Augment.supervised(), str(number))[0] for number in range(200)]
    mirrored = [np.array_equal(image, plain[:, ::-1]) for image in images]
    assert all(flip or np.array_equal(image, plain) for flip, image in zip(mirrored, images, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_crop_magnifies_within_its_limits() -> None:
    augment = Augment(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))
    areas = [augmented(augment, str(number))[1].sum() for number in range(60)]
    assert max(areas) == pytest.approx(4 * MASK.sum().item(), rel=0.05)  # the blob wholly inside a quarter of the image
    shares = [_crop_share(Augment.pretrain(flip=False), str(number)) for number in range(100)]
    assert 0.48 < min(shares) < 0.6 and 0.9 < max(shares) < 1.01


def _crop_share(augment: Augment, image_id: str) -> float:
    """Area of a crop, measured on a ramp: the range of rows times the range of columns that it shows."""
    sides = []
    for ramp in (ROWS, COLUMNS):
        pixels = torch.from_numpy((ramp * 4).astype(np.uint8))
        image, _ = augmented(augment, image_id, pixels=pixels)
        sides.append((image.max() - image.min()).item() * 255 / 4 + 1)
    return sides[0] * sides[1] / SIZE**2


@pytest.mark.parametrize("augment", [Augment.pretrain(), Augment.distill(), Augment.segment()])
def test_the_mask_moves_with_the_image(augment: Augment) -> None:
    for number in range(30):
        image, mask = augmented(augment, str(number), size=48)
        assert set(np.unique(mask)) <= {0.0, 1.0}
        if mask.sum() > 0 and not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):
            bright = image > (image.max() + image.min()) / 2
            assert np.abs(centre(bright) - centre(mask)).max() < 1.5


def test_rotation_and_shift_stay_within_their_limits() -> None:
    shift = Augment(affine_probability=1.0, translate=0.1)
    moves = [centre(augmented(shift, str(number))[1]) - centre(MASK.numpy()) for number in range(60)]
    assert 4 < np.abs(moves).max() <= 0.1 * SIZE + 0.5
    turn = Augment(affine_probability=1.0, rotate=10.0)
    middle = np.array([31.5, 31.5])
    angles = []
    for number in range(60):
        before, after = centre(MASK.numpy()) - middle, centre(augmented(turn, str(number))[1]) - middle
        angles.append(np.degrees(np.arctan2(*after) - np.arctan2(*before)))
    assert 7 < np.abs(angles).max() < 11


def test_brightness_and_contrast_change_the_image_and_not_the_mask() -> None:
    image, mask = augmented(Augment(jitter_probability=1.0, brightness=0.2), "x")
    middle = (BLOB > 0.3) & (BLOB < 0.8)  # brighter pixels may be clipped
    ratio = image[middle] / (PIXELS.numpy()[middle] / 255)
    assert ratio.std() < 1e-3 and 0.8 <= ratio.mean() <= 1.2 and abs(ratio.mean() - 1) > 0.01
    np.testing.assert_array_equal(mask, MASK.numpy())
    contrasted = [augmented(Augment(jitter_probability=1.0, contrast=0.2), str(number))[0] for number in range(40)]
    factors = [image[middle].std() / (PIXELS.numpy()[middle] / 255).std() for image in contrasted]
    assert 0.8 <= min(factors) < 0.9 and 1.1 < max(factors) <= 1.2
    assert min(image.min() for image in contrasted) >= 0 and max(image.max() for image in contrasted) <= 1


def test_blur_smooths() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
    augment = Augment(blur_probability=1.0)
    plain = noise.numpy() / 255
    images = [augmented(augment, str(number), pixels=noise)[0] for number in range(20)]
    contrasts = [image.std() / plain.std() for image in images]  # sigma from .1 (nothing) to 2 pixels
    assert min(contrasts) < 0.35 and max(contrasts) < 1.0 + 1e-3 and np.median(contrasts) < 0.6
    assert [float(image.mean()) for image in images] == pytest.approx([plain.mean()] * 20, abs=0.01)


def test_erasing_blanks_a_box_of_two_to_ten_percent() -> None:
    white, shares = torch.full((1, SIZE, SIZE), 255, dtype=torch.uint8), []
    for number in range(100):
        two = {"size": SIZE, "mean": (0.5, 0.2), "std": (0.25, 0.4), "drawn": draw_one(str(number))}
        image, _ = change(white, None, augment=Augment(erase_probability=1.0), **two)
        assert set(image.unique().tolist()) == {0.0, 2.0}  # (1 - .5) / .25 = (1 - .2) / .4
        assert torch.equal(image[:, 0], image[:, 1])
        shares.append((image == 0).float().mean().item())
    assert 0.015 < min(shares) < 0.04 and 0.08 < max(shares) < 0.11


def test_probabilities_are_honoured() -> None:
    plain = PIXELS.numpy().astype(np.float32) / 255
    augment = Augment(blur_probability=0.15)
    changed = sum(not np.array_equal(augmented(augment, str(number))[0], plain) for number in range(400))
    assert 35 < changed < 85


def test_switching_one_change_on_leaves_the_others_as_they_were() -> None:
    crop = Augment.pretrain(flip=False)
    _, mask = augmented(crop, "y")
    _, with_jitter = augmented(
        Augment(crop_scale=crop.crop_scale, jitter_probability=1.0, contrast=0.3, blur_probability=1.0), "y"
    )
    np.testing.assert_array_equal(mask, with_jitter)


@pytest.mark.parametrize(
    "wrong", [{"crop_scale": (0.0, 1.0)}, {"crop_scale": (0.5, 2.0)}, {"blur_probability": 1.5}, {"crop_ratio": (2, 1)}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PacxError, match=r"give two|probability"):
        Augment(**wrong)
