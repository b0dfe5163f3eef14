import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pacx.stages.pretrain as stage
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder
from pacx.runs import read_result
from pacx.stages.pretrain import pretrain
from pacx.stages.reconstruct import load_autoencoder, mask_noise, reconstruct

TINY = {
    "width": 32, "depth": 2, "heads": 2, "patch_size": 4, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
    "batch_size": 24, "learning_rate": 3e-3, "warmup_epochs": 1.0, "accelerator": "cpu",
}  # fmt: skip


def run(store: Store, out: Path, **changes) -> dict:
    return pretrain(store=store.path, out=out, **{**TINY, "epochs": 3, **changes})


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mae"
    run(store, out, epochs=40, learning_rate=6e-3)
    return out


def test_training_and_validation_loss_fall_well_below_the_variance_of_the_pixels(trained: Path):
    rows = table(trained)
    assert float(rows[-1]["train_loss"]) < 0.75 * float(rows[0]["train_loss"])
    assert float(rows[-1]["val_loss"]) < 0.75  # normalised pixels have variance 1


def test_result_has_the_promised_numbers(trained: Path, store: Store):
    results = read_result(trained)["results"]
    assert results["visible_tokens"] == 6  # int(64 * 0.1)
    assert results["steps"] == 80  # 40 epochs of 48 images in batches of 24
    assert results["num_images"] == 48
    assert results["mask_ratio"] == 0.9
    assert results["images_per_second"] > 0
    assert results["val_loss"] == pytest.approx(float(table(trained)[-1]["val_loss"]))


def test_mask_ratio_changes_how_many_tokens_are_seen(store: Store, tmp_path: Path):
    assert run(store, tmp_path / "a", epochs=2, mask_ratio=0.75)["results"]["visible_tokens"] == 16


def test_encoder_folder_loads_and_knows_where_it_comes_from(trained: Path, store: Store):
    encoder = load_encoder(trained / "encoder")
    assert encoder.config.preprocess == store.preprocess()
    data = encoder.config.provenance["data"][0]
    assert (data["name"], data["split_hash"]) == (store.name, store.meta["split_hash"])
    assert encoder.config.provenance["parent"] is None
    embedding = encoder.encode([np.asarray(store.images[0]) / np.float32(255)])
    assert embedding.shape == (1, 32)
    assert np.isfinite(embedding).all()


def test_full_model_is_kept_and_reconstructs_better_than_gray(trained: Path, store: Store, tmp_path: Path):
    results = reconstruct(run=trained, store=store.path, out=tmp_path / "r", num_images=6)["results"]
    assert results["hidden_mse"] < results["mean_gray_mse"]
    assert (tmp_path / "r" / "figures" / "reconstructions.png").stat().st_size > 5000
    assert (trained / "figures" / "reconstructions.png").is_file()
    model = load_autoencoder(trained)
    encoder = load_encoder(trained / "encoder")
    assert torch.equal(model.encoder.vit.blocks[1].mlp.fc1.weight, encoder.vit.blocks[1].mlp.fc1.weight)


def test_checkpoints_hold_nothing_that_needs_unpickling_of_code(trained: Path):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 39


class Killed(BaseException):
    """Stands for kill -9: nothing of ours or Lightning's catches it to save something."""


@pytest.mark.parametrize("at_step", [1, 3, 5])
def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
):
    run(store, tmp_path / "whole", epochs=4)
    step = stage.MaskedPretraining.training_step

    def die(self, batch, batch_idx):
        if self.global_step == at_step:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(stage.MaskedPretraining, "training_step", die)
        with pytest.raises(Killed):
            run(store, tmp_path / "parts", epochs=4)
    run(store, tmp_path / "parts", epochs=4)
    whole, parts = (load_file(tmp_path / name / "mae.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    timing = {"images_per_second", "train_seconds", "epoch_seconds"}
    for a, b in zip(table(tmp_path / "whole"), table(tmp_path / "parts"), strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


def test_losses_that_are_not_finite_are_skipped_and_three_in_a_row_stop_the_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forward = stage.MaskedAutoencoder.forward
    bad: set[int] = set()
    calls = {"train": 0}

    def sometimes_nan(self, images, noise=None):
        output = forward(self, images, noise)
        if not self.training:
            return output
        calls["train"] += 1
        return output._replace(loss=output.loss * float("nan")) if calls["train"] in bad else output

    monkeypatch.setattr(stage.MaskedAutoencoder, "forward", sometimes_nan)
    bad.update({2, 3, 5})
    results = run(store, tmp_path / "a")["results"]
    assert results["skipped_steps"] == 3
    assert np.isfinite(results["train_loss"])
    calls["train"] = 0
    bad.add(4)
    with pytest.raises(PacxError, match=r"3 times in a row.*image\d\d\d"):
        run(store, tmp_path / "b")


def test_masks_depend_on_seed_epoch_and_row_only():
    rows = torch.tensor([3, 7, 11])
    noise = mask_noise(rows, 64, seed=1, epoch=2)
    assert torch.equal(noise[1:2], mask_noise(torch.tensor([7]), 64, seed=1, epoch=2))
    for other in (
        mask_noise(rows, 64, seed=2, epoch=2),
        mask_noise(rows, 64, seed=1, epoch=3),
        mask_noise(rows, 64, seed=1),
    ):
        assert not torch.equal(noise, other)
    assert 0.4 < float(mask_noise(torch.arange(50), 64, seed=0).mean()) < 0.6


def test_another_image_size_is_used_and_recorded(store: Store, tmp_path: Path):
    results = run(store, tmp_path / "a", epochs=2, image_size=16)["results"]
    assert results["image_size"] == 16
    assert json.loads((tmp_path / "a" / "encoder" / "config.json").read_text())["preprocess"]["image_size"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epochs": 1}, "warm-up"), ({"image_size": 30}, "multiple of the patch size"), ({"batch_size": 0}, "batch_size"),
     ({"mask_ratio": 1.0}, "mask ratio"), ({"resume": True}, "no checkpoint")],
)  # fmt: skip
def test_mistakes_are_explained(store: Store, tmp_path: Path, change: dict, message: str):
    with pytest.raises(PacxError, match=message):
        run(store, tmp_path / "a", **change)
