"""The command that draws what a masked autoencoder fills in."""

import json
from pathlib import Path

import pytest

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.runs import read_result
from pacx.stages.pretrain import pretrain
from pacx.stages.reconstruct import fixed_images, load_autoencoder, reconstruct

TINY = {
    "width": 32, "depth": 1, "heads": 2, "patch_size": 4, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
    "batch_size": 24, "epochs": 2, "warmup_epochs": 1.0, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module", params=["standard", "cross"])
def trained(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    pretrain(store=store.path, out=out, decoder=request.param, normalise_targets=request.param == "cross", **TINY)
    return out


def test_settings_of_the_decoder_travel_with_the_weights(trained: Path):
    settings = json.loads((trained / "mae.json").read_text())
    model = load_autoencoder(trained)
    assert settings == {
        "decoder": trained.name, "predict_share": 0.25, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
        "mask_ratio": 0.9, "normalise_targets": trained.name == "cross",
    }  # fmt: skip
    assert model.decoder == trained.name
    assert not model.training


def test_the_run_and_the_command_draw_and_say_the_same(trained: Path, store: Store, tmp_path: Path):
    there = read_result(trained)
    drawn = reconstruct(run=trained, store=store.path, out=tmp_path / "r", split="val")
    for key in ("hidden_mse", "mean_gray_mse", "mask_ratio"):
        assert drawn["results"][key] == pytest.approx(there["results"][key])
    assert (tmp_path / "r" / "figures" / "reconstructions.png").stat().st_size > 5000
    caption = drawn["figures"][0]["caption"]
    assert caption.startswith("Masked autoencoding on val images: the X-ray, the 6 of 64 patches")
    assert ("true brightness and contrast" in caption) == (trained.name == "cross")
    assert "val images, which it was not trained on" in there["figures"][0]["caption"]


def test_another_mask_ratio_can_be_tried(trained: Path, store: Store, tmp_path: Path):
    half = reconstruct(run=trained, store=store.path, out=tmp_path / "half", mask_ratio=0.5, num_images=2)
    assert half["results"]["mask_ratio"] == 0.5
    assert "the 32 of 64 patches" in half["figures"][0]["caption"]


def test_images_are_spread_over_the_split_and_always_the_same(store: Store):
    images, rows = fixed_images(store, "val", preprocess=store.preprocess(), count=3)
    assert images.shape == (3, 1, 32, 32)
    val = store.rows("val")
    assert rows.tolist() == [val[0], val[round((len(val) - 1) / 2)], val[-1]]
    assert len(fixed_images(store, "val", preprocess=store.preprocess(), count=999)[1]) == len(val)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"run": Path("nowhere")}, "finished `pacx pretrain`"), ({"num_images": 0}, "1 or more"),
     ({"split": "exam"}, "no split 'exam'"), ({"mask_ratio": 1.5}, "mask ratio of 1.5")],
)  # fmt: skip
def test_mistakes_are_explained(trained: Path, store: Store, tmp_path: Path, change: dict, message: str):
    with pytest.raises(PacxError, match=message):
        reconstruct(**{"run": trained, "store": store.path, "out": tmp_path / "r", **change})
