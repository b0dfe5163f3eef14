"""Deletion and insertion where the truth is known: a head that reads one patch."""

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.evaluation.class_head import ClassHead
from pacx.evaluation.curve_areas import ORDERS, areas, compare_faithfulness, summarise_curves
from pacx.evaluation.faithfulness import (
    Judge,
    deletion_curves,
    removal_orders,
    without_patches,
)

GRID, PATCH = 4, 6
"""the patch that the planted encoder looks at, in reading order"""


class OnePatch(torch.nn.Module):
    """Its class token says how bright the brightest pixel of one patch is, minus what is left of a blur."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def tokens(self, images):
        row, column = divmod(PATCH, GRID)
        patch = images[:, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        seen = (patch.flatten(1).abs().amax(dim=1) > 1e-6).float()
        return seen[:, None, None].expand(-1, 1 + GRID**2, 1)


@pytest.fixture(scope="module")
def judge(encoder):
    return Judge(OnePatch(encoder.config), ClassHead(np.array([20.0]), -10.0, 1.0, {}), "cls")


def _maps(n, best):
    maps = np.full((n, GRID, GRID), 0.5)
    maps[:, best // GRID, best % GRID] = 1.0
    return maps / maps.sum(axis=(1, 2), keepdims=True)


@pytest.fixture(scope="module")
def curves(judge, store):
    rows = store.rows("test", needs=("image",))[:12]
    return deletion_curves(judge, store, rows, _maps(12, PATCH), removed="mean", steps=16)


def test_the_right_map_loses_the_finding_at_once_and_the_reversed_one_at_the_end(curves):
    by = curves.set_index(["order", "fraction"])["probability"].groupby(level=[0, 1]).mean()
    assert by["attention", 0.0] == pytest.approx(1, abs=1e-4)
    assert (by["attention"].iloc[1:] < 1e-4).all()
    assert (by["reverse"].iloc[:-1] > 1 - 1e-4).all()
    assert by["reverse", 1.0] == pytest.approx(0, abs=1e-4)
    assert sorted(curves["order"].unique()) == sorted(ORDERS)


def test_areas_equal_the_closed_form(curves):
    """One step of 16 falls from 1 to 0: its trapezoid is 1/32. The reversed order keeps 15 steps more."""
    found = areas(curves)
    assert np.allclose(found["deletion"], 1 / 32, atol=1e-4)
    assert np.allclose(found["insertion"], 1 - 1 / 32, atol=1e-4)
    # random: the patch goes at step k = 1..16, with area (k - 1/2) / 16
    place = found["random"] * 16 + 0.5
    assert np.allclose(place, place.round(), atol=1e-2)
    assert place.round().nunique() > 4


def test_gains_over_random_have_the_sign_of_the_map(judge, store, curves):
    good = summarise_curves(curves, draws=200)
    assert good["num_images"] == 12
    assert good["deletion_gain"].low > 0 < good["insertion_gain"].low
    assert good["deletion"].value == pytest.approx(1 / 32, abs=1e-4)
    assert good["curves"]["random"]["fraction"] == pytest.approx(list(np.arange(17) / 16))
    rows = store.rows("test", needs=("image",))[:12]
    wrong = -_maps(12, PATCH)
    bad = summarise_curves(deletion_curves(judge, store, rows, wrong, removed="mean", steps=16), draws=200)
    assert bad["deletion_gain"].high < 0


def test_two_encoders_are_compared_image_by_image(judge, store, curves, tmp_path):
    rows = store.rows("test", needs=("image",))[:12]
    other = deletion_curves(judge, store, rows, -_maps(12, PATCH), removed="mean", steps=16)
    other.to_parquet(tmp_path / "curves.parquet")
    found = compare_faithfulness(curves, tmp_path / "curves.parquet", draws=200)
    assert found["deletion"].value == pytest.approx(2 / 32 - 1, abs=1e-3)
    assert found["deletion_gain"].value == pytest.approx(1 - 2 / 32, abs=1e-3)
    assert found["insertion_gain"].low > 0
    same = compare_faithfulness(curves, curves, draws=50)
    assert all(difference.value == 0 for difference in same.values())


def test_fewer_steps_than_patches_remove_them_in_even_portions(judge, store):
    rows = store.rows("test", needs=("image",))[:1]
    curve = deletion_curves(judge, store, rows, _maps(1, PATCH), removed="blur", steps=3, batch_size=2)
    assert curve.query("order == 'attention'")["fraction"].tolist() == pytest.approx([0, 5 / 16, 11 / 16, 1])


def test_orders_are_the_same_for_every_encoder_and_ties_are_not_read_from_the_top():
    a, b = removal_orders(_maps(1, 3)[0], row=7), removal_orders(_maps(1, 9)[0], row=7)
    assert np.array_equal(a["random"], b["random"])
    assert a["attention"][0] == 3
    assert b["attention"][0] == 9
    assert np.array_equal(a["attention"][::-1], a["reverse"])
    assert all(sorted(order) == list(range(16)) for order in a.values())
    assert a["attention"][1:].tolist() != [patch for patch in range(16) if patch != 3]
    undefined = removal_orders(np.full((4, 4), np.nan), row=7)
    assert sorted(undefined["attention"]) == list(range(16))


def test_only_the_named_patches_are_replaced():
    image, filler = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    found = without_patches(image, filler, np.array([1, 6]), 4)[0]
    expected = torch.zeros(8, 8)
    expected[0:2, 2:4] = 1
    expected[2:4, 4:6] = 1
    assert torch.equal(found, expected)


def test_images_of_one_patient_are_drawn_together(curves):
    one = curves.assign(patient_id="same")
    assert summarise_curves(one, draws=50)["deletion"].low == pytest.approx(1 / 32, abs=1e-4)
    random = summarise_curves(one, draws=50)["random"]
    assert random.low == random.high == pytest.approx(random.value)
    assert isinstance(curves, pd.DataFrame)
