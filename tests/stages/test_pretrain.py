import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pacx.stages.pretrain as stage
from pacx.cli import main
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from pacx.preprocess import Preprocess
from pacx.runs import read_result
from pacx.stages.pretrain import pretrain
from pacx.stages.progress import MEASURED
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
    assert results["effective_batch_size"] == 24
    assert results["learning_rate"] == 6e-3
    assert 0 < results["flop_utilisation"] < 2
    assert 0 <= results["data_wait"] <= 1


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
    for a, b in zip(table(tmp_path / "whole"), table(tmp_path / "parts"), strict=True):
        assert {k: v for k, v in a.items() if k not in MEASURED} == {k: v for k, v in b.items() if k not in MEASURED}


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


def test_accumulated_batches_make_one_step_and_the_learning_rate_follows_the_effective_batch_if_asked(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "pacx"):
        results = run(store, tmp_path / "a", batch_size=12, accumulate=2, learning_rate=None, base_learning_rate=1e-3)[
            "results"
        ]
    assert results["steps"] == 6  # 3 epochs of 48 images in steps of 24
    assert results["effective_batch_size"] == 24
    assert results["learning_rate"] == pytest.approx(1e-3 * 24 / 256)
    assert "48 images; effective batch 24 (batch_size 12 x accumulate 2 x devices 1)" in caplog.text
    assert "peak rate 9.38e-05 (0.001 x 24 / 256)" in caplog.text


def test_the_effective_batch_is_no_larger_than_the_epoch(store: Store, tmp_path: Path):
    results = run(store, tmp_path / "a", batch_size=32, accumulate=8)["results"]
    assert (results["batch_size"], results["effective_batch_size"], results["steps"]) == (32, 48, 3)


def test_a_cross_decoder_predicts_a_share_in_training_and_everything_afterwards(store: Store, tmp_path: Path):
    results = run(store, tmp_path / "a", decoder="cross", predict_share=0.5, decoder_depth=2)["results"]
    settings = json.loads((tmp_path / "a" / "mae.json").read_text())
    assert (settings["decoder"], settings["predict_share"]) == ("cross", 0.5)
    model = load_autoencoder(tmp_path / "a")
    images, noise = torch.randn(2, 1, 32, 32), torch.rand(2, 64)
    output = model(images, noise)
    assert output.predicted.sum(dim=1).tolist() == [58, 58]  # all hidden ones
    assert model.train()(images, noise).predicted.sum(dim=1).tolist() == [29, 29]
    hidden = model.pixel_mask(output.mask).bool()
    assert (model.reconstruct(images, noise) != images)[hidden].float().mean() > 0.99
    assert np.isfinite(results["val_loss"])
    drawn = reconstruct(run=tmp_path / "a", store=store.path, out=tmp_path / "r", num_images=2)["results"]
    assert drawn["hidden_mse"] > 0


def test_a_run_from_before_there_were_two_decoders_still_loads(store: Store, tmp_path: Path):
    run(store, tmp_path / "a", epochs=2)
    path = tmp_path / "a" / "mae.json"
    settings = json.loads(path.read_text())
    now = load_autoencoder(tmp_path / "a")
    path.write_text(json.dumps({k: v for k, v in settings.items() if k not in {"decoder", "predict_share"}}))
    images, noise = torch.randn(2, 1, 32, 32), torch.rand(2, 64)
    assert torch.equal(load_autoencoder(tmp_path / "a").reconstruct(images, noise), now.reconstruct(images, noise))


def save_colour_encoder(folder: Path) -> Path:
    torch.manual_seed(3)
    preprocess = Preprocess(image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return save_encoder(Encoder(EncoderConfig(preprocess, patch_size=4, width=32, depth=2, heads=2)), folder)


STILL = {"width": None, "depth": None, "heads": None, "patch_size": None, "learning_rate": 1e-12, "weight_decay": 0.0}


def test_training_goes_on_from_given_weights_folded_into_one_channel(store: Store, tmp_path: Path):
    source = save_colour_encoder(tmp_path / "colour")
    run(store, tmp_path / "a", epochs=2, encoder=str(source), **STILL)
    start, kept = load_encoder(source), load_encoder(tmp_path / "a" / "encoder")
    assert kept.config.preprocess.in_chans == 1
    gray = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    np.testing.assert_allclose(kept.encode(gray), start.encode(gray), atol=1e-5)
    parent = kept.config.provenance["parent"]
    assert parent["hash"] == read_result(tmp_path / "a")["inputs"]["encoder"]["hash"]
    assert kept.config.provenance["data"][0]["name"] == store.name


def test_three_channels_stay_three_where_asked(store: Store, tmp_path: Path):
    source = save_colour_encoder(tmp_path / "colour")
    run(store, tmp_path / "a", epochs=2, encoder=str(source), channels=3, image_size=16, **STILL)
    kept = load_encoder(tmp_path / "a" / "encoder")
    assert kept.config.preprocess.mean == (0.4, 0.5, 0.6)
    assert kept.config.preprocess.image_size == 16
    weight = kept.vit.patch_embed.proj.weight
    torch.testing.assert_close(weight, load_encoder(source).vit.patch_embed.proj.weight)
    run(store, tmp_path / "b", epochs=2, channels=3)
    fresh = load_encoder(tmp_path / "b" / "encoder").config.preprocess
    assert (fresh.mean, fresh.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's


def test_sizes_bring_their_own_patches(store: Store, tmp_path: Path):
    run(store, tmp_path / "a", epochs=2, size="huge", patch_size=None, image_size=28, depth=1)
    assert load_encoder(tmp_path / "a" / "encoder").config.patch_size == 14


def test_bfloat16_runs_on_a_cpu_and_32_bit_is_what_a_cpu_takes_by_itself(store: Store, tmp_path: Path):
    run(store, tmp_path / "half", precision="bf16-mixed")
    run(store, tmp_path / "full", precision="32-true")
    run(store, tmp_path / "auto")
    half, full, auto = (table(tmp_path / name)[-1]["train_loss"] for name in ("half", "full", "auto"))
    assert auto == full
    assert half != full
    assert float(half) == pytest.approx(float(full), rel=0.02)
    assert load_file(tmp_path / "half" / "mae.safetensors")["mask_token"].dtype == torch.float32


def check_compiled(store: Store, folder: Path) -> list[float]:
    """Train compiled and not; return both last losses."""
    run(store, folder / "a", compile=True)
    run(store, folder / "b")
    a, b = (load_file(folder / name / "mae.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    checkpoint = torch.load(folder / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("_orig_mod" in key for key in (*a, *checkpoint["state_dict"]))
    assert load_encoder(folder / "a" / "encoder").encode(np.zeros((32, 32), np.float32)).shape == (1, 32)
    return [float(table(folder / name)[-1]["train_loss"]) for name in "ab"]


def test_compiled_training_leaves_files_as_if_nothing_had_been_compiled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    used = set()

    def stand_in(function, **options):
        def call(*arguments, **named):
            used.add(id(getattr(function, "__self__", None)))
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(torch, "compile", stand_in)
    compiled, plain = check_compiled(store, tmp_path)
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert len(used) == 1 + 2 + 1  # the trial, two encoder blocks, one decoder block


@pytest.mark.slow
def test_really_compiled_training_ends_like_uncompiled_training(store: Store, tmp_path: Path):
    compiled, plain = check_compiled(store, tmp_path)
    assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epochs": 1}, "warm-up"), ({"image_size": 30}, "multiple of the patch size"), ({"batch_size": 0}, "batch_size"),
     ({"mask_ratio": 1.0}, "mask ratio"), ({"resume": True}, "(?i)no checkpoint"), ({"accumulate": 0}, "accumulate"),
     ({"predict_share": 0.25}, "only --decoder cross"),
     ({"learning_rate": 1.5e-4, "base_learning_rate": 1e-3}, "Give one of them"),
     ({"workers": -1}, "workers is -1"), ({"devices": "x"}, "devices"), ({"devices": "0"}, "devices"),
     ({"num_nodes": 2}, "nothing says where the first computer is"),
     ({"encoder": "somewhere"}, "--width, --depth, --heads, --patch_size"),
     ({"encoder": "nowhere", **STILL}, "nowhere does not exist")],
)  # fmt: skip
def test_mistakes_are_explained(store: Store, tmp_path: Path, change: dict, message: str):
    with pytest.raises(PacxError, match=message):
        run(store, tmp_path / "a", **change)


def test_a_gray_encoder_has_no_three_channels(store: Store, encoder_path: Path, tmp_path: Path):
    with pytest.raises(PacxError, match="has one input channel"):
        run(store, tmp_path / "a", encoder=str(encoder_path), channels=3, **STILL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--patch_size", "4", "--image_size", "30"],
            "Image size 30 is not a multiple of the patch size 4. Use 28 or 32",
        ),
        (["--patch_size", "32"], "The image is a single patch"),
        (["--patch_size", "4", "--width", "30", "--heads", "4"], "Width 30 cannot be shared by 4 heads"),
        (["--patch_size", "4", "--width", "30", "--heads", "3"], "need a multiple of 4"),
        (["--patch_size", "4", "--decoder", "round"], "--decoder round is not allowed. Choose standard or cross."),
        (["--patch_size", "4", "--decoder_width", "30"], "decoder of width 30"),
        (["--patch_size", "4", "--crop_scale", "[0.5,2]"], "two shares of the area"),
        (["--size", "gigantic"], "--size gigantic is not allowed. Choose tiny, small, base, large or huge."),
        (["--channels", "2"], "--channels 2 is not allowed. Choose 1 or 3."),
        (["--patch_size", "4", "--gradient_clip", "0"], "gradient_clip is 0"),
        (["--patch_size", "4", "--num_nodes", "0"], "num_nodes is 0"),
        (["--patch_size", "4", "--seed=-1"], "seed is -1"),
        (["--patch_size", "4", "--epochs", "1", "--warmup_epochs", "0", "--learning_rate=-1"], "learning_rate is -1"),
        (["--patch_size", "4", "--epochs", "1", "--warmup_epochs", "0", "--weight_decay=-1"], "weight_decay is -1"),
    ],
)
def test_the_command_line_says_which_numbers_do_not_fit(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
):
    arguments = ["pretrain", "--store", str(store.path), "--out", str(tmp_path / "a"), "--accelerator", "cpu"]
    small = [] if "--width" in flags or "--size" in flags else ["--width", "32", "--heads", "2", "--depth", "1"]
    assert main([*arguments, *small, *flags]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
