"""How many parameters and activations the networks have, from their shapes alone.

    ViT of width D, depth L, MLP ratio r, N patches of P values
        parameters    P D + D + D + (N+1) D + L (D^2 (4 + 2r) + D (9 + r)) + 2 D

Training keeps 16 bytes per trained parameter (weight, gradient and the two means of AdamW, 32 bits each) and 4 per
frozen one, and for each block 34 T D bytes per image of T tokens: what a block keeps for its backward pass in 16 bits
with fused attention (Korthikanti et al. 2022, arXiv 2205.05198, equation 2 without the scores).
"""

from __future__ import annotations

from pacx.models.config import EncoderConfig
from pacx.models.flops import MaskedShape

__all__ = [
    "FROZEN_BYTES",
    "TRAINED_BYTES",
    "activation_bytes",
    "decoder_parameters",
    "encoder_parameters",
    "lora_parameters",
    "masked_activation_bytes",
]

TRAINED_BYTES = 16
FROZEN_BYTES = 4
_BLOCK_BYTES = 34


def encoder_parameters(config: EncoderConfig) -> int:
    """Count an encoder's parameters, fixed positions included."""
    width, values = config.width, config.preprocess.in_chans * config.patch_size**2
    embedding = values * width + width + width + (config.num_patches + 1) * width
    return embedding + config.depth * _block(width, config.mlp_ratio) + 2 * width


def decoder_parameters(config: EncoderConfig, shape: MaskedShape) -> int:
    """Count the parameters of a masked autoencoder's decoder; a `cross` block has one norm more."""
    width, values = shape.width, config.preprocess.in_chans * config.patch_size**2
    block = _block(width, 4.0) + 2 * width * shape.cross
    ends = config.width * width + width + 2 * width + width * values + values
    return ends + width + shape.depth * block


def lora_parameters(config: EncoderConfig, *, rank: int) -> int:
    """Count the parameters of LoRA on `qkv`, `fc1` and `fc2`."""
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    return config.depth * rank * (4 * width + 2 * (width + hidden))


def activation_bytes(config: EncoderConfig, *, num_patches: int | None = None) -> int:
    """Return what one image in training occupies in an encoder."""
    patches = config.num_patches if num_patches is None else num_patches
    return _BLOCK_BYTES * (1 + patches) * config.width * config.depth


def masked_activation_bytes(config: EncoderConfig, shape: MaskedShape) -> int:
    """Return what one image occupies in a masked autoencoder: in the encoder, and in the decoder on all tokens."""
    seen = activation_bytes(config, num_patches=shape.num_visible)
    return seen + _BLOCK_BYTES * (1 + config.num_patches) * shape.width * shape.depth


def _block(width: int, mlp_ratio: float) -> int:
    hidden = int(width * mlp_ratio)
    return 4 * width * width + 2 * width * hidden + (3 + 1 + 1) * width + hidden + 4 * width
