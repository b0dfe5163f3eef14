"""Small networks of every foreign format, made with the original library where there is one, and their own features.

Where the original is a script of its time (facebookresearch/mae, medical_mae, the authors' code), the file is written
in the documented layout from a timm network, and Lightning and PEFT write what they wrote there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import peft
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", "5.0", reason="the reference here: pip install 'transformers>=5'")

IMAGE, PATCH, WIDTH, DEPTH, HEADS = 32, 8, 64, 2, 4
State = dict[str, Tensor]


@dataclass
class Foreign:
    """One network as its makers save it."""

    state: State
    write: Callable[[State, Path], Path]
    """writes a state under a folder and returns what to load"""
    tokens: Callable[[Tensor], Tensor]
    """the original library's tokens after the final norm, class token first"""
    format: str
    """what the provenance must call it"""
    eps: float
    mean: tuple[float, ...]
    geometry: str
    no_encoder: tuple[str, ...] = ()
    """starts of names that are dropped"""
    arguments: dict[str, Any] = field(default_factory=dict)
    """what a user must say, because no tensor tells it"""


IMAGENET = (0.485, 0.456, 0.406)
HALF = (0.5, 0.5, 0.5)


def shake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a value of its own: fresh biases are 0 and norms 1, which would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


def fixed_table(grid: int) -> Tensor:
    """The sine-cosine table as transformers makes it."""
    config = transformers.ViTMAEConfig(
        hidden_size=WIDTH, image_size=grid, patch_size=1, num_hidden_layers=0, num_attention_heads=HEADS
    )
    embeddings = transformers.ViTMAEModel(config).embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    return embeddings.position_embeddings.detach()  # type: ignore[no-any-return]


def timm_vit(*, eps: float = 1e-6, fixed: bool = False, **more: Any) -> Any:
    shape = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    norm = {"norm_layer": partial(nn.LayerNorm, eps=eps)} if eps != 1e-6 else {}
    vit = shake(timm.create_model("vit_tiny_patch16_224", **{**shape, "num_classes": 3, **norm, **more}))
    if fixed:
        vit.pos_embed.data.copy_(fixed_table(vit.patch_embed.grid_size[0]))
    return vit


def mae_state(vit: Any) -> State:
    """The names of a masked autoencoder's file: the encoder's, and a decoder."""
    state = {name: value for name, value in vit.state_dict().items() if not name.startswith("head.")}
    decoder = {
        "mask_token": (1, 1, 16),
        "decoder_pos_embed": (1, 17, 16),
        "decoder_embed.weight": (16, WIDTH),
        "decoder_embed.bias": (16,),
        "decoder_blocks.0.norm1.weight": (16,),
        "decoder_blocks.0.attn.qkv.weight": (48, 16),
        "decoder_norm.weight": (16,),
        "decoder_pred.weight": (PATCH * PATCH * 3, 16),
    }
    return {**state, **{name: torch.randn(shape) for name, shape in decoder.items()}}


def of_timm() -> Foreign:
    vit = timm_vit()

    def write(state: State, folder: Path) -> Path:
        save_file(state, folder / "vit.safetensors")
        return folder / "vit.safetensors"

    return Foreign(
        dict(vit.state_dict()), write, vit.forward_features, "timm", 1e-6, HALF, "crop", ("head.",), {"heads": HEADS}
    )


def of_timm_training(entry: str, prefix: str = "") -> Foreign:
    """A training checkpoint of timm or one of its users."""
    vit = timm_vit()
    named = {prefix + name: value for name, value in vit.state_dict().items()}

    def write(state: State, folder: Path) -> Path:
        content = {
            "epoch": 3,
            "arch": "vit",
            entry: state,
            "optimizer": {"state": {}},
            "args": argparse.Namespace(lr=1),
        }
        torch.save(content, folder / "model_best.pth.tar")
        return folder / "model_best.pth.tar"

    return Foreign(
        named, write, vit.forward_features, "timm", 1e-6, HALF, "crop", (f"{prefix}head.",), {"heads": HEADS}
    )


def of_mae(*, decoder: bool = True, legacy: bool = False) -> Foreign:
    """facebookresearch/mae and medical_mae: {'model', 'args': Namespace}; published encoders lack a decoder."""
    vit = timm_vit(fixed=True)
    state = mae_state(vit)
    kept = state if decoder else {name: value for name, value in state.items() if name in vit.state_dict()}

    def write(state: State, folder: Path) -> Path:
        content = {"model": state, "epoch": 799, "args": argparse.Namespace(mask_ratio=0.9, data=Path("/data"))}
        torch.save(content, folder / "mae.pth", _use_new_zipfile_serialization=not legacy)
        return folder / "mae.pth"

    dropped = ("mask_token", "decoder_")
    return Foreign(kept, write, vit.forward_features, "mae", 1e-6, IMAGENET, "crop", dropped, {"heads": HEADS})


def of_huggingface(kind: str, *, layout: str = "safetensors", processor: bool = False, folder: bool = True) -> Foreign:
    """A folder as `save_pretrained` writes it, or with version 5's names from memory in a `pytorch_model.bin`."""
    shape = {"image_size": IMAGE, "patch_size": PATCH, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
    eps = 1e-3 if folder else 1e-12
    sizes = {**shape, "num_attention_heads": HEADS, "intermediate_size": 96, "layer_norm_eps": eps}
    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    masked = "MAE" in kind
    config = transformers.ViTMAEConfig(**sizes, **small, decoder_intermediate_size=32, mask_ratio=0.0) if masked else (
        transformers.ViTConfig(**sizes)
    )  # fmt: skip
    network = shake(getattr(transformers, kind)(config))
    body = getattr(network, "vit", network)
    if masked:
        body.embeddings.position_embeddings.data.copy_(fixed_table(IMAGE // PATCH))

    def write(state: State, place: Path) -> Path:
        network.save_pretrained(place)
        (place / "model.safetensors").unlink()
        if layout == "safetensors":
            save_file(state, place / "model.safetensors", metadata={"format": "pt"})
        else:
            torch.save(state, place / "pytorch_model.bin")
        if processor:
            transformers.ViTImageProcessor(
                size={"height": IMAGE, "width": IMAGE}, image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1]
            ).save_pretrained(place)
        if not folder:
            (place / "config.json").unlink()
            return place / "model.safetensors"
        return place

    def tokens(images: Tensor) -> Tensor:
        order = {"noise": torch.arange(16.0).expand(len(images), 16)} if masked else {}  # ascending: nothing is moved
        found: Tensor = body(images, **order).last_hidden_state
        return found

    mean = (0.1, 0.2, 0.3) if processor else IMAGENET if masked else HALF
    return Foreign(
        dict(_on_disk(network) if layout == "safetensors" else network.state_dict()),
        write,
        tokens,
        "huggingface-vit-mae" if masked else "huggingface-vit",
        eps,
        mean,
        "squash",
        ("pooler.", "classifier.", "decoder."),
        {} if folder else {"heads": HEADS},
    )


def _on_disk(network: Any) -> State:
    """The names that transformers itself writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        network.save_pretrained(place)
        return load_file(Path(place) / "model.safetensors")


class _Module(L.LightningModule):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


def _lightning_file(module: L.LightningModule, path: Path) -> dict[str, Any]:
    """Let Lightning write a checkpoint without training, and read it back."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]  # our own file of a moment ago


def of_lightning_mae(tmp_path: Path) -> Foreign:
    vit = timm_vit(fixed=True)
    module = _Module(mask_ratio=0.9, lr=1.5e-4)
    content = _lightning_file(module, tmp_path / "empty.ckpt")
    named = {f"model.{name}": value for name, value in mae_state(vit).items()}

    def write(state: State, folder: Path) -> Path:
        torch.save({**content, "state_dict": state}, folder / "last.ckpt")
        return folder / "last.ckpt"

    dropped = ("model.mask_token", "model.decoder_")
    return Foreign(
        named, write, vit.forward_features, "lightning-mae", 1e-6, IMAGENET, "squash", dropped, {"heads": HEADS}
    )


def _head(inputs: int, outputs: int) -> nn.Module:
    head = nn.Module()
    head.mlp = nn.Sequential(nn.Dropout(0.2), nn.Linear(inputs, outputs), nn.LayerNorm(outputs))
    return head


def of_pacx(
    tmp_path: Path, *, alpha: int = 16, rank: int = 8, settings: dict[str, Any] | None = None, norms: bool = False
) -> Foreign:
    """Stage 2 of the authors: PEFT on qkv, fc1 and fc2; the final norm is trained as it is, or as a module to save."""
    vit = timm_vit(eps=1e-5, fixed=True, num_classes=0)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["qkv", "fc1", "fc2"], lora_dropout=0.1, bias="none",
        modules_to_save=["norm"] if norms else None,
    )  # fmt: skip
    module = _Module(**(settings or {}))
    module.cxr_encoder = shake(peft.get_peft_model(vit, config), seed=1)
    for name, inputs, outputs in (("cxr_to_shared", WIDTH, 8), ("ecg_to_shared", 10, 8), ("labs_to_shared", 6, 8)):
        setattr(module, name, _head(inputs, outputs))
    module.cxr_to_ecg, module.cxr_to_labs = _head(WIDTH, 10), _head(WIDTH, 6)
    module.loss_module = nn.Module()
    module.loss_module.logit_scale = nn.Parameter(torch.tensor(2.6))
    content = _lightning_file(module.eval(), tmp_path / "pacx.ckpt")

    def write(state: State, folder: Path) -> Path:
        torch.save({**content, "state_dict": state}, folder / "Final.ckpt")
        return folder / "Final.ckpt"

    heads = ("cxr_to_", "ecg_to_", "labs_to_", "loss_module.")
    return Foreign(
        dict(content["state_dict"]), write, module.cxr_encoder.base_model.model.forward_features, "pacx-checkpoint",
        1e-5, IMAGENET, "squash", heads, {"heads": HEADS},
    )  # fmt: skip


MAKERS: dict[str, Callable[[Path], Foreign]] = {
    "timm safetensors": lambda _: of_timm(),
    "timm state_dict": lambda _: of_timm_training("state_dict"),
    "timm state_dict under DDP": lambda _: of_timm_training("state_dict", "module."),
    "timm average": lambda _: of_timm_training("state_dict_ema"),
    "a backbone in Lightning": lambda _: of_timm_training("state_dict", "backbone."),
    "mae": lambda _: of_mae(),
    "mae, old file": lambda _: of_mae(legacy=True),
    "mae without decoder": lambda _: of_mae(decoder=False),
    "ViTModel": lambda _: of_huggingface("ViTModel", processor=True),
    "ViTModel in memory": lambda _: of_huggingface("ViTModel", layout="bin"),
    "ViTModel without config": lambda _: of_huggingface("ViTModel", folder=False),
    "ViTForImageClassification": lambda _: of_huggingface("ViTForImageClassification"),
    "ViTForImageClassification in memory": lambda _: of_huggingface("ViTForImageClassification", layout="bin"),
    "ViTMAEModel": lambda _: of_huggingface("ViTMAEModel"),
    "ViTMAEForPreTraining": lambda _: of_huggingface("ViTMAEForPreTraining"),
    "ViTMAEForPreTraining in memory": lambda _: of_huggingface("ViTMAEForPreTraining", layout="bin"),
    "Lightning MAE": of_lightning_mae,
    "PaCX": of_pacx,
    "PaCX with a trained norm": lambda path: of_pacx(path, norms=True),
}


def images(*, channels: int = 3, size: int = IMAGE) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(5))
