# ruff: noqa: F722
"""Masked autoencoding: hide most of a radiograph, encode the rest, paint what was hidden (He et al. 2021).

Hiding 90 % (natural images: 75 %) leaves 19 of 196 patches, too few to continue textures from: the network has to know
where a cardiac silhouette, a diaphragm, a mediastinum belong.

What makes a step cheap, none of which changes a number:

* Patches are picked before they are embedded, so hidden ones are never embedded. A patch convolution whose stride is
  its size is a linear map of the patch's pixels.
* The encoder sees the class token and the visible patches, nothing else.
* The decoder takes visible tokens and then mask tokens, each with its own position. Attention does not see order, so
  nothing is put back into reading order, and the last tokens are the predictions wanted.
* The final norm, the map to pixels and the loss see hidden patches only.

Each image draws its own mask. The decoder is thrown away after pre-training.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, initialise, sincos_positions
from pacx.objectives import masked_pixel_loss

__all__ = ["MaeOutput", "MaskedAutoencoder", "patchify", "unpatchify"]

TARGET_EPS = 1e-6  # added to a patch's variance when targets are normalised


class MaeOutput(NamedTuple):
    """What a forward pass gives."""

    loss: Tensor
    """Mean squared error over the pixels of hidden patches."""
    prediction: Tensor
    """(B, N, P): predicted pixels of hidden patches, in reading order; zeros for visible patches."""
    mask: Tensor
    """(B, N): 1 where a patch was hidden."""


def patchify(images: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B N P"]:
    """Cut images into patches in reading order; a patch's P = C p^2 values are ordered (channel, row, column).

    This is the order in which a patch convolution's kernel lies in memory.
    """
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    cut = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch_size**2)


def unpatchify(patches: Float[Tensor, "B N P"], patch_size: int) -> Float[Tensor, "B C H W"]:
    """Lay the patches of square images out again; the inverse of `patchify`."""
    batch, num_patches, values = patches.shape
    grid, channels = round(num_patches**0.5), values // patch_size**2
    cut = patches.reshape(batch, grid, grid, channels, patch_size, patch_size)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, grid * patch_size, grid * patch_size)


class MaskedAutoencoder(nn.Module):
    """An encoder with a light decoder that predicts hidden patches.

    Args:
        encoder: the network to pre-train; kept as `encoder` and trained in place.
        decoder_width: token length in the decoder.
        decoder_depth: its number of blocks.
        decoder_heads: its attention heads.
        mask_ratio: share of patches to hide, between 0 and 1; int(N (1 - ratio)) stay visible, at least one.
        normalise_targets: compare with patches of mean 0 and standard deviation 1 each (He et al. 2021, section 4.1).

    Raises:
        PacxError: numbers that do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.9,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__()
        config = encoder.config
        _check(decoder_width, decoder_depth, decoder_heads, mask_ratio, config.num_patches)
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.normalise_targets = normalise_targets
        self.num_visible = max(1, int(config.num_patches * (1 - mask_ratio) + 1e-6))  # 1 - .9 is a hair below .1
        norm = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        self.decoder_embed = nn.Linear(config.width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        self.decoder_positions: Tensor
        self.register_buffer("decoder_positions", sincos_positions(decoder_width, config.grid), persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_width, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth))
        )
        self.decoder_norm = norm(decoder_width)
        self.decoder_pixels = nn.Linear(decoder_width, config.preprocess.in_chans * config.patch_size**2)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pixels):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"] | None = None) -> MaeOutput:
        """Hide patches, predict them, compare.

        Args:
            images: normalised.
            noise: the patches with the smallest values stay visible; drawn uniformly unless given.
        """
        patches = patchify(images, self.encoder.config.patch_size)
        if noise is None:
            noise = torch.rand(patches.shape[:2], device=patches.device)
        order = noise.argsort(dim=1)
        visible, hidden = order[:, : self.num_visible], order[:, self.num_visible :]
        predicted = self.decode(self.encode_visible(_pick(patches, visible), visible), visible, hidden)
        loss = masked_pixel_loss(predicted, self._targets(_pick(patches, hidden)))["loss"]
        prediction = predicted.new_zeros(patches.shape).scatter(1, _across(hidden, patches.shape[2]), predicted)
        mask = torch.ones_like(noise).scatter(1, visible, 0.0)
        return MaeOutput(loss, prediction, mask)

    def encode_visible(self, patches: Float[Tensor, "B V P"], places: Tensor) -> Float[Tensor, "B 1+V D"]:
        """Encode some patches of each image.

        Args:
            patches: pixels of V patches per image.
            places: (B, V), their numbers in reading order.
        """
        vit = self.encoder.vit
        positions = vit.pos_embed[0]
        tokens = F.linear(patches, vit.patch_embed.proj.weight.flatten(1), vit.patch_embed.proj.bias)
        tokens = tokens + F.embedding(places + 1, positions)
        first = (vit.cls_token + positions[0]).expand(len(tokens), -1, -1)
        encoded: Tensor = vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))
        return encoded

    def decode(self, encoded: Float[Tensor, "B 1+V D"], visible: Tensor, hidden: Tensor) -> Float[Tensor, "B M P"]:
        """Predict the pixels of hidden patches from the encoder's tokens.

        Args:
            encoded: class token and V visible patches.
            visible: (B, V), numbers of the visible patches in reading order.
            hidden: (B, M), numbers of the patches to predict.
        """
        visible_with_class = F.pad(visible + 1, (1, 0))  # place 0 is the class token's
        known = self.decoder_embed(encoded) + F.embedding(visible_with_class, self.decoder_positions)
        wanted = self.mask_token + F.embedding(hidden + 1, self.decoder_positions)
        x = self.decoder_blocks(torch.cat([known, wanted], dim=1))
        pixels: Tensor = self.decoder_pixels(self.decoder_norm(x[:, known.shape[1] :]))
        return pixels

    @torch.no_grad()
    def reconstruct(
        self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Return the images with hidden patches as predicted and visible patches as they were.

        With normalised targets the network predicts a patch's pattern only; its mean and contrast are then taken
        from the true patch.
        """
        output = self(images, noise)
        patches = patchify(images, self.encoder.config.patch_size)
        prediction = output.prediction.float()
        if self.normalise_targets:
            mean, std = _patch_statistics(patches)
            prediction = prediction * std + mean
        painted = torch.where(output.mask.unsqueeze(-1).bool(), prediction, patches)
        return unpatchify(painted, self.encoder.config.patch_size)

    def pixel_mask(self, mask: Float[Tensor, "B N"]) -> Float[Tensor, "B 1 H W"]:
        """Spread a patch mask over the pixels, for pictures of what was hidden."""
        edge = self.encoder.config.patch_size
        return unpatchify(mask.unsqueeze(-1).expand(-1, -1, edge**2), edge)

    def _targets(self, patches: Tensor) -> Tensor:
        if not self.normalise_targets:
            return patches
        mean, std = _patch_statistics(patches)
        return (patches - mean) / std


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    mean = patches.mean(dim=-1, keepdim=True)
    return mean, (patches.var(dim=-1, keepdim=True) + TARGET_EPS).sqrt()


def _pick(patches: Tensor, places: Tensor) -> Tensor:
    return patches.gather(1, _across(places, patches.shape[2]))


def _across(places: Tensor, values: int) -> Tensor:
    return places.unsqueeze(-1).expand(-1, -1, values)


def _check(width: int, depth: int, heads: int, mask_ratio: float, num_patches: int) -> None:
    if not 0 < mask_ratio < 1:
        raise PacxError(f"Found a mask ratio of {mask_ratio}; it is the share of patches to hide, between 0 and 1.")
    if num_patches < 2:
        raise PacxError("The image is a single patch, so nothing can be hidden. Use smaller patches or larger images.")
    if depth < 1 or heads < 1 or width < 4 or width % 4 or width % heads:
        raise PacxError(
            f"Found a decoder of width {width}, depth {depth} with {heads} heads; the width must be a multiple of 4 "
            "and of the number of heads, and there is at least one block."
        )
