import copy

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.errors import PacxError
from pacx.evaluation.attention import explain
from pacx.evaluation.regions import patch_coverage
from pacx.evaluation.rollout import attention_rollout, rollout_maps
from pacx.frozen.features import preprocessed
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.models.patients import SeenPatients


def _maps(*blocks):
    return [torch.tensor(block)[None, None] for block in blocks]


def test_rollout_of_two_blocks_equals_the_hand_calculation():
    first = [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]
    second = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    # (A + I) / 2, by hand
    first_step = [[0.75, 0.25, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]]
    second_step = [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    assert np.allclose(attention_rollout(_maps(first))[0], first_step)
    expected = [[0.375, 0.125, 0.5], [0.425, 0.525, 0.05], [0.05, 0.4, 0.55]]
    assert np.allclose(np.array(second_step) @ np.array(first_step), expected)
    assert np.allclose(attention_rollout(_maps(first, second))[0], expected)
    assert np.allclose(attention_rollout(_maps(first, second), start_layer=1)[0], second_step)


def test_rollout_of_uniform_attention_has_the_closed_form():
    # A = J/T: (A + I)/2 to the power L = J/T (1 - 2^-L) + I 2^-L
    tokens, depth = 5, 3
    uniform = torch.full((1, 2, tokens, tokens), 1 / tokens)
    rollout = attention_rollout([uniform] * depth)[0]
    expected = (1 - 2.0**-depth) / tokens + np.eye(tokens) * 2.0**-depth
    assert np.allclose(rollout, expected)


def test_heads_are_fused_before_the_residual_is_added():
    heads = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    assert np.allclose(attention_rollout([heads])[0], [[0.875, 0.125], [0.0, 1.0]])
    assert np.allclose(attention_rollout([heads], head_fusion="max")[0], [[0.8, 0.2], [0.0, 1.0]])
    assert np.allclose(attention_rollout([heads], head_fusion="min")[0], [[1.0, 0.0], [0.0, 1.0]])


def test_maps_of_an_encoder_that_attends_everywhere_are_uniform(store):
    encoder = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=2)).eval()
    for block in encoder.vit.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    maps = rollout_maps(encoder, preprocessed(encoder, store, [0, 1]))
    assert maps.shape == (2, 4, 4)
    assert np.allclose(maps, 1 / 16)


def test_maps_follow_a_planted_attention(store, encoder):
    grid = encoder.config.grid
    tokens = 1 + grid**2
    attention = torch.zeros(1, 1, tokens, tokens)
    attention[..., 1 + 2 * grid + 3] = 1.0  # everyone looks at row 2, column 3

    class Planted(Encoder):
        def iter_attention(self, images):
            yield attention

    planted = Planted(encoder.config)
    expected = np.zeros((grid, grid))
    expected[2, 3] = 1
    assert np.array_equal(rollout_maps(planted, torch.zeros(1, 1, 16, 16))[0], expected)


def test_a_mask_counts_in_part_on_patches_that_it_cuts():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0:4, 0:6] = True
    assert np.allclose(patch_coverage(mask, 2), [[1.0, 0.5], [0.0, 0.0]])
    assert patch_coverage(mask, 3).mean() == pytest.approx(mask.mean(), abs=0.02)


@pytest.fixture(scope="module")
def run(store, encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "explain"
    result = explain(store=store.path, encoder=encoder_folder, out=out, num_images=20, num_figures=3, draws=50)
    return result["results"], pd.read_parquet(out / "mass.parquet"), out


def test_mass_and_area_of_the_regions_add_up(store, run):
    results, table, _ = run
    assert results["area"] == pytest.approx({"heart": 16 / 256, "lung": 96 / 256, "outside": 144 / 256})
    # heart and lung do not overlap here, so the three shares of one image sum to 1
    assert np.allclose(table.groupby("image_id")["mass"].sum(), 1)
    assert results["mass"]["heart"]["value"] == pytest.approx(table.query("region == 'heart'")["mass"].mean())
    gap = results["mass"]["lung"]["value"] - results["area"]["lung"]
    assert results["excess"]["lung"]["value"] == pytest.approx(gap)


def test_only_test_images_with_masks_are_measured(store, run):
    results, table, _ = run
    allowed = set(store.manifest["image_id"].iloc[store.rows("test", needs=("image", "mask"))])
    assert results["num_images"] == 20 == table["image_id"].nunique()
    assert set(table["image_id"]) <= allowed


def test_a_figure_is_drawn(run):
    _, _, out = run
    assert (out / "figures" / "attention.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_encoder_is_measured_on_the_same_images(store, encoder_folder, run, tmp_path):
    _, table, _ = run
    explain(store=store.path, encoder=f"random:{encoder_folder}:9", out=tmp_path / "x", num_images=20, num_figures=0)
    other = pd.read_parquet(tmp_path / "x" / "mass.parquet")
    assert list(other["image_id"]) == list(table["image_id"])
    assert not np.allclose(other["mass"], table["mass"])


def test_a_start_layer_that_does_not_exist_is_refused(store, encoder_folder, tmp_path):
    with pytest.raises(PacxError, match="blocks 0 to 1"):
        explain(store=store.path, encoder=encoder_folder, out=tmp_path / "x", start_layer=2)
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def answered(store, encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "answered"
    result = explain(
        store=store.path, encoder=encoder_folder, out=out, method="gradient", task="third/top", token="mean",
        num_images=8, num_figures=2, steps=4, draws=50,
    )  # fmt: skip
    return result["results"], out


def test_a_task_brings_a_head_and_curves_of_the_images_that_have_it(store, answered):
    results, out = answered
    curves = pd.read_parquet(out / "curves.parquet")
    positive = store.manifest.set_index("image_id")["third"] == 0
    assert positive[curves["image_id"].unique()].all()
    assert results["faithfulness"]["num_images"] == curves["image_id"].nunique() == 8
    assert results["head"]["auroc"]["test"] > 0.7  # a bright band on top
    assert results["faithfulness"]["deletion_gain"]["value"] == pytest.approx(
        results["faithfulness"]["random"]["value"] - results["faithfulness"]["deletion"]["value"]
    )
    assert results["method"] == "gradient-weighted rollout for third/top, from block 0, of the patch tokens' mean"
    assert (out / "figures" / "deletion.png").is_file()


def test_two_encoders_are_compared_each_with_its_own_head(store, encoder_folder, answered, tmp_path):
    _, earlier = answered
    same = {"method": "gradient", "task": "third/top", "num_images": 8, "num_figures": 0, "steps": 4, "draws": 50}
    same |= {"store": store.path, "token": "mean", "against": earlier}
    result = explain(encoder=f"random:{encoder_folder}:5", out=tmp_path / "b", **same)
    comparison = result["results"]["comparison"]
    assert comparison["baseline"] == "tiny-run"
    assert {row["region"] for row in comparison["mass"]} == {"heart", "lung", "outside"}
    ours, theirs = result["results"]["faithfulness"], answered[0]["faithfulness"]
    assert comparison["faithfulness"]["deletion"]["value"] == pytest.approx(
        ours["deletion"]["value"] - theirs["deletion"]["value"]
    )
    with pytest.raises(PacxError, match="another steps"):
        explain(encoder=encoder_folder, out=tmp_path / "c", **{**same, "steps": 5})
    assert not (tmp_path / "c").exists()


def test_a_gradient_needs_a_task_and_a_task_needs_a_finding(store, encoder_folder, tmp_path):
    with pytest.raises(PacxError, match="give the --task"):
        explain(store=store.path, encoder=encoder_folder, out=tmp_path / "x", method="gradient")
    with pytest.raises(PacxError, match="quiet_val, so there is nothing to remove"):
        explain(store=store.path, encoder=encoder_folder, out=tmp_path / "x", task="quiet_val", split="val")
    with pytest.raises(PacxError, match="0 positive and"):
        explain(store=store.path, encoder=encoder_folder, out=tmp_path / "x", task="rare")
    with pytest.raises(PacxError, match="removed at least once"):
        explain(store=store.path, encoder=encoder_folder, out=tmp_path / "x", steps=0)
    assert not (tmp_path / "x").exists()


def test_test_patients_that_the_encoder_has_seen_are_refused(store, encoder, tmp_path):
    known = copy.deepcopy(encoder)
    known.patients = SeenPatients().having(
        store.manifest["patient_id"], stage="pretrain", split="train", store="tiny", patients_of=""
    )
    folder = str(save_encoder(known, tmp_path / "encoder"))
    with pytest.raises(PacxError, match="trained on 30 of the 30 test patients"):
        explain(store=store.path, encoder=folder, out=tmp_path / "x")
    training = explain(store=store.path, encoder=folder, out=tmp_path / "y", split="train", num_images=2, draws=10)
    assert training["results"]["seen_patients"]["num_patients"] == 50
