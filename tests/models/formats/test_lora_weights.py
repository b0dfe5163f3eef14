"""PEFT's adapters: merged as PEFT merges them, with the alpha of the file, the user or the paper."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from foreign import HALF, HEADS, images, of_huggingface, of_pacx, shake, timm_vit, transformers

from pacx import load_encoder
from pacx.errors import PacxError

torch.set_num_threads(1)


def tokens(source: Path, **arguments: object) -> torch.Tensor:
    encoder = load_encoder(source, heads=HEADS, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        return encoder.tokens(images())


def test_alpha_comes_from_the_hyper_parameters_before_the_published_one(tmp_path: Path) -> None:
    source = of_pacx(tmp_path, alpha=5, rank=4, settings={"lora_alpha": 5, "lr": 1e-4})
    path = source.write(source.state, tmp_path)
    torch.testing.assert_close(tokens(path), source.tokens(images()), atol=1e-5, rtol=0)
    assert load_encoder(path, heads=HEADS).config.provenance["merged"] == {
        "alpha": 5.0,
        "alpha_from": "hyper-parameters",
        "ranks": [4],
    }


def test_alpha_of_the_user_comes_before_all(tmp_path: Path) -> None:
    source = of_pacx(tmp_path, alpha=24, rank=4, settings={"peft": {"lora_alpha": 5}})
    path = source.write(source.state, tmp_path)
    torch.testing.assert_close(tokens(path, lora_alpha=24), source.tokens(images()), atol=1e-5, rtol=0)
    assert (tokens(path) - source.tokens(images())).abs().max() > 1e-3
    with pytest.raises(PacxError, match="lora_alpha 0"):
        load_encoder(path, lora_alpha=0)


def test_the_published_alpha_is_said_to_be_assumed(tmp_path: Path) -> None:
    source = of_pacx(tmp_path)
    provenance = load_encoder(source.write(source.state, tmp_path), heads=HEADS).config.provenance
    assert provenance["merged"] == {"alpha": 16.0, "alpha_from": "published", "ranks": [8]}
    assert provenance["assumed"]["eps"] == 1e-5


def test_eps_of_a_pacx_checkpoint_can_be_overridden(tmp_path: Path) -> None:
    source = of_pacx(tmp_path)
    encoder = load_encoder(source.write(source.state, tmp_path), heads=HEADS, eps=1e-6)
    assert encoder.vit.norm.eps == 1e-6
    assert encoder.config.provenance["given"] == {"eps": 1e-6, "heads": HEADS}


def test_a_pacx_checkpoint_without_adapters_is_read(tmp_path: Path) -> None:
    vit = timm_vit(eps=1e-5, num_classes=0)
    state = {f"cxr_encoder.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"state_dict": {**state, "cxr_to_ecg.mlp.1.weight": torch.zeros(2, 2)}}, tmp_path / "last.ckpt")
    torch.testing.assert_close(tokens(tmp_path / "last.ckpt"), vit.forward_features(images()), atol=1e-5, rtol=0)
    assert load_encoder(tmp_path / "last.ckpt", heads=HEADS).config.provenance["format"] == "pacx-checkpoint"


def test_a_peft_network_of_anyone_needs_its_alpha(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=r".*attn\.proj")
    adapted = shake(peft.get_peft_model(timm_vit(), config), seed=1)
    torch.save(adapted.state_dict(), tmp_path / "peft.pt")
    with pytest.raises(PacxError, match="without their alpha"):
        load_encoder(tmp_path / "peft.pt", heads=HEADS)
    expected = adapted.base_model.model.forward_features(images())
    torch.testing.assert_close(tokens(tmp_path / "peft.pt", lora_alpha=3), expected, atol=1e-5, rtol=0)


def test_adapters_of_a_hugging_face_network_are_merged(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    network = shake(transformers.ViTModel(config))
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "fc1"], modules_to_save=["layernorm"])
    adapted = shake(peft.get_peft_model(network, lora), seed=1)
    torch.save(adapted.state_dict(), tmp_path / "vit.pt")
    found = tokens(tmp_path / "vit.pt", lora_alpha=4)
    torch.testing.assert_close(found, adapted(images()).last_hidden_state, atol=1e-5, rtol=0)


def test_a_lone_adapter_is_refused_in_file_and_folder(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(timm_vit(), peft.LoraConfig(r=2, target_modules=["qkv"]))
    adapted.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(PacxError, match="adapter without the network"):
            load_encoder(source)


def test_several_adapters_are_refused_by_name(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(timm_vit(), peft.LoraConfig(r=2, target_modules=["qkv"]))
    adapted.add_adapter("second", peft.LoraConfig(r=2, target_modules=["qkv"]))
    torch.save(adapted.state_dict(), tmp_path / "two.pt")
    with pytest.raises(PacxError, match="default, second"):
        load_encoder(tmp_path / "two.pt", heads=HEADS, lora_alpha=1)


def test_another_kind_of_adapter_is_refused_by_its_keys(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(timm_vit(), peft.LoraConfig(r=2, target_modules=["qkv"], use_dora=True))
    torch.save(adapted.state_dict(), tmp_path / "dora.pt")
    with pytest.raises(PacxError, match=r"not known: .*blocks\.0\.attn\.qkv\.lora_magnitude_vector"):
        load_encoder(tmp_path / "dora.pt", heads=HEADS, lora_alpha=1)


def test_factors_that_do_not_fit_are_refused_with_their_shapes(tmp_path: Path) -> None:
    source = of_pacx(tmp_path)
    name = next(name for name in source.state if name.endswith("blocks.1.mlp.fc1.lora_A.default.weight"))
    path = source.write({**source.state, name: torch.zeros(8, 3)}, tmp_path)
    with pytest.raises(PacxError, match=r"blocks\.1\.mlp\.fc1 \(256, 64\) with B \(256, 8\) and A \(8, 3\)"):
        load_encoder(path, heads=HEADS)


def test_no_other_format_asks_for_an_alpha(tmp_path: Path) -> None:
    source = of_huggingface("ViTModel")
    config = load_encoder(source.write(source.state, tmp_path)).config
    assert "merged" not in config.provenance
    assert config.preprocess.mean == HALF
