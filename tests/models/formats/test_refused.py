"""What our encoder cannot represent, and what is no file of weights at all, is refused in words that help."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import HEADS, mae_state, of_huggingface, of_mae, shake, timm, timm_vit, transformers
from safetensors.torch import save_file
from timm.layers import SwiGLU

from pacx import load_encoder
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder
from pacx.preprocess import Preprocess

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reg_tokens": 2}, r"register tokens \(reg_token\)"),
        ({"init_values": 0.1}, r"layer scale \(blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma, blocks\.1\.ls1\.gamma, "),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, r"no class token \(cls_token\)"),
        ({"global_pool": "avg"}, r"a norm after pooling the patches.* \(fc_norm\.bias, fc_norm\.weight\)"),
        ({"qk_norm": True}, r"normalised queries and keys \(blocks\.0\.attn\.k_norm\.bias"),
        ({"pre_norm": True}, r"a norm before the blocks \(norm_pre\.bias"),
        ({"mlp_layer": SwiGLU}, r"SwiGLU.* \(blocks\.0\.mlp\.fc1_g\.bias"),
        ({"global_pool": "map"}, r"attention pooling \(attn_pool\.kv\.bias"),
        ({"qkv_bias": False}, r"2 missing: blocks\.0\.attn\.qkv\.bias, blocks\.1\.attn\.qkv\.bias"),
        ({"final_norm": False}, r"2 missing: norm\.weight, norm\.bias"),
        ({"pos_embed": "none"}, r"1 missing: pos_embed"),
    ],
)
def test_a_network_that_is_no_plain_vit_is_refused_by_its_keys(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_file(timm_vit(**changes).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(PacxError, match=message):
        load_encoder(tmp_path / "vit.safetensors", heads=HEADS)


def test_a_distilled_vit_is_refused_by_its_keys(tmp_path: Path) -> None:
    vit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    save_file(vit.state_dict(), tmp_path / "deit.safetensors")
    with pytest.raises(PacxError, match=r"a distillation token \(dist_token, head_dist\.bias"):
        load_encoder(tmp_path / "deit.safetensors")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Dinov2", r"layer scale \(encoder\.layer\.0\.layer_scale1\.lambda1"),
        ("DeiT", r"a distillation token \(embeddings\.distillation_token"),
        ("ViTMSN", r"'vit_msn'; of transformers' networks pacx takes vit and vit_mae"),
    ],
)
def test_another_network_of_transformers_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(PacxError, match=message):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "'gelu_new'; pacx's encoder has the exact GELU"),
        ({"num_hidden_layers": 3}, r"missing: encoder\.layer\.2\."),
        ({"hidden_size": 32}, "width 64 instead of 32"),
        ({"image_size": 64}, "image_size 32 instead of 64"),
        ({"model_type": "swin"}, "'swin'"),
    ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = of_huggingface("ViTModel")
    folder = source.write(source.state, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(PacxError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("patch_embed.proj.weight", torch.zeros(64, 3, 8, 4), "square patches"),
        ("pos_embed", torch.zeros(1, 15, 64), r"pos_embed has shape \(1, 15, 64\)"),
        ("norm.bias", torch.zeros(7), r"norm\.bias \(7,\) instead of \(64,\)"),
    ],
)
def test_weights_of_shapes_that_no_plain_vit_has_are_refused(
    name: str, value: torch.Tensor, message: str, tmp_path: Path
) -> None:
    save_file({**timm_vit().state_dict(), name: value}, tmp_path / "vit.safetensors")
    with pytest.raises(PacxError, match=message):
        load_encoder(tmp_path / "vit.safetensors", heads=HEADS)


def test_two_networks_in_one_file_are_refused_by_their_prefixes(tmp_path: Path) -> None:
    state = {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in timm_vit().state_dict().items()
    }
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(PacxError, match=r"2 networks, under 'student\.', 'teacher\.'"):
        load_encoder(tmp_path / "dino.pth")


def test_another_kind_of_network_is_refused_with_some_of_its_keys(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(PacxError, match=r"2 tensors of no vision transformer .*0\.bias, 0\.weight"):
        load_encoder(tmp_path / "linear.pt")


def test_a_working_file_of_a_run_is_answered_with_the_encoder_of_the_run(tmp_path: Path) -> None:
    config = EncoderConfig(Preprocess(image_size=32), patch_size=8, width=32, depth=1, heads=2)
    model = MaskedAutoencoder(Encoder(config), decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)
    save_file(model.state_dict(), tmp_path / "mae.safetensors")
    with pytest.raises(PacxError, match="RUN/encoder"):
        load_encoder(tmp_path / "mae.safetensors")


class _Malicious:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar", ""])
@pytest.mark.parametrize("way", ["torch", "old torch", "pickle 2", "pickle 5"])
@pytest.mark.parametrize("place", ["top", "beside the weights", "in the arguments"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(suffix: str, way: str, place: str, tmp_path: Path) -> None:
    bomb = _Malicious(tmp_path / "marker")
    state = mae_state(timm_vit(fixed=True))
    content: Any = {
        "top": bomb,
        "beside the weights": {"model": state, "epoch": bomb},
        "in the arguments": {"model": state, "args": argparse.Namespace(lr=1, data=bomb)},
    }[place]
    path = tmp_path / f"weights{suffix}"
    if way.startswith("pickle"):
        with path.open("wb") as file:
            pickle.dump(content, file, protocol=int(way[-1]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(PacxError, match=r"not loaded|nothing in it was run"):
        load_encoder(path, heads=HEADS)
    assert not bomb.marker.exists()


def test_a_model_folder_with_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    bomb = _Malicious(tmp_path / "marker")
    source = of_huggingface("ViTModel", layout="bin")
    folder = source.write(source.state, tmp_path / "vit")
    torch.save({**source.state, "extra": bomb}, folder / "pytorch_model.bin")
    with pytest.raises(PacxError, match=r"asks for posix\.mkdir"):
        load_encoder(folder)
    assert not bomb.marker.exists()


def test_a_whole_pickled_network_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(timm_vit(), tmp_path / "network.pth")
    with pytest.raises(PacxError, match=r"asks for timm\.models\.vision_transformer\.VisionTransformer"):
        load_encoder(tmp_path / "network.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_the_arguments_of_a_training_run_are_read_without_running_anything(legacy: bool, tmp_path: Path) -> None:
    source = of_mae(legacy=legacy)
    path = source.write(source.state, tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(path, weights_only=True)  # so the file does hold more than tensors
    assert load_encoder(path, heads=HEADS).config.provenance["entry"] == "model"


def _cut(folder: Path) -> Path:
    source = of_mae()
    path = source.write(source.state, folder)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def _cut_safetensors(folder: Path) -> Path:
    save_file(timm_vit().state_dict(), folder / "vit.safetensors")
    (folder / "vit.safetensors").write_bytes((folder / "vit.safetensors").read_bytes()[:5000])
    return folder / "vit.safetensors"


def _written(name: str, content: bytes) -> Any:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def _saved(content: Any) -> Any:
    def write(folder: Path) -> Path:
        torch.save(content, folder / "x.pt")
        return folder / "x.pt"

    return write


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 344000000\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_cut, "cut short"),
        (_cut_safetensors, "cut short"),
        (_written("notes.pth", b"these are my weights\n"), "neither a PyTorch file nor a readable safetensors file"),
        (_written("vit.npz", b"PK\x03\x04" + bytes(400)), "cannot be read as a PyTorch file"),
        (_written("empty.pt", b""), "is empty"),
        (_written("model.onnx", b"\x08\x0a"), "is an exported model"),
        (_written("model.safetensors", _POINTER), "git lfs pull"),
        (_written("vit.pth", b"<!DOCTYPE html><html>Sign in</html>"), "a web page"),
        (_empty_folder, "is not an encoder folder: it has no config.json"),
        (lambda folder: folder / "nowhere.pth", "does not exist. An encoder is"),
        (_saved(torch.zeros(3)), "holds a Tensor"),
        (_saved([1, 2]), "holds a list"),
        (_saved({"epoch": 3, "state_dict": {}}), "no tensors; its entries are: epoch, state_dict"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_in_one_paragraph(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=message) as caught:
        load_encoder(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("content", "message"),
    [({"model_type": "vit"}, "no weights beside it"), ({"colour": 1}, "no model that pacx knows"), ([], "JSON list")],
)
def test_a_folder_that_is_no_model_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(PacxError, match=message):
        load_encoder(tmp_path)


def test_a_timm_folder_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    save_file(shake(timm_vit()).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_of_tomorrow"}))
    with pytest.raises(PacxError, match="vit_of_tomorrow"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_args": {"checkpoint_path": "evil.pth"}}, r"model_args\.checkpoint_path"),
        ({"model_args": {"pretrained_cfg": {"file": "evil.pth"}}}, r"model_args\.pretrained_cfg"),
        ({"architecture": "hf-hub:owner/evil"}, "no architecture 'hf-hub:owner/evil'"),
        ({"architecture": "local-dir:evil"}, "no architecture 'local-dir:evil'"),
        ({"architecture": ["vit_tiny_patch16_224"]}, "no architecture"),
        ({"model_args": [1, 2]}, "model_args"),
        ({"model_args": {"depth": 0}}, "depth = '0'"),
        ({"model_args": {"num_heads": 0}}, "num_heads = '0'"),
        ({"model_args": {"depth": 10**9}}, "depth"),
    ],
)
def test_a_timm_folder_that_asks_for_more_than_an_architecture_never_reaches_timm(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(timm_vit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", **changes}))
    calls: list[object] = []
    monkeypatch.setattr(timm, "create_model", lambda *names, **_: calls.append(names))
    with pytest.raises(PacxError, match=message):
        load_encoder(tmp_path)
    assert calls == []


@pytest.mark.parametrize("value", [None, "abc", 0, -1, float("inf"), float("nan"), [1]])
@pytest.mark.parametrize("name", ["layer_norm_eps", "num_attention_heads", "num_hidden_layers"])
def test_a_damaged_value_of_hugging_face_is_refused_by_its_name(name: str, value: Any, tmp_path: Path) -> None:
    source = of_huggingface("ViTModel")
    folder = source.write(source.state, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(PacxError, match=name):
        load_encoder(folder)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused_by_name(kind: torch.dtype, tmp_path: Path) -> None:
    state = timm_vit().state_dict()
    torch.save({**state, "norm.weight": state["norm.weight"].to(kind)}, tmp_path / "vit.pth")
    with pytest.raises(PacxError, match=r"norm\.weight"):
        load_encoder(tmp_path / "vit.pth", heads=HEADS)
