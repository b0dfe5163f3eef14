"""`pacx convert`: foreign weights in, ours out, as a run folder that recipes can go on from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pacx import cli, load_encoder
from pacx.frozen.features import encoder_name
from pacx.models.encoder import weights_hash
from pacx.models.formats.mae import MAE
from pacx.runs import read_result

torch.set_num_threads(1)
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "vit.pth"
    torch.save({"model": timm.create_model("vit_tiny_patch16_224", num_classes=2, **SHAPE).state_dict()}, path)
    return path


def test_a_file_becomes_an_encoder_folder_with_its_history(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "vit"
    assert cli.main(["convert", str(weights), "--out", str(out), "--mean", "0.4", "0.5", "0.6", "--eps", "1e-5"]) == 0
    encoder = load_encoder(out / "encoder")
    assert encoder.config.preprocess.mean == (0.4, 0.5, 0.6)
    assert encoder.config.layer_norm_eps == 1e-5
    result = read_result(out)
    assert result["results"]["format"] == "timm"
    assert result["results"]["weights_hash"] == weights_hash(encoder)
    assert result["results"]["encoder"]["provenance"]["dropped"] == {"head.*": 2}
    assert result["inputs"]["source"]["sha256"] == encoder.config.provenance["sha256"]
    assert result["artefacts"] == {"encoder": "encoder"}
    assert encoder_name(out / "encoder") == "vit"


@pytest.mark.parametrize("to", ["pacx", "timm", "huggingface"])
def test_every_layout_can_be_gone_on_from(to: str, weights: Path, tmp_path: Path) -> None:
    flags = ["--fold", "--image-size", "48", "--geometry", "squash"]
    assert cli.main(["convert", str(weights), "--out", str(tmp_path / to), "--to", to, *flags]) == 0
    encoder = load_encoder(tmp_path / to / "encoder")
    preprocess = encoder.config.preprocess
    assert (preprocess.in_chans, preprocess.image_size, preprocess.geometry) == (1, 48, "squash")
    direct = load_encoder(weights, fold=True, image_size=48, geometry="squash")
    assert weights_hash(encoder) == weights_hash(direct)
    assert preprocess == direct.config.preprocess


def test_a_recipe_goes_on_from_the_converted_encoder(weights: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(
        "roots: {weights: .}\n"
        "steps:\n"
        "  foreign: {command: convert, source: '{root:weights}/vit.pth', fold: true}\n"
        "  exported: {command: convert, source: '{foreign}/encoder', to: huggingface}\n"
    )
    assert cli.main(["run", str(recipe), "--root", f"weights={tmp_path}", "--out", str(tmp_path / "chain")]) == 0
    steps = [load_encoder(tmp_path / "chain" / step / "encoder") for step in ("foreign", "exported")]
    assert weights_hash(steps[0]) == weights_hash(steps[1])


def test_names_of_foreign_encoders_are_short(weights: Path) -> None:
    assert encoder_name(weights) == "vit"
    assert encoder_name("timm:vit_base_patch16_224.mae") == "vit_base_patch16_224.mae"
    assert encoder_name("hf-hub:facebook/vit-mae-base") == "vit-mae-base"
    assert encoder_name(f"random:{weights}") == "random"


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize(
    ("make", "flags", "words"),
    [
        (lambda folder: folder / "nowhere.pth", [], "does not exist"),
        (lambda folder: folder, [], "no config.json"),
        (lambda folder: folder / "vit.pth", ["--heads", "5"], "5 heads"),
        (lambda folder: folder / "vit.pth", ["--image-size", "33"], "multiple of the patch size"),
        (lambda folder: folder / "vit.pth", ["--eps", "0"], "layer_norm_eps"),
        (lambda folder: folder / "vit.pth", ["--mean", "0.5"], "3 input channels"),
        (lambda folder: folder / "vit.pth", ["--std", "0", "1", "1"], "positive"),
        (lambda folder: folder / "vit.pth", ["--to", "onnx"], "onnx"),
        (lambda folder: folder / "vit.pth", ["--geometry", "round"], "round"),
        (lambda folder: folder / "vit.pth", ["--to", "timm", "--eps", "1e-5"], "1e-05"),
    ],
)
def test_a_bad_input_is_one_paragraph_and_leaves_no_result(
    make: object, flags: list[str], words: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", str(make(tmp_path)), "--out", str(out), *flags]) == 2  # type: ignore[operator]
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("error:") == 1
    assert words in " ".join(text.split())
    assert not (out / "result.json").exists()
    assert not out.exists()


def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "hyper_parameters": _Malicious(marker)}, tmp_path / "last.ckpt")
    assert cli.main(["convert", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "out")]) == 2
    assert "asks for posix.mkdir" in " ".join(capsys.readouterr().err.split())
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_a_finished_conversion_is_not_overwritten_unasked(weights: Path, tmp_path: Path) -> None:
    argv = ["convert", str(weights), "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert cli.main(argv) == 2
    assert cli.main([*argv, "--fold", "--overwrite"]) == 0
    assert load_encoder(tmp_path / "out" / "encoder").config.preprocess.in_chans == 1


def test_a_one_channel_file_needs_its_normalisation(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **SHAPE)
    save_file({**vit.state_dict(), "mask_token": torch.zeros(1, 1, 8)}, tmp_path / "gray.safetensors")
    out = tmp_path / "gray"
    argv = ["convert", str(tmp_path / "gray.safetensors"), "--out", str(out)]
    assert cli.main(argv) == 2
    assert cli.main([*argv, "--mean", "0.5", "--std", "0.25"]) == 0
    assert json.loads((out / "encoder" / "config.json").read_text())["provenance"]["format"] == MAE.name
