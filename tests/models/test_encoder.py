"""The encoder: positions, file format, audited loading, attention maps, embedding of raw arrays."""

from __future__ import annotations

import json
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pacx.errors import PacxError
from pacx.models.channels import fold_channels
from pacx.models.encoder import (
    Encoder,
    EncoderConfig,
    load_encoder,
    save_encoder,
    sincos_positions,
    weights_hash,
)
from pacx.preprocess import Preprocess

torch.set_num_threads(1)


def tiny(*, channels: int = 1, **changes: object) -> EncoderConfig:
    preprocess = Preprocess(image_size=32, mean=(0.5, 0.4, 0.3)[:channels], std=(0.25, 0.2, 0.3)[:channels])
    return EncoderConfig(preprocess, **{"patch_size": 8, "width": 24, "depth": 2, "heads": 3, **changes})  # type: ignore[arg-type]


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(7)
    return Encoder(tiny()).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_base_encoder_has_the_parameters_of_vit_b_with_one_channel() -> None:
    with torch.device("meta"):
        base = Encoder(EncoderConfig.named("base", preprocess=Preprocess()))
    total = sum(p.numel() for p in base.parameters())
    # facts: 85.80 M with 3 channels; 2 x 16 x 16 x 768 fewer with one
    assert total == 85_798_656 - 2 * 256 * 768
    assert sum(p.numel() for p in base.parameters() if not p.requires_grad) == 197 * 768


def test_positions_put_the_column_first_and_leave_the_class_token_at_zero() -> None:
    table = sincos_positions(8, 3).numpy()
    assert table.shape == (10, 8)
    assert not table[0].any()
    row, column = 2, 1
    w = np.array([1.0, 0.01])
    expected = np.concatenate([np.sin(column * w), np.cos(column * w), np.sin(row * w), np.cos(row * w)])
    np.testing.assert_allclose(table[1 + row * 3 + column], expected, atol=1e-7)


def test_positions_are_fixed_and_every_other_weight_is_trainable(encoder: Encoder) -> None:
    assert [name for name, p in encoder.vit.named_parameters() if not p.requires_grad] == ["pos_embed"]


def test_initial_weights_are_xavier_uniform_with_zero_biases() -> None:
    torch.manual_seed(0)
    vit = Encoder(tiny(width=96)).requires_grad_(False).vit
    qkv, patch = vit.blocks[0].attn.qkv, vit.patch_embed.proj
    assert qkv.weight.abs().max() <= (6 / (96 + 3 * 96)) ** 0.5
    assert qkv.weight.std() == pytest.approx((2 / (96 + 3 * 96)) ** 0.5, rel=0.05)
    assert patch.weight.std() == pytest.approx((2 / (96 + 64)) ** 0.5, rel=0.05)
    assert not qkv.bias.any()
    assert vit.cls_token.std() == pytest.approx(0.02, rel=0.3)


def test_forward_is_the_class_token_of_tokens(encoder: Encoder, images: torch.Tensor) -> None:
    tokens = encoder.tokens(images)
    assert tokens.shape == (2, 17, 24)
    torch.testing.assert_close(encoder(images), tokens[:, 0])
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 17), atol=1e-5, rtol=0)


def test_saved_encoder_loads_with_equal_weights_and_configuration(encoder: Encoder, tmp_path: Path) -> None:
    folder = save_encoder(encoder, tmp_path / "run" / "encoder")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_encoder(folder)
    assert loaded.config == encoder.config
    assert weights_hash(loaded) == weights_hash(encoder)
    assert not loaded.training
    assert not loaded.vit.pos_embed.requires_grad
    assert loaded.vit.cls_token.requires_grad
    assert load_encoder(str(folder)).vit.norm.eps == 1e-6


def test_saving_replaces_an_older_encoder_and_leaves_nothing_else_behind(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "encoder")
    other = Encoder(tiny(depth=1))
    save_encoder(other, tmp_path / "encoder")
    assert weights_hash(load_encoder(tmp_path / "encoder")) == weights_hash(other)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_saving_does_not_replace_a_folder_of_something_else(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PacxError, match="not replaced"):
        save_encoder(encoder, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failing_save_leaves_the_old_encoder(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(encoder, tmp_path / "encoder")
    before = weights_hash(encoder)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pacx.models.weights.save_file", full_disk)
    with pytest.raises(PacxError, match="No space left"):
        save_encoder(Encoder(tiny()), tmp_path / "encoder")
    assert weights_hash(load_encoder(tmp_path / "encoder")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_renamed_key_is_refused_and_both_names_are_listed(encoder: Encoder, tmp_path: Path) -> None:
    folder = save_encoder(encoder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    weights["norm.scale"] = weights.pop("norm.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(PacxError, match=r"1 missing: norm\.weight; 1 unexpected: norm\.scale"):
        load_encoder(folder)


def test_a_weight_of_another_shape_is_refused_with_both_shapes(encoder: Encoder, tmp_path: Path) -> None:
    folder = save_encoder(encoder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    weights["norm.bias"] = torch.zeros(7)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(PacxError, match=r"norm\.bias \(7,\) instead of \(24,\)"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_truncated_file_is_refused_by_name(name: str, encoder: Encoder, tmp_path: Path) -> None:
    folder = save_encoder(encoder, tmp_path / "encoder")
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PacxError, match=name):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, r"unknown: \['colour'\]"),
        ({"heads": None}, r"Missing: \['heads'\]"),
        ({"format": "pacx-encoder-99"}, "pacx-encoder-99"),
        ({"depth": "many"}, "depth = 'many'"),
        ({"heads": 5}, "5 heads"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    change: dict[str, object], message: str, encoder: Encoder, tmp_path: Path
) -> None:
    folder = save_encoder(encoder, tmp_path / "encoder")
    content = {**json.loads((folder / "config.json").read_text()), **change}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    with pytest.raises(PacxError, match=message):
        load_encoder(folder)


def test_an_image_size_that_is_no_multiple_of_the_patch_names_the_nearest() -> None:
    with pytest.raises(PacxError, match="216 or 240"):
        EncoderConfig(Preprocess(image_size=224), patch_size=24)


def test_a_run_folder_is_answered_with_the_encoder_inside_it(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "encoder")
    with pytest.raises(PacxError, match=r"Did you mean .*encoder\?"):
        load_encoder(tmp_path)
    with pytest.raises(PacxError, match="random:FOLDER"):
        load_encoder(tmp_path / "nowhere")


def test_random_keeps_the_architecture_and_draws_weights_by_seed(encoder: Encoder, tmp_path: Path) -> None:
    folder = save_encoder(encoder, tmp_path / "encoder")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    zero, again, one = (load_encoder(f"random:{folder}{suffix}") for suffix in ("", ":0", ":1"))
    torch.testing.assert_close(torch.rand(1), expected)  # the caller's random stream is untouched
    assert zero.config.preprocess == encoder.config.preprocess
    assert zero.config.provenance == {"weights": "random, seed 0"}
    assert weights_hash(zero) == weights_hash(again)
    assert len({weights_hash(item) for item in (zero, one, encoder)}) == 3


def test_attention_maps_are_the_ones_that_the_network_uses(encoder: Encoder, images: torch.Tensor) -> None:
    maps = encoder.attention(images)
    assert [tuple(item.shape) for item in maps] == [(2, 3, 17, 17)] * 2
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 3, 17))
    block = encoder.vit.blocks[0]
    q, k, _ = block.attn.qkv(block.norm1(encoder.embed(images))).reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(maps[0], (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1))
    assert all(item.attn.fused_attn for item in encoder.vit.blocks)
    assert not block.attn.attn_drop._forward_pre_hooks


def test_encode_preprocesses_arrays_of_any_size_and_batches_them(encoder: Encoder) -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.random(shape, dtype=np.float32) for shape in ((32, 32), (50, 40), (17, 90))]
    expected = np.stack([encoder(torch.from_numpy(encoder.config.preprocess(a))[None])[0].detach() for a in arrays])
    encoder.train()
    found = encoder.encode(arrays, batch_size=2)
    assert encoder.training
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(arrays[1]), expected[1:2], atol=1e-5)
    ready = torch.from_numpy(encoder.config.preprocess(arrays[0]))[None]
    np.testing.assert_allclose(encoder.encode(ready), expected[:1], atol=1e-5)


def test_a_path_its_bytes_and_its_pixels_are_one_image(encoder: Encoder, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    path = tmp_path / "chest.png"
    Image.fromarray(levels).save(path)
    forms = [path, str(path), path.read_bytes(), levels, levels.astype(np.uint16) * 257, levels / np.float32(255)]
    expected = encoder.encode(levels.astype(np.float32) / 255)
    for form in forms:
        np.testing.assert_allclose(encoder.encode(form), expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(forms), np.repeat(expected, len(forms), axis=0), atol=1e-6)
    with torch.inference_mode():
        tokens, maps = encoder.tokens(path), encoder.attention([path, levels])
    np.testing.assert_allclose(tokens[:, 0].numpy(), expected, atol=1e-5)
    assert maps[0].shape[:2] == (2, encoder.config.heads)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "No images"),
        ([np.full((8, 8), 255.0)], "255"),
        ([np.full((8, 8), np.nan)], "nan"),
        ([np.zeros((8, 8), dtype=np.int64)], "int64"),
        ([17], "int"),
        ([np.zeros((8, 8, 3))], r"\(8, 8, 3\)"),
        ((), "No images"),
        (np.zeros((0, 40, 50)), "No images"),
        (torch.zeros(0, 1, 32, 32), "No images"),
        (None, "Found NoneType; an image is a path"),
        (3, "Found int; an image is a path"),
        ({"a.png": 1}, "Found dict; an image is a path"),
        (Image.new("L", (40, 50)), "Found Image; an image is a path"),
        (StringIO("text"), "binary one"),
        (np.zeros((0, 5)), r"\(0, 5\) without any pixel"),
        (np.zeros((0, 5), np.uint8), r"\(0, 5\) without any pixel"),
        (np.float32(1), "float32"),
        (np.zeros((40, 50, 3)), r"\(40, 50, 3\).*colour picture.*gray \(H, W\).*list\(stack\)"),
        (np.zeros((40, 50, 4), np.uint8), "colour picture"),
        (np.zeros((40, 50, 1)), "colour picture"),
        (np.zeros((3, 40, 50)), "colour picture"),
        (np.zeros((4, 40, 50)), "colour picture"),
        (np.zeros((2, 1, 32, 32)), r"\(2, 1, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32), "1, 32, 32"),
        (torch.tensor(1.0), "1, 32, 32"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "tensor of uint8"),
        (torch.zeros(2, 1, 32, 32).index_fill(0, torch.tensor(1), torch.nan), r"NaN or infinity in image 1"),
        (torch.zeros(2, 1, 32, 32).index_fill(2, torch.tensor(5), torch.inf), r"NaN or infinity in image 0"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "prepare", "tokens", "attention"])
def test_what_is_no_image_is_refused(images: object, message: str, method: str, encoder: Encoder) -> None:
    with pytest.raises(PacxError, match=message):
        getattr(encoder, method)(images)


def test_a_stack_and_its_list_are_the_same_images(encoder: Encoder) -> None:
    stack = np.random.default_rng(0).random((5, 40, 50), dtype=np.float32)
    np.testing.assert_array_equal(encoder.encode(stack), encoder.encode(list(stack)))
    assert encoder.encode(list(stack[:3])).shape == (3, 24)  # as a stack it could be a colour picture


def test_open_files_and_columns_of_paths_are_images(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "chest.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)).save(path)
    expected = encoder.encode(path)
    with path.open("rb") as file:
        np.testing.assert_array_equal(encoder.encode(file), expected)
    forms = [BytesIO(path.read_bytes()), bytearray(path.read_bytes())]
    np.testing.assert_allclose(encoder.encode(forms), np.repeat(expected, 2, axis=0), atol=1e-6)  # type: ignore[arg-type]
    for column in (np.array([str(path)] * 2), pd.Series([str(path)] * 2), iter([path, path])):
        np.testing.assert_allclose(encoder.encode(column), np.repeat(expected, 2, axis=0), atol=1e-6)  # type: ignore[arg-type]


def test_tensors_take_the_type_of_the_weights(encoder: Encoder, images: torch.Tensor) -> None:
    expected = encoder.encode(images)
    np.testing.assert_allclose(encoder.encode(images.double()), expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(images.half()), expected, atol=0.02)
    assert encoder.prepare(images) is images
    gray = np.zeros((32, 32), np.float32)
    assert encoder.bfloat16().prepare(gray).dtype == encoder.prepare(images).dtype == torch.bfloat16


def test_gradients_are_for_prepared_tensors_only(encoder: Encoder, images: torch.Tensor) -> None:
    gray = [np.random.default_rng(0).random((40, 50), dtype=np.float32)]
    assert encoder.tokens(gray).numpy().shape == (1, 17, 24)
    assert [item.numpy().shape for item in encoder.attention(gray)] == [(1, 3, 17, 17)] * 2
    assert not encoder.prepare(gray).requires_grad
    torch.testing.assert_close(encoder.tokens(gray), encoder.tokens(encoder.prepare(gray)).detach())
    images.requires_grad_()
    (encoder.tokens(images).square().sum() + encoder.attention(images)[0].square().sum()).backward()
    assert images.grad is not None
    assert encoder.vit.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_of_less_than_one_image_is_refused(batch_size: int, encoder: Encoder) -> None:
    with pytest.raises(PacxError, match=f"batch_size is {batch_size}; it must be 1 or more"):
        encoder.encode(np.zeros((8, 8)), batch_size=batch_size)


def test_folding_channels_keeps_the_embedding_of_a_gray_image() -> None:
    torch.manual_seed(0)
    colour = Encoder(tiny(channels=3)).eval()
    gray = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    folded = fold_channels(colour, mean=0.5, std=0.25)
    assert folded.config.preprocess.in_chans == 1
    np.testing.assert_allclose(folded.encode(gray), colour.encode(gray), atol=1e-5)


def test_hash_changes_with_one_weight(encoder: Encoder) -> None:
    before = weights_hash(encoder)
    with torch.no_grad():
        encoder.vit.norm.bias[3] += 1e-6
    assert weights_hash(encoder) != before
