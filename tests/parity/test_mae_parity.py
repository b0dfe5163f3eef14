"""The same weights, image and mask give the loss and the reconstruction of transformers' ViTMAEForPreTraining."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder, patchify
from pacx.preprocess import Preprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", "5.0", reason="the reference here: pip install 'transformers>=5'")
torch.set_num_threads(1)

IMAGE, PATCH = 32, 8


def peer(*, channels: int, normalise: bool, ratio: float) -> Any:
    config = transformers.ViTMAEConfig(
        image_size=IMAGE,
        patch_size=PATCH,
        num_channels=channels,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        mask_ratio=ratio,
        norm_pix_loss=normalise,
    )
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(config)
    # transformers 5 leaves the position tables of a model that was not loaded at zero: fill them with its own functions
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(model.vit.embeddings.patch_embeddings.num_patches)
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a mix-up
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def ours(*, channels: int, normalise: bool, ratio: float) -> MaskedAutoencoder:
    preprocess = Preprocess(image_size=IMAGE, mean=(0.5,) * channels, std=(0.25,) * channels)
    encoder = Encoder(EncoderConfig(preprocess, patch_size=PATCH, width=32, depth=2, heads=4))
    return MaskedAutoencoder(
        encoder, decoder_width=16, decoder_depth=2, decoder_heads=2, mask_ratio=ratio, normalise_targets=normalise
    ).eval()


def to_channel_first(values: Tensor, channels: int) -> Tensor:
    """Reorder the pixels of a patch in the last dimension from (row, column, channel) to ours."""
    cut = values.reshape(*values.shape[:-1], PATCH, PATCH, channels)
    return cut.movedim(-1, -3).reshape(values.shape)


OUTSIDE_BLOCKS = {
    "vit.embeddings.cls_token": "encoder.vit.cls_token",
    "vit.embeddings.position_embeddings": "encoder.vit.pos_embed",
    "vit.embeddings.patch_embeddings.projection": "encoder.vit.patch_embed.proj",
    "vit.layernorm": "encoder.vit.norm",
    "vit.layers": "encoder.vit.blocks",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_positions",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pixels",
}
IN_BLOCKS = {"attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2"}


def translate(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Rename the peer's weights to ours; query, key and value are one matrix in timm."""
    renamed = {}
    for theirs, value in state.items():
        start = next(start for start in OUTSIDE_BLOCKS if theirs.startswith(start))
        name = OUTSIDE_BLOCKS[start] + theirs.removeprefix(start)
        for old, new in IN_BLOCKS.items():
            name = name.replace(old, new)
        renamed[name] = value
    for name in [name for name in renamed if ".attention.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    renamed["decoder_pixels.weight"] = to_channel_first(renamed["decoder_pixels.weight"].T, channels).T
    renamed["decoder_pixels.bias"] = to_channel_first(renamed["decoder_pixels.bias"], channels)
    # a buffer here, made from the configuration and not kept in the weights; it must agree all the same
    renamed["decoder_positions"] = renamed["decoder_positions"][0]
    return renamed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_loss_mask_and_reconstruction_equal_transformers(channels: int, normalise: bool, ratio: float) -> None:
    theirs, mine = (make(channels=channels, normalise=normalise, ratio=ratio) for make in (peer, ours))
    weights = translate(theirs.state_dict(), channels)
    torch.testing.assert_close(weights.pop("decoder_positions"), mine.decoder_positions)
    torch.testing.assert_close(weights["encoder.vit.pos_embed"], mine.encoder.vit.pos_embed.data)
    mine.load_state_dict(weights, strict=True)
    images = torch.randn(4, channels, IMAGE, IMAGE, generator=torch.Generator().manual_seed(2))
    noise = torch.rand(4, (IMAGE // PATCH) ** 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        found = mine(images, noise)
    assert torch.equal(found.mask, expected.mask)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    hidden = found.mask.bool()
    logits = to_channel_first(expected.logits, channels)
    torch.testing.assert_close(found.prediction[hidden], logits[hidden], atol=1e-5, rtol=0)
    assert patchify(images, PATCH).shape == logits.shape


def test_gradients_equal_transformers() -> None:
    theirs, mine = (make(channels=1, normalise=False, ratio=0.75) for make in (peer, ours))
    weights = translate(theirs.state_dict(), 1)
    del weights["decoder_positions"]
    mine.load_state_dict(weights, strict=True)
    images, noise = torch.randn(2, 1, IMAGE, IMAGE), torch.rand(2, (IMAGE // PATCH) ** 2)
    theirs(images, noise=noise).loss.backward()
    mine(images, noise).loss.backward()
    pairs = [
        (theirs.vit.embeddings.patch_embeddings.projection.weight, mine.encoder.vit.patch_embed.proj.weight),
        (theirs.vit.embeddings.cls_token, mine.encoder.vit.cls_token),
        (theirs.decoder.mask_token, mine.mask_token),
        (theirs.decoder.decoder_embed.weight, mine.decoder_embed.weight),
    ]
    for expected, found in pairs:
        assert expected.grad is not None and found.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4)
