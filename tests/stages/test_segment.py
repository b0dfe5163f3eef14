import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.frozen.features import preprocessed
from pacx.frozen.tokens import keep_tokens
from pacx.models.encoder import Encoder, load_encoder
from pacx.runs import read_result
from pacx.stages import segment as segment_module
from pacx.stages.segment import segment
from pacx.stages.segmentation import MaskDecoding, segmentation_loss
from pacx.stages.tokens import ComputedTokens, ReadTokens

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


def test_tokens_from_disk_are_those_of_the_encoder_in_either_view(pairs: Store, encoder_path: Path, tmp_path: Path):
    encoder = load_encoder(encoder_path)
    rows = np.array([4, 9, 2])
    mirrored = keep_tokens(encoder, pairs, rows, cache=tmp_path, flip=True)
    read = ReadTokens(encoder.config, keep_tokens(encoder, pairs, rows, cache=tmp_path), mirrored)
    computed = ComputedTokens(encoder)
    batch = {"index": torch.from_numpy(rows), "image": preprocessed(encoder, pairs, rows)}
    for flipped in ([False, True, False], [True, True, True], [False, False, False]):
        side = torch.tensor(flipped)
        torch.testing.assert_close(read(batch, side), computed(batch, side), atol=4e-3, rtol=0)


def test_another_learning_rate_needs_no_forward_pass(
    pairs: Store, encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(pairs, encoder_path, tmp_path / "a", train_images=50)
    monkeypatch.setattr(Encoder, "tokens", None)
    again = run(pairs, encoder_path, tmp_path / "b", train_images=50, learning_rate=1e-3)
    first = read_result(tmp_path / "a")["results"]
    assert again["num_test"] == first["num_test"] > 0
    assert again["dice"]["value"] != first["dice"]["value"]  # it was trained, and otherwise


def test_rotated_images_are_trained_on_with_masks_rotated_alike(
    pairs: Store, encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    real = MaskDecoding.training_step
    monkeypatch.setattr(
        MaskDecoding, "training_step", lambda self, batch, i: seen.append(batch) or real(self, batch, i)
    )
    run(pairs, encoder_path, tmp_path / "a", train_images=25, rotate=90.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # nothing is kept
    assert len(seen) == 2
    for batch in seen:
        inside = batch["mask"] > 0.5
        pairs_of = zip(batch["image"], inside, strict=True)
        bright = torch.stack([image[mask].mean() - image[~mask].mean() for image, mask in pairs_of])
        assert (bright[inside.flatten(1).any(dim=1)] > 0.5).all()  # the blob is where its mask is
    first, second = (batch["mask"][batch["index"].argsort()] for batch in seen)
    assert (first != second).flatten(1).any(dim=1).float().mean() > 0.9  # anew in each epoch


def test_the_published_settings_decay_all_and_choose_the_epoch_by_pooled_dice(
    pairs: Store, encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = {}
    real = segment_module.make_trainer

    def note(run_folder, **options):
        made["monitor"] = options["monitor"]
        made["trainer"] = real(run_folder, **options)
        return made["trainer"]

    monkeypatch.setattr(segment_module, "make_trainer", note)
    out = tmp_path / "paper"
    segment(store=pairs.path, encoder=str(encoder_path), mask="blob", protocol="paper", epochs=6, accelerator="cpu",
            out=out)  # fmt: skip
    groups = made["trainer"].optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4]
    assert groups[0]["initial_lr"] == 1e-4
    assert made["monitor"] == "val_pooled_dice"
    config = read_result(out)["config"]
    assert (config["batch_size"], config["warmup_epochs"]) == (256, 5.0)


def test_distances_and_pooled_scores_stand_beside_the_scores_of_images(trained: Path):
    scores, results = pd.read_parquet(trained / "scores.parquet"), read_result(trained)["results"]
    for metric in ("surface_distance", "hausdorff_95"):
        assert results[metric]["value"] == pytest.approx(scores[metric].mean())
        assert results[metric]["low"] < results[metric]["value"] < results[metric]["high"]
    assert 0 < results["surface_distance"]["value"] < results["hausdorff_95"]["value"] < 16
    assert results["num_without_distance"] == scores["surface_distance"].isna().sum()
    assert results["distance_unit"] == "pixels"
    published = results["published"]
    assert published["batch_size"] == 256  # one batch holds all 100 images, so the two are functions of each other
    assert published["iou"] == pytest.approx(published["dice"] / (2 - published["dice"]))
    assert published["dice"] != pytest.approx(results["dice"]["value"], abs=1e-4)


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


def with_masks(path: Path, *, store: Store, masks: np.ndarray | None) -> Store:
    """Copy a store, its masks replaced."""
    shutil.copytree(store.path, path)
    if masks is not None:
        np.save(path / "masks.npy", masks)
    return Store.open(path)


@pytest.mark.parametrize(
    ("split", "words"), [("test", "24 unseen images"), ("val", "48 validation images, which also chose the epoch")]
)
def test_the_figure_says_which_images_were_scored(
    store: Store, encoder_path: Path, tmp_path: Path, split: str, words: str
):
    copy = with_masks(tmp_path / "store", store=store, masks=None)
    table = copy.manifest.assign(split=copy.manifest["split"].replace("test", split))
    table.to_parquet(tmp_path / "store" / "manifest.parquet")
    found = run(Store.open(tmp_path / "store"), encoder_path, tmp_path / "a")
    assert found["split"] == split
    caption = read_result(tmp_path / "a")["figures"][0]["caption"]
    assert caption.startswith(f"Masks (blob) on {words}; from the worst")


def test_an_unknown_mask_is_refused(store: Store, encoder_path: Path, tmp_path: Path):
    with pytest.raises(PacxError, match=r"no mask 'lung'.*blob"):
        run(store, encoder_path, tmp_path / "a", mask="lung")


def test_masks_of_another_size_than_the_images_are_refused(store: Store, encoder_path: Path, tmp_path: Path):
    broken = with_masks(tmp_path / "store", store=store, masks=np.ones((len(store), 16, 16), dtype=np.uint8))
    with pytest.raises(PacxError, match=r"masks are 16 x 16 pixels, its images 32 x 32"):
        run(broken, encoder_path, tmp_path / "a")


@pytest.mark.parametrize(("value", "word"), [(0, "empty"), (1, "full")])
def test_a_mask_that_is_the_same_everywhere_is_refused(
    store: Store, encoder_path: Path, tmp_path: Path, value: int, word: str
):
    masks = np.full((len(store), 32, 32), value, dtype=np.uint8)
    with pytest.raises(PacxError, match=rf"'blob' is {word} in all 48 train images"):
        run(with_masks(tmp_path / "a", store=store, masks=masks), encoder_path, tmp_path / "run")
    masks = np.array(store.masks)
    masks[store.rows("test")] = value
    with pytest.raises(PacxError, match=rf"'blob' is {word} in all 24 test images"):
        run(with_masks(tmp_path / "b", store=store, masks=masks), encoder_path, tmp_path / "run")


def test_a_store_without_training_masks_is_refused(store: Store, encoder_path: Path, tmp_path: Path):
    bare = with_masks(tmp_path / "store", store=store, masks=None)
    table = bare.manifest.assign(has_mask=bare.manifest["split"] != "train")
    table.to_parquet(tmp_path / "store" / "manifest.parquet")
    with pytest.raises(PacxError, match="no training image with a mask"):
        run(Store.open(tmp_path / "store"), encoder_path, tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotate": -1.0}, "rotate is -1"),
        ({"train_images": 0}, "train_images is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"warmup_epochs": 2.0}, "warm-up must be shorter"),
    ],
)
def test_settings_out_of_range_are_refused(store: Store, encoder_path: Path, tmp_path: Path, change, message):
    with pytest.raises(PacxError, match=message):
        run(store, encoder_path, tmp_path / "a", **change)
    assert not (tmp_path / ".features").exists()
