"""How much arithmetic a step is: floating-point operations (FLOPs) of an encoder and of a masked autoencoder.

Counted are matrix products, a multiply-add as two operations. Of T tokens:

    linear map, width a to b           2 T a b
    attention, Tq queries, Tk keys     4 Tq Tk D             q k' and its product with v; the number of heads cancels
    ViT block, width D, MLP ratio r    2 T D^2 (4 + 2r) + 4 T^2 D
    cross block                        2 Tq D^2 (2 + 2r) + 4 Tk D^2 + 4 Tq Tk D

Norms, softmax, GELU, biases and the optimiser are left out: below 1 % of a ViT-B, and no matrix unit works on them.

Backwards, every product is done twice more, once for each of its factors; only the patch embedding asks for no
gradient of its input. So a training step is three forward passes less one patch embedding.

This is what the formulas of the network ask for, as in published utilisations, not what a kernel happens to do: fused
attention recomputes its scores backwards and does more, `pacx.models.lean` and `Encoder.forward` skip what nobody looks
at and do less.

With LoRA the weights of the linear maps are frozen and ask for no gradient of their own, so these maps are done twice,
not three times; both factors of an attention product still ask for theirs.

At 224 px, ViT-B/16 with three channels takes 35.1 G for a forward pass of the encoder on all patches. A step of masked
autoencoding at 90 % takes 42.4 G per image with the standard decoder (512 x 8), three quarters of it in the decoder,
and 19.6 G with the cross decoder (512 x 12) on a quarter of the hidden patches. A step of LoRA of rank 8 takes 72.7 G.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pacx.models.config import EncoderConfig

if TYPE_CHECKING:  # plans are made without PyTorch
    from pacx.models.mae import MaskedAutoencoder

__all__ = [
    "MaskedShape",
    "block_flops",
    "encoder_flops",
    "lora_step_flops",
    "mae_forward_flops",
    "mae_step_flops",
    "mask_decoder_flops",
    "masked_forward_flops",
    "masked_step_flops",
]


class MaskedShape(NamedTuple):
    """What a masked autoencoder has beside its encoder."""

    num_visible: int
    """patches that the encoder sees"""
    predict_share: float = 1.0
    """of the hidden patches"""
    cross: bool = False
    """hidden patches look at visible ones only"""
    width: int = 512
    depth: int = 8

    @classmethod
    def of(cls, model: MaskedAutoencoder) -> MaskedShape:
        """Take it from a network."""
        width, depth = model.mask_token.shape[-1], len(model.decoder_blocks)
        return cls(model.num_visible, model.predict_share, model.decoder == "cross", width, depth)


def encoder_flops(config: EncoderConfig, *, num_patches: int | None = None) -> int:
    """Return the FLOPs of one image's forward pass through an encoder.

    Args:
        config: the encoder's.
        num_patches: how many patches it sees; all of the image unless given. The class token is added.
    """
    patches = config.num_patches if num_patches is None else num_patches
    return _embedding(config, patches) + config.depth * _block(1 + patches, config.width, config.mlp_ratio)


def block_flops(config: EncoderConfig) -> int:
    """Return the FLOPs of one image's forward pass through one block of an encoder."""
    return _block(1 + config.num_patches, config.width, config.mlp_ratio)


def mae_forward_flops(model: MaskedAutoencoder) -> int:
    """Return the FLOPs of one image's forward pass in training: the visible patches, then the decoder."""
    return masked_forward_flops(model.encoder.config, MaskedShape.of(model))


def mae_step_flops(model: MaskedAutoencoder) -> int:
    """Return the FLOPs of one image in a training step, forward and backward."""
    return masked_step_flops(model.encoder.config, MaskedShape.of(model))


def masked_forward_flops(config: EncoderConfig, shape: MaskedShape) -> int:
    """Return what `mae_forward_flops` does, of a network that is not there yet."""
    return encoder_flops(config, num_patches=shape.num_visible) + _decoder(config, shape)


def masked_step_flops(config: EncoderConfig, shape: MaskedShape) -> int:
    """Return what `mae_step_flops` does, of a network that is not there yet."""
    return 3 * masked_forward_flops(config, shape) - _embedding(config, shape.num_visible)


def lora_step_flops(config: EncoderConfig, *, rank: int) -> int:
    """Return the FLOPs of one image in a training step with LoRA on `qkv`, `fc1` and `fc2`, forward and backward."""
    tokens, width, hidden = 1 + config.num_patches, config.width, int(config.width * config.mlp_ratio)
    attention = config.depth * _attention(tokens, tokens, width)
    embedding = _embedding(config, config.num_patches)
    maps = encoder_flops(config) - attention - embedding
    ends = (width + 3 * width) + 2 * (width + hidden)  # what goes in and comes out of the three adapted maps
    adapters = config.depth * 2 * tokens * rank * ends
    return embedding + 2 * maps + 3 * (attention + adapters)


def mask_decoder_flops(config: EncoderConfig, *, hidden: int = 256, step: bool = False) -> int:
    """Return the FLOPs of one image through `pacx.models.heads.SegmentationDecoder`.

    Args:
        config: the encoder's, which is frozen.
        hidden: channels after the first convolution.
        step: of a training step, forward and backward, and not of a forward pass.
    """
    doublings = (config.patch_size - 1).bit_length()
    widths = [max(8, hidden >> number) for number in range(doublings)] + [1]
    first = 9 * _linear(config.num_patches, config.width, widths[0])
    rest = sum(
        _linear(config.num_patches * 4 ** (number + 1), before, after)
        for number, (before, after) in enumerate(pairwise(widths))
    )
    return 3 * (first + rest) - first if step else first + rest


def _decoder(config: EncoderConfig, shape: MaskedShape) -> int:
    pixels = config.preprocess.in_chans * config.patch_size**2
    seen, hidden = 1 + shape.num_visible, config.num_patches - shape.num_visible
    asked = max(1, round(hidden * shape.predict_share))
    block = _cross_block(asked, seen, shape.width) if shape.cross else _block(seen + asked, shape.width, 4.0)
    return _linear(seen, config.width, shape.width) + shape.depth * block + _linear(asked, shape.width, pixels)


def _embedding(config: EncoderConfig, patches: int) -> int:
    return _linear(patches, config.preprocess.in_chans * config.patch_size**2, config.width)


def _block(tokens: int, width: int, mlp_ratio: float) -> int:
    hidden = int(width * mlp_ratio)
    maps = _linear(tokens, width, 3 * width) + _linear(tokens, width, width) + 2 * _linear(tokens, width, hidden)
    return maps + _attention(tokens, tokens, width)


def _cross_block(queries: int, keys: int, width: int) -> int:
    maps = 2 * _linear(queries, width, width) + _linear(keys, width, 2 * width) + 2 * _linear(queries, width, 4 * width)
    return maps + _attention(queries, keys, width)


def _attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width


def _linear(tokens: int, width_in: int, width_out: int) -> int:
    return 2 * tokens * width_in * width_out
