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

At 224 px, ViT-B/16 with three channels takes 35.1 G for a forward pass of the encoder on all patches. A step of masked
autoencoding at 90 % takes 42.4 G per image with the standard decoder (512 x 8), three quarters of it in the decoder,
and 19.6 G with the cross decoder (512 x 12) on a quarter of the hidden patches.
"""

from __future__ import annotations

from pacx.models.config import EncoderConfig
from pacx.models.mae import MaskedAutoencoder

__all__ = ["encoder_flops", "mae_forward_flops", "mae_step_flops"]


def encoder_flops(config: EncoderConfig, *, num_patches: int | None = None) -> int:
    """Return the FLOPs of one image's forward pass through an encoder.

    Args:
        config: the encoder's.
        num_patches: how many patches it sees; all of the image unless given. The class token is added.
    """
    patches = config.num_patches if num_patches is None else num_patches
    return _embedding(config, patches) + config.depth * _block(1 + patches, config.width, config.mlp_ratio)


def mae_forward_flops(model: MaskedAutoencoder) -> int:
    """Return the FLOPs of one image's forward pass in training: the visible patches, then the decoder."""
    return encoder_flops(model.encoder.config, num_patches=model.num_visible) + _decoder(model)


def mae_step_flops(model: MaskedAutoencoder) -> int:
    """Return the FLOPs of one image in a training step, forward and backward."""
    return 3 * mae_forward_flops(model) - _embedding(model.encoder.config, model.num_visible)


def _decoder(model: MaskedAutoencoder) -> int:
    config = model.encoder.config
    width = model.mask_token.shape[-1]
    pixels = config.preprocess.in_chans * config.patch_size**2
    seen, hidden = 1 + model.num_visible, config.num_patches - model.num_visible
    asked = max(1, round(hidden * model.predict_share))
    block = _cross_block(asked, seen, width) if model.decoder == "cross" else _block(seen + asked, width, 4.0)
    return _linear(seen, config.width, width) + len(model.decoder_blocks) * block + _linear(asked, width, pixels)


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
