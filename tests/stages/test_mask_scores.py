import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pacx.stages.mask_scores import batched_scores, overlap_scores, pooled_scores, surface_distances


def square(top: int, left: int, *, edge: int = 10, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + edge, left : left + edge] = True
    return mask


def disc(radius: float, *, size: int = 201) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size // 2
    return rows**2 + columns**2 <= radius**2


def test_dice_and_iou_by_hand():
    truth = torch.zeros(4, 4, 4, dtype=torch.bool)
    prediction = truth.clone()
    truth[0, :2] = prediction[0, :2] = True  # equal
    truth[1, :2], prediction[1, 1:3] = True, True  # half of each shared
    prediction[2, 0, 0] = True  # something where nothing is; image 3 is empty in both
    dice, iou = overlap_scores(prediction, truth)
    assert dice.tolist() == pytest.approx([1, 0.5, 0, 1])
    assert iou.tolist() == pytest.approx([1, 1 / 3, 0, 1])


def test_pooled_scores_count_the_pixels_of_a_batch_and_batches_weigh_by_their_images():
    truth = torch.zeros(3, 4, 4, dtype=torch.bool)
    prediction = truth.clone()
    truth[0], prediction[0] = True, True  # 16 pixels, all found
    truth[1, 0], prediction[1, 1] = True, True  # 4 pixels, none found, 4 false ones
    truth[2, :2], prediction[2, :1] = True, True  # 8 pixels, 4 found
    assert pooled_scores(prediction[:2], truth[:2]) == pytest.approx((2 * 16 / 40, 16 / 24))
    whole = batched_scores(prediction, truth, batch_size=2)
    assert whole.dice == pytest.approx((2 * 0.8 + 1 * 2 * 4 / 12) / 3)
    assert whole.iou == pytest.approx((2 * 16 / 24 + 1 * 4 / 8) / 3)
    assert batched_scores(prediction, truth, batch_size=256) == pytest.approx((2 * 20 / 52, 20 / 32))
    alone = batched_scores(prediction, truth, batch_size=1)
    assert alone.dice == pytest.approx(float(overlap_scores(prediction, truth)[0].mean()))


def outline(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inner


def test_squares_about_one_centre_by_hand():
    """Edges 20 and 40. Every outline pixel of the inner one is 10 away from the outer one; of the outer one's 156, the
    80 opposite the inner one too, those k = 1..9 beyond its corners sqrt(100 + k^2), and the 4 corners sqrt(200)."""
    found = surface_distances([square(20, 20, edge=20, size=60)], [square(10, 10, edge=40, size=60)])
    corners = 8 * np.sqrt(100 + np.arange(1, 10) ** 2).sum() + 4 * np.sqrt(200)
    assert found.surface_distance[0] == pytest.approx((76 * 10 + 80 * 10 + corners) / (76 + 156), rel=1e-12)
    back = np.concatenate([np.full(80, 10.0), np.repeat(np.sqrt(100 + np.arange(1, 10) ** 2), 8), np.full(4, 200**0.5)])
    assert found.hausdorff_95[0] == pytest.approx(np.percentile(back, 95), rel=1e-12)


def test_discs_about_one_centre_are_as_far_apart_as_their_radii():
    found = surface_distances([disc(60), disc(60)], [disc(50), disc(60)])
    assert found.surface_distance[0] == pytest.approx(10, abs=1)  # an outline pixel is up to 1 within its radius
    assert found.hausdorff_95[0] == pytest.approx(10, abs=1)
    assert (found.surface_distance[1], found.hausdorff_95[1]) == (0, 0)


def test_squares_far_apart_by_brute_force():
    a, b = square(2, 3), square(25, 21, edge=7)
    between = cdist(np.argwhere(outline(a)), np.argwhere(outline(b)))
    there, back = between.min(axis=1), between.min(axis=0)
    found = surface_distances([a], [b])
    assert found.surface_distance[0] == pytest.approx((there.sum() + back.sum()) / (len(there) + len(back)), rel=1e-12)
    assert found.hausdorff_95[0] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-12)
    assert surface_distances([b], [a]) == found


def test_an_empty_mask_has_no_distance():
    nothing, something = np.zeros((40, 40), dtype=bool), square(1, 1)
    found = surface_distances([nothing, something, nothing], [something, nothing, nothing])
    assert np.isnan(found.surface_distance).all()
    assert np.isnan(found.hausdorff_95).all()
    assert surface_distances([], []).surface_distance.shape == (0,)
