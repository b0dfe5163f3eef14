"""The two masked autoencoders that `mae_step` compares, with equal sizes, equal weights and an optimiser each.

Ours is what `pacx pretrain` trains: `MaskedAutoencoder` and the optimiser of `pacx.stages.optimisation`. The peer is
`transformers`' `ViTMAEForPreTraining` as it comes: the attention that it chooses itself, and torch's AdamW.

Either side's libraries are imported in its own functions: a process that measures memory loads only what it needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

__all__ = [
    "BASE",
    "QUICK",
    "Sizes",
    "compile_ours",
    "make_ours",
    "make_peer",
    "our_optimizer",
    "peer_optimizer",
    "same_weights",
]

LEARNING_RATE, WEIGHT_DECAY, BETAS = 1.5e-4, 0.05, (0.9, 0.95)


@dataclass(frozen=True)
class Sizes:
    """How large the network and the batch are."""

    channels: int = 1
    batch: int = 16
    image: int = 224
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    cross_depth: int | None = None
    """blocks of the cross decoder; None for its own default"""
    mask_ratio: float = 0.9


BASE = Sizes()
QUICK = Sizes(batch=4, width=96, depth=2, heads=3, decoder_width=64, decoder_depth=2, decoder_heads=4, cross_depth=2)


def make_ours(sizes: Sizes, *, decoder: str = "standard") -> nn.Module:
    """Build ours."""
    from pacx.models.encoder import Encoder, EncoderConfig
    from pacx.models.mae import MaskedAutoencoder
    from pacx.preprocess import Preprocess

    flat = (0.5,) * sizes.channels
    config = EncoderConfig(
        Preprocess(image_size=sizes.image, mean=flat, std=flat),
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
    )
    torch.manual_seed(0)
    return MaskedAutoencoder(
        Encoder(config),
        decoder="cross" if decoder == "cross" else "standard",
        decoder_width=sizes.decoder_width,
        decoder_depth=sizes.cross_depth if decoder == "cross" else sizes.decoder_depth,
        decoder_heads=sizes.decoder_heads,
        mask_ratio=sizes.mask_ratio,
    ).train()


def make_peer(sizes: Sizes) -> nn.Module:
    """Build the peer."""
    import transformers

    config = transformers.ViTMAEConfig(
        image_size=sizes.image,
        num_channels=sizes.channels,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        decoder_hidden_size=sizes.decoder_width,
        decoder_num_hidden_layers=sizes.decoder_depth,
        decoder_num_attention_heads=sizes.decoder_heads,
        decoder_intermediate_size=4 * sizes.decoder_width,
        layer_norm_eps=1e-6,
        mask_ratio=sizes.mask_ratio,
    )
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(config)
    # transformers 5 leaves the position tables of a model that was not loaded at zero: fill them with its own functions
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(model.vit.embeddings.patch_embeddings.num_patches)
    trained: nn.Module = model.train()
    return trained


def our_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser that `pacx pretrain` makes; a stand-in says what a trainer would be asked."""
    from pacx.stages.optimisation import adamw_with_warmup

    trainer: Any = SimpleNamespace(
        max_epochs=1, estimated_stepping_batches=1000, precision_plugin=SimpleNamespace(precision="32-true")
    )
    made = adamw_with_warmup(
        trainer, model, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, warmup_epochs=0, betas=BETAS
    )
    optimizer: torch.optim.Optimizer = made["optimizer"]
    return optimizer


def compile_ours(model: nn.Module) -> None:
    """Do in place what `pacx pretrain --compile` does."""
    from pacx.stages.compiling import compile_blocks

    compile_blocks(model, torch.device("cpu"))


def peer_optimizer(model: nn.Module, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Make torch's AdamW as one line of a training script does; `fused=True` is the extra figure."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS, fused=fused)


_OUTSIDE_BLOCKS = {
    "vit.embeddings.cls_token": "encoder.vit.cls_token",
    "vit.embeddings.position_embeddings": "encoder.vit.pos_embed",
    "vit.embeddings.patch_embeddings.projection": "encoder.vit.patch_embed.proj",
    "vit.layernorm": "encoder.vit.norm",
    "vit.layers": "encoder.vit.blocks",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pixels",
}
_IN_BLOCKS = {"attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2"}


def same_weights(peer: nn.Module, sizes: Sizes) -> dict[str, Tensor]:
    """Translate the peer's weights to ours, for the check that both compute the same before either is timed.

    Ours holds query, key and value in one matrix, and a patch's pixels by channel, row, column instead of by row,
    column, channel.
    """
    renamed: dict[str, Tensor] = {}
    for theirs, value in peer.state_dict().items():
        if theirs == "decoder.decoder_pos_embed":  # a table made from the sizes, which is no weight here
            continue
        start = next(start for start in _OUTSIDE_BLOCKS if theirs.startswith(start))
        name = _OUTSIDE_BLOCKS[start] + theirs.removeprefix(start)
        for old, new in _IN_BLOCKS.items():
            name = name.replace(old, new)
        renamed[name] = value
    for name in [name for name in renamed if ".attention.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    for name in ("decoder_pixels.weight", "decoder_pixels.bias"):
        value = renamed[name]
        renamed[name] = value.unflatten(0, (16, 16, sizes.channels)).movedim(2, 0).reshape(value.shape)
    return renamed
