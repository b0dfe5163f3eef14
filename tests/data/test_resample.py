from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pacx.data.resample import Boxes, mirror, resize, resize_masks
from pacx.preprocess import Preprocess

torch.set_num_threads(1)
NUM, EDGE = 11, 64
PIXELS = torch.randint(0, 256, (NUM, EDGE, EDGE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def random_boxes(smallest: int) -> Boxes:
    rng = np.random.default_rng(1)
    height, width = rng.integers(smallest, EDGE + 1, (2, NUM))
    height[0] = width[0] = EDGE
    return Boxes(
        rng.integers(0, EDGE - height + 1), rng.integers(0, EDGE - width + 1), height, width, rng.random(NUM) < 0.5
    )


def one_by_one(images: torch.Tensor, boxes: Boxes, size: int, **how: object) -> torch.Tensor:
    """Do the same with torch's own resize, image by image."""
    done = []
    for image, top, left, height, width, mirrored in zip(images, *boxes, strict=True):
        cut = image[top : top + height, left : left + width][None, None].float()
        resized = F.interpolate(cut, size=(size, size), **how)[0]
        done.append(resized.flip(-1) if mirrored else resized)
    return torch.stack(done)


@pytest.mark.parametrize(("size", "smallest"), [(56, 45), (64, 20), (17, 30), (90, 1)])
def test_it_equals_torchs_antialiased_resize_to_an_eightieth_of_a_gray_level(size: int, smallest: int) -> None:
    boxes = random_boxes(smallest)
    expected = one_by_one(PIXELS, boxes, size, mode="bilinear", antialias=True) / 255
    torch.testing.assert_close(resize(PIXELS, boxes, size=size), expected, atol=5e-5, rtol=0)


def test_an_image_does_not_depend_on_the_others_in_its_batch() -> None:
    boxes = random_boxes(30)
    together = resize(PIXELS, boxes, size=50)
    for position in range(NUM):
        alone = slice(position, position + 1)
        own = Boxes(*(values[alone] for values in boxes))
        assert torch.equal(resize(PIXELS[alone], own, size=50), together[alone])


def test_pixels_that_need_no_resizing_stay_what_they_are() -> None:
    boxes = Boxes.whole(NUM, edge=EDGE)
    inner = boxes._replace(top=boxes.top + 3, left=boxes.left + 5, height=boxes.height - 8, width=boxes.width - 8)
    resized = resize(PIXELS, inner, size=EDGE - 8)[:, 0] * 255
    torch.testing.assert_close(resized, PIXELS[:, 3:59, 5:61].float(), atol=1e-4, rtol=0)
    every_second = np.arange(NUM) % 2 == 0
    plain = mirror(PIXELS, every_second)[:, 0]
    assert torch.equal(plain[0::2], PIXELS[0::2].flip(-1).float() / 255)
    assert torch.equal(plain[1::2], PIXELS[1::2].float() / 255)
    turned = resize(PIXELS, boxes._replace(mirrored=every_second), size=EDGE)[:, 0]
    torch.testing.assert_close(turned, plain, atol=1e-6, rtol=0)


def test_it_normalises_as_the_preprocessing_contract_says() -> None:
    preprocess = Preprocess(image_size=50, mean=(0.485, 0.3), std=(0.229, 0.4))
    boxes = random_boxes(30)
    resized = resize(PIXELS, boxes, size=50, mean=preprocess.mean, std=preprocess.std)
    expected = preprocess.normalise(resize(PIXELS, boxes, size=50)[:, 0].numpy())
    np.testing.assert_allclose(resized.numpy(), expected, atol=2e-6)


def test_masks_equal_torchs_nearest_neighbours() -> None:
    boxes = random_boxes(20)
    odd = boxes._replace(height=boxes.height // 2 * 2 - 1, width=boxes.width // 2 * 2 - 1)  # no centre lies on a border
    masks = PIXELS > 128
    expected = one_by_one(masks, odd, 45, mode="nearest-exact")
    assert torch.equal(resize_masks(masks, odd, size=45), expected)
