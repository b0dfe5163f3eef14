from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder
from pacx.runs import read_result
from pacx.stages.segment import segment
from pacx.stages.segmentation import overlap_scores, segmentation_loss
from pacx.stages.tokens import FrozenTokens

QUICK = {"mask": "blob", "batch_size": 25, "learning_rate": 5e-3, "warmup_epochs": 1.0, "accelerator": "cpu"}


def run(store: Store, encoder: Path, out: Path, **changes) -> dict:
    return segment(store=store.path, encoder=str(encoder), out=out, **{**QUICK, "epochs": 2, **changes})["results"]


@pytest.fixture(scope="module")
def trained(pairs: Store, encoder_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "masks"
    run(pairs, encoder_path, out, epochs=12)
    return out


def test_blobs_are_found_on_unseen_patients(trained: Path, pairs: Store):
    results = read_result(trained)["results"]
    assert results["dice"]["value"] > 0.7
    assert results["dice"]["low"] < results["dice"]["value"] < results["dice"]["high"]
    assert results["iou"]["value"] < results["dice"]["value"]
    assert (results["mask"], results["split"], results["num_test"]) == ("blob", "test", 100)
    assert results["num_test_patients"] == 50


def test_scores_of_each_image_are_kept_and_average_to_the_result(trained: Path, pairs: Store):
    scores = pd.read_parquet(trained / "scores.parquet")
    results = read_result(trained)["results"]
    rows = pairs.rows("test")
    assert scores["image_id"].tolist() == pairs.manifest["image_id"].iloc[rows].tolist()
    assert scores["patient_id"].tolist() == pairs.manifest["patient_id"].iloc[rows].tolist()
    assert scores["dice"].mean() == pytest.approx(results["dice"]["value"])
    np.testing.assert_allclose(scores["iou"], scores["dice"] / (2 - scores["dice"]))
    assert (trained / "figures" / "overlays.png").stat().st_size > 5000
    assert (trained / "decoder.safetensors").is_file()


def test_tokens_remembered_and_tokens_computed_anew_give_the_same_scores(
    pairs: Store, encoder_path: Path, tmp_path: Path
):
    remembered = run(pairs, encoder_path, tmp_path / "a", train_images=50)
    anew = run(pairs, encoder_path, tmp_path / "b", train_images=50, cache_mib=0)
    assert remembered["num_train"] == 50
    assert remembered["dice"]["value"] == pytest.approx(anew["dice"]["value"], abs=0.02)  # half-precision tokens


def test_frozen_tokens_are_those_of_the_image_or_its_mirror_image_and_computed_once(encoder_path: Path):
    encoder = load_encoder(encoder_path)
    rows = np.array([4, 9, 2])
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = FrozenTokens(encoder, rows, flip=True)
    flipped = torch.tensor([False, True, False])
    first = tokens(images, torch.from_numpy(rows), flipped)
    with torch.no_grad():
        straight, mirrored = encoder.tokens(images)[:, 1:], encoder.tokens(images.flip(-1))[:, 1:]
    torch.testing.assert_close(first[0], straight[0], atol=4e-3, rtol=0)
    torch.testing.assert_close(first[1], mirrored[1], atol=4e-3, rtol=0)
    again = tokens(torch.full_like(images, float("nan")), torch.from_numpy(rows), flipped)  # images are not needed
    assert torch.equal(first, again)
    other = tokens(images[[1]], torch.tensor([9]), torch.tensor([False]))
    torch.testing.assert_close(other[0], straight[1], atol=4e-3, rtol=0)


def test_dice_and_iou_by_hand():
    truth = torch.zeros(4, 4, 4, dtype=torch.bool)
    prediction = truth.clone()
    truth[0, :2] = prediction[0, :2] = True  # equal
    truth[1, :2], prediction[1, 1:3] = True, True  # half of each shared
    prediction[2, 0, 0] = True  # something where nothing is; image 3 is empty in both
    dice, iou = overlap_scores(prediction, truth)
    assert dice.tolist() == pytest.approx([1, 0.5, 0, 1])
    assert iou.tolist() == pytest.approx([1, 1 / 3, 0, 1])


def test_loss_is_cross_entropy_plus_one_minus_dice():
    logits, mask = torch.zeros(1, 2, 2), torch.tensor([[[True, True], [False, False]]])
    assert float(segmentation_loss(logits, mask)) == pytest.approx(np.log(2) + 1 - 2 * 1 / (2 + 2), abs=1e-5)
    sure = torch.where(mask, 30.0, -30.0)
    assert float(segmentation_loss(sure, mask)) == pytest.approx(0, abs=1e-5)


def test_same_seed_same_scores_and_a_random_encoder_can_be_judged_too(pairs: Store, encoder_path: Path, tmp_path: Path):
    options = {"train_images": 25, "epochs": 2}
    first = run(pairs, encoder_path, tmp_path / "a", **options)
    assert run(pairs, encoder_path, tmp_path / "b", **options)["dice"] == first["dice"]
    fresh = segment(store=pairs.path, encoder=f"random:{encoder_path}:3", out=tmp_path / "c", **QUICK, **options)
    assert fresh["results"]["dice"] != first["dice"]


def test_an_unknown_mask_is_refused(store: Store, encoder_path: Path, tmp_path: Path):
    with pytest.raises(PacxError, match=r"no mask 'lung'.*blob"):
        run(store, encoder_path, tmp_path / "a", mask="lung")
