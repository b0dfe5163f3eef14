"""Out again: timm and Hugging Face load what we write, with our features, and it comes back bit for bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pacx import load_encoder
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder, weights_hash
from pacx.models.formats.export import export
from pacx.preprocess import Geometry, Preprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", "5.0", reason="the reference here: pip install 'transformers>=5'")
torch.set_num_threads(1)


def make(*, channels: int = 1, eps: float = 1e-6, geometry: Geometry = "squash", **changes: Any) -> Encoder:
    preprocess = Preprocess(32, geometry, (0.45, 0.5, 0.4)[:channels], (0.25, 0.2, 0.3)[:channels])
    shape = {"patch_size": 8, "width": 64, "depth": 2, "heads": 4, "mlp_ratio": 3.0, **changes}
    torch.manual_seed(3)
    encoder = Encoder(EncoderConfig(preprocess, layer_norm_eps=eps, provenance={"license": "CC0"}, **shape))
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder.eval()


def images(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("to", ["timm", "huggingface"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("geometry", ["squash", "crop"])
def test_a_round_trip_keeps_every_bit_and_setting(to: Any, channels: int, geometry: Geometry, tmp_path: Path) -> None:
    encoder = make(channels=channels, geometry=geometry)
    there = load_encoder(export(encoder, tmp_path / to, to=to))
    back = load_encoder(export(there, tmp_path / "pacx", to="pacx"))
    assert weights_hash(back) == weights_hash(there) == weights_hash(encoder)
    for found in (there, back):
        assert replace(found.config, provenance={}) == replace(encoder.config, provenance={})
        assert found.config.provenance["assumed"] == {}
        assert found.config.provenance["parent"] == {"license": "CC0"}
    again = export(back, tmp_path / "again", to=to)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / to / "model.safetensors").read_bytes()


def test_padding_is_refused_for_timm_which_pads_with_gray(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="with gray"):
        export(make(geometry="pad"), tmp_path / "timm", to="timm")
    assert not (tmp_path / "timm").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_finds_architecture_weights_and_normalisation_in_the_folder(channels: int, tmp_path: Path) -> None:
    encoder = make(channels=channels, geometry="crop")
    folder = export(encoder, tmp_path / "timm", to="timm")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(images(channels)), encoder(images(channels)), atol=1e-5, rtol=0)
    data = timm.data.resolve_data_config(model=theirs)
    assert tuple(data["mean"]) == encoder.config.preprocess.mean
    assert tuple(data["std"]) == encoder.config.preprocess.std
    assert (tuple(data["input_size"]), data["crop_mode"], data["crop_pct"]) == ((channels, 32, 32), "center", 1.0)


@pytest.mark.parametrize("to", ["pacx", "timm"])
def test_timm_loads_the_file_into_a_size_that_it_knows(to: Any, tmp_path: Path) -> None:
    preprocess = Preprocess(image_size=32)
    encoder = Encoder(EncoderConfig.named("tiny", preprocess=preprocess)).eval()
    folder = export(encoder, tmp_path / to, to=to)
    path = str(folder / "model.safetensors")
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=32, checkpoint_path=path)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.eval().forward_features(images(1)), encoder.tokens(images(1)), atol=1e-5, rtol=0
        )
    assert to == "pacx" or json.loads((folder / "config.json").read_text())["architecture"] == "vit_tiny_patch16_224"


@pytest.mark.slow
def test_timm_loads_vit_base_of_the_paper_by_its_name(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig.named("base", preprocess=Preprocess())).eval()
    path = str(export(encoder, tmp_path / "timm", to="timm") / "model.safetensors")
    theirs = timm.create_model("vit_base_patch16_224", num_classes=0, in_chans=1, checkpoint_path=path).eval()
    gray = torch.randn(1, 1, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(gray), encoder(gray), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_hugging_face_loads_the_folder_with_equal_features(channels: int, eps: float, tmp_path: Path) -> None:
    encoder = make(channels=channels, eps=eps)
    folder = export(encoder, tmp_path / "hf", to="huggingface")
    theirs, report = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        found = theirs.eval()(images(channels)).last_hidden_state
        torch.testing.assert_close(found, encoder.tokens(images(channels)), atol=1e-5, rtol=0)
    auto = transformers.AutoModel.from_pretrained(folder)
    torch.testing.assert_close(auto.eval()(images(channels)).last_hidden_state, found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("geometry", ["squash", "crop"])
def test_hugging_faces_processor_prepares_images_as_we_do(channels: int, geometry: Geometry, tmp_path: Path) -> None:
    encoder = make(channels=channels, geometry=geometry)
    processor = transformers.AutoImageProcessor.from_pretrained(export(encoder, tmp_path / "hf", to="huggingface"))
    rows, columns = np.mgrid[:64, :48] / 64.0
    pixels = np.round(255 * (0.2 + 0.3 * rows + 0.4 * columns)).astype(np.uint8)
    picture = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    theirs = processor(picture, return_tensors="np")["pixel_values"][0]
    ours = encoder.config.preprocess(pixels.astype(np.float32) / 255)
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(theirs, ours, atol=2 / 255 / 0.2)  # they round to 8 bits along the way


def test_what_a_library_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"epsilon of 1e-06, and this encoder has 1e-05.*Pass eps 1e-06"):
        export(make(eps=1e-5), tmp_path / "timm", to="timm")
    with pytest.raises(PacxError, match="cannot pad"):
        export(make(geometry="pad"), tmp_path / "hf", to="huggingface")
    with pytest.raises(PacxError, match="no layout 'onnx'"):
        export(make(), tmp_path / "onnx", to="onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_layout_takes_the_place_of_another_but_not_of_something_else(tmp_path: Path) -> None:
    encoder = make()
    save_encoder(encoder, tmp_path / "encoder")
    export(encoder, tmp_path / "encoder", to="huggingface")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    with pytest.raises(PacxError, match="not replaced"):
        export(encoder, tmp_path, to="timm")
