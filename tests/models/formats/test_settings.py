"""What a source leaves open: conventions, the user's word, image sizes, channels, hub names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from foreign import (
    HEADS,
    IMAGENET,
    Foreign,
    fixed_table,
    images,
    mae_state,
    of_huggingface,
    of_mae,
    of_pacx,
    of_timm,
    shake,
    timm_vit,
)
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from pacx import load_encoder
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder, sincos_positions, weights_hash
from pacx.preprocess import Preprocess

torch.set_num_threads(1)


def written(source: Foreign, folder: Path) -> Path:
    return source.write(source.state, folder)


def test_the_user_comes_before_the_source(tmp_path: Path) -> None:
    folder = written(of_huggingface("ViTModel", processor=True), tmp_path)
    said = {"eps": 1e-4, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.1), "geometry": "pad", "heads": 8}
    config = load_encoder(folder, **said).config  # type: ignore[arg-type]
    assert (config.layer_norm_eps, config.heads) == (1e-4, 8)
    assert config.preprocess == Preprocess(32, "pad", (0.4, 0.5, 0.6), (0.2, 0.2, 0.1))
    assert config.provenance["given"] == {**said, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.1]}
    assert config.provenance["assumed"] == {}
    assert config.provenance["stated"]["eps"] == 1e-3


def test_the_users_epsilon_is_the_one_that_is_computed_with(tmp_path: Path) -> None:
    path = written(of_timm(), tmp_path)
    small, large = (load_encoder(path, heads=HEADS, eps=eps) for eps in (1e-6, 1e-1))
    with torch.no_grad():
        expected = nn.functional.layer_norm(
            small.vit.blocks(small.embed(images())), (64,), small.vit.norm.weight, small.vit.norm.bias, 1e-6
        )
        torch.testing.assert_close(small.tokens(images()), expected)
        assert (small(images()) - large(images())).abs().max() > 1e-3


def test_our_own_encoder_follows_the_user_too_and_says_so(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig(Preprocess(image_size=32), patch_size=8, width=32, depth=1, heads=2))
    folder = save_encoder(encoder, tmp_path / "encoder")
    assert "changed" not in load_encoder(folder).config.provenance
    changed = load_encoder(folder, eps=1e-5, mean=[0.4], geometry="crop").config
    assert (changed.layer_norm_eps, changed.preprocess.mean, changed.preprocess.geometry) == (1e-5, (0.4,), "crop")
    (note,) = changed.provenance["changed"]
    assert "eps 1e-05" in note
    assert "mean [0.4]" in note
    assert load_encoder(folder, mean=0.4, std=np.array([0.2])).config.preprocess.mean == (0.4,)  # as people write it
    with pytest.raises(PacxError, match="1 input channels; found mean"):
        load_encoder(folder, mean=[0.4, 0.4, 0.4], std=[1, 1, 1])
    fresh = load_encoder(f"random:{folder}:1", image_size=64, eps=1e-5).config
    assert (fresh.preprocess.image_size, fresh.layer_norm_eps) == (64, 1e-5)


def test_heads_are_width_over_64_unless_told_and_that_is_written_down(tmp_path: Path) -> None:
    vit = timm_vit(embed_dim=128, num_heads=2)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder(tmp_path / "vit.safetensors")
    assert encoder.config.provenance["assumed"]["heads"] == 2
    torch.testing.assert_close(encoder(images()), vit.forward_features(images())[:, 0], atol=1e-5, rtol=0)
    odd = timm_vit(embed_dim=48, num_heads=4)
    save_file(odd.state_dict(), tmp_path / "odd.safetensors")
    with pytest.raises(PacxError, match=r"width 48 is no multiple .* Pass heads"):
        load_encoder(tmp_path / "odd.safetensors")
    with pytest.raises(PacxError, match="5 heads"):
        load_encoder(tmp_path / "odd.safetensors", heads=5)


def test_a_one_channel_file_needs_a_normalisation(tmp_path: Path) -> None:
    vit = timm_vit(in_chans=1, fixed=True)
    torch.save({"model": mae_state(vit)}, tmp_path / "gray.pth")
    with pytest.raises(PacxError, match=r"1 input channel and does not say .* Pass mean and std"):
        load_encoder(tmp_path / "gray.pth", heads=HEADS)
    encoder = load_encoder(tmp_path / "gray.pth", heads=HEADS, mean=[0.5], std=[0.3])
    gray = images(channels=1)
    torch.testing.assert_close(encoder(gray), vit.forward_features(gray)[:, 0], atol=1e-5, rtol=0)
    with pytest.raises(PacxError, match=r"1 input channels; found mean \[0.1, 0.2, 0.3\]"):
        load_encoder(tmp_path / "gray.pth", heads=HEADS, mean=[0.1, 0.2, 0.3], std=[0.3])


def test_free_widths_of_the_mlp_are_kept(tmp_path: Path) -> None:
    vit = timm_vit(mlp_ratio=47.0 / 64)
    assert vit.blocks[0].mlp.fc1.out_features == 47
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder(tmp_path / "vit.safetensors", heads=HEADS)
    torch.testing.assert_close(encoder(images()), vit.forward_features(images())[:, 0], atol=1e-5, rtol=0)


def test_every_hidden_width_is_found_again_from_its_ratio() -> None:
    from pacx.models.formats.network import _ratio

    for width in (48, 64, 192, 768, 1152):
        for hidden in (1, 7, width - 1, 4 * width - 1, 4 * width, 4304):
            assert int(width * _ratio(hidden, width)) == hidden


def test_positions_without_one_for_the_class_token_get_zeros(tmp_path: Path) -> None:
    vit = timm_vit(no_embed_class=True)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder(tmp_path / "vit.safetensors", heads=HEADS)
    assert not encoder.vit.pos_embed[0, 0].any()
    torch.testing.assert_close(encoder.tokens(images()), vit.forward_features(images()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [16, 24, 64])
def test_learned_positions_are_resampled_as_timm_does(size: int, tmp_path: Path) -> None:
    source = timm_vit()
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder(tmp_path / "vit.safetensors", heads=HEADS, image_size=size)
    grid = size // 8
    theirs = timm_vit(img_size=size)
    table = resample_abs_pos_embed(source.pos_embed, [grid, grid])
    theirs.load_state_dict({**source.state_dict(), "pos_embed": table})
    torch.testing.assert_close(
        encoder.tokens(images(size=size)), theirs.forward_features(images(size=size)), atol=1e-5, rtol=0
    )
    assert encoder.config.preprocess.image_size == size
    assert encoder.config.provenance["changed"] == [f"positions resampled, bicubic: 4 x 4 -> {grid} x {grid} patches"]


@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [of_mae, lambda: of_huggingface("ViTMAEModel")])
def test_fixed_positions_are_computed_anew_not_interpolated(make: Any, half: Any, tmp_path: Path) -> None:
    source = make()
    state = {name: value.to(half or value.dtype) for name, value in source.state.items()}
    path = source.write(state, tmp_path)
    encoder = load_encoder(path, image_size=56, **source.arguments)
    torch.testing.assert_close(encoder.vit.pos_embed.data, fixed_table(7), atol=1e-6, rtol=0)
    assert torch.equal(encoder.vit.pos_embed[0], sincos_positions(64, 7))
    assert encoder.config.provenance["changed"] == ["positions computed anew: 4 x 4 -> 7 x 7 patches"]
    assert not encoder.vit.pos_embed.requires_grad


def test_an_image_size_that_fits_changes_nothing(tmp_path: Path) -> None:
    path = written(of_timm(), tmp_path)
    same = load_encoder(path, heads=HEADS, image_size=32)
    assert weights_hash(same) == weights_hash(load_encoder(path, heads=HEADS))
    assert "changed" not in same.config.provenance
    with pytest.raises(PacxError, match="Use 32 or 40"):
        load_encoder(path, heads=HEADS, image_size=36)


@pytest.mark.parametrize("make", [of_timm, of_mae, lambda: of_huggingface("ViTModel", processor=True)])
def test_folding_keeps_the_features_of_gray_images(make: Any, tmp_path: Path) -> None:
    source = make()
    path = written(source, tmp_path)
    colour, gray = (load_encoder(path, fold=fold, **source.arguments) for fold in (False, True))
    assert gray.config.preprocess.in_chans == 1
    assert gray.config.preprocess.mean[0] == pytest.approx(sum(source.mean) / 3)
    pixels = np.random.default_rng(0).random((2, 32, 32), dtype=np.float32)
    seen = torch.from_numpy(colour.config.preprocess.normalise(pixels))
    assert seen.shape == (2, 3, 32, 32)
    with torch.no_grad():
        expected = source.tokens(seen)
        found = gray.tokens(torch.from_numpy(gray.config.preprocess.normalise(pixels)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert gray.config.provenance["changed"] == ["3 input channels folded into one"]
    assert weights_hash(load_encoder(save_encoder(gray, tmp_path / "gray"), fold=True)) == weights_hash(gray)


def test_loading_draws_nothing_from_the_callers_random_stream(tmp_path: Path) -> None:
    path = written(of_pacx(tmp_path), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_encoder(path, heads=HEADS, fold=True, image_size=64)
    assert torch.equal(torch.rand(1), expected)


def test_the_weights_do_not_hang_on_the_file(tmp_path: Path) -> None:
    path = written(of_mae(), tmp_path)
    encoder = load_encoder(path, heads=HEADS)
    before = weights_hash(encoder)
    path.write_bytes(bytes(path.stat().st_size))  # in place, under a map of the file
    assert weights_hash(encoder) == before


def pretrained(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """Let timm 'download' a small network with a configuration of its own."""
    vit = timm_vit(num_classes=0, img_size=32)
    vit.pretrained_cfg = {**vit.pretrained_cfg, "mean": IMAGENET, "std": (0.2, 0.3, 0.4), "license": "mit", **changes}
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_model(name: str, **arguments: Any) -> nn.Module:
        calls.append((name, arguments))
        return vit  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", create_model)
    return vit, calls


@pytest.mark.parametrize("name", ["timm:vit_base_patch16_224.mae", "vit_base_patch16_224.mae"])
def test_a_timm_name_is_made_by_timm_with_its_own_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vit, calls = pretrained(monkeypatch, crop_mode="squash")
    encoder = load_encoder(name)
    assert calls == [("vit_base_patch16_224.mae", {"pretrained": True, "num_classes": 0})]
    torch.testing.assert_close(encoder.tokens(images()), vit.forward_features(images()), atol=1e-5, rtol=0)
    config = encoder.config
    assert config.preprocess == Preprocess(32, "squash", IMAGENET, (0.2, 0.3, 0.4))
    assert config.heads == HEADS
    assert config.provenance["name"] == "timm:vit_base_patch16_224.mae"
    assert config.provenance["license"] == "mit"
    assert config.provenance["assumed"] == {}


def test_another_architecture_or_activation_of_timm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = pretrained(monkeypatch)
    vit.blocks[0].mlp.act = nn.SiLU()
    with pytest.raises(PacxError, match="computes with SiLU"):
        load_encoder("timm:vit_base_patch16_224")
    other = timm.models.eva.Eva(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    other.pretrained_cfg = {}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: other)
    with pytest.raises(PacxError, match=r"a norm after pooling|Eva"):
        load_encoder("timm:eva02_tiny_patch14_224")
    resnet = timm.models.resnet18()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: resnet)
    with pytest.raises(PacxError, match="missing: cls_token"):
        load_encoder("timm:resnet18")


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    for source in ("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224", "hf-hub:facebook/vit-mae-base"):
        with pytest.raises(
            PacxError, match=r"cannot be fetched \(ConnectionError: Name or service not known\)\. Check"
        ):
            load_encoder(source)


def test_an_unknown_timm_name_is_answered_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(PacxError, match="timm has no architecture 'vit_basic'"):
        load_encoder("timm:vit_basic")
    with pytest.raises(PacxError, match="does not exist"):
        load_encoder("vit_basic")


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_hub_name_is_fetched_as_a_folder(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_huggingface("ViTMAEForPreTraining", layout=layout)
    folder = written(source, tmp_path)
    wanted = []

    def snapshot_download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        wanted.append((repository, revision, "pytorch_model.bin" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    encoder = load_encoder("hf-hub:owner/name@abc")
    torch.testing.assert_close(encoder.tokens(images()), source.tokens(images()), atol=1e-5, rtol=0)
    assert wanted == [("owner/name", "abc", False)] + [("owner/name", "abc", True)] * (layout == "bin")
    assert encoder.config.provenance["file"].startswith("hf-hub:owner/name@abc/")
    assert encoder.config.provenance["revision"] == folder.name


def test_a_timm_folder_gives_settings_and_activation(tmp_path: Path) -> None:
    vit = timm_vit(num_classes=3)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": HEADS}
    cfg = {"mean": IMAGENET, "std": [0.2, 0.3, 0.4], "crop_mode": "squash", "license": "mit"}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": shape, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(tmp_path)
    assert encoder.config.preprocess == Preprocess(32, "squash", IMAGENET, (0.2, 0.3, 0.4))
    assert (encoder.config.heads, encoder.config.provenance["license"]) == (HEADS, "mit")
    torch.testing.assert_close(encoder(images()), vit.forward_features(images())[:, 0], atol=1e-5, rtol=0)
    quick = {**config, "model_args": {**shape, "act_layer": "quick_gelu"}}
    (tmp_path / "config.json").write_text(json.dumps(quick))
    with pytest.raises(PacxError, match="QuickGELU"):
        load_encoder(tmp_path)


def test_a_network_of_hugging_face_without_biases_of_the_queries_has_zeros_there(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        qkv_bias=False,
    )  # fmt: skip
    network = shake(transformers.ViTModel(config))
    network.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert not encoder.vit.blocks[1].attn.qkv.bias.any()
    torch.testing.assert_close(encoder.tokens(images()), network(images()).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("processor", "geometry", "mean"),
    [
        ({"size": 32, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}, "squash", (0.1,) * 3),
        ({"size": {"shortest_edge": 32}, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}, "crop", (0.1,) * 3),
        ({"size": {"height": 32, "width": 32}, "do_normalize": False}, "squash", (0.0,) * 3),
        ({}, "squash", (0.5,) * 3),
    ],
)
def test_the_image_processor_gives_normalisation_and_geometry(
    processor: dict[str, Any], geometry: str, mean: tuple[float, ...], tmp_path: Path
) -> None:
    folder = written(of_huggingface("ViTModel"), tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    preprocess = load_encoder(folder).config.preprocess
    assert (preprocess.geometry, preprocess.mean) == (geometry, mean)


def test_an_image_processor_with_other_pixel_values_is_refused(tmp_path: Path) -> None:
    folder = written(of_huggingface("ViTModel"), tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"rescale_factor": 1 / 127.5}))
    with pytest.raises(PacxError, match="scales pixels otherwise"):
        load_encoder(folder)
