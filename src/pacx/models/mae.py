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

There are two decoders. `standard` is that of He et al. 2021: visible and hidden tokens attend to all of one another.
`cross` is a variant (after Fu et al. 2024, arXiv 2401.14391): hidden tokens only look at the encoder's tokens, not at
each other, so each is predicted by itself and it is enough to predict a share of them per step. At 90 % masking and
a quarter of the hidden patches, a step of 12 such blocks costs half of one with 8 standard blocks. The encoder's part
of the method is the same; what it does to probes is measured in docs/pretraining.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, initialise, sincos_positions
from pacx.models.lean import gelu_linear_add, linear_add, norm_linear, run_blocks, run_decoder
from pacx.objectives import masked_pixel_loss

__all__ = ["Decoder", "MaeOutput", "MaskedAutoencoder", "patchify", "unpatchify"]

Decoder = Literal["standard", "cross"]

TARGET_EPS = 1e-6  # added to a patch's variance when targets are normalised


class MaeOutput(NamedTuple):
    """What a forward pass gives."""

    loss: Tensor
    """Mean squared error over the pixels of predicted patches."""
    prediction: Tensor
    """(B, N, P): predicted pixels in reading order; zeros where nothing was predicted."""
    mask: Tensor
    """(B, N): 1 where a patch was hidden."""
    predicted: Tensor
    """(B, N): 1 where a patch was predicted: all hidden ones, or the share that a `cross` decoder trains on."""


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


class CrossBlock(nn.Module):
    """A block whose tokens look at given tokens and not at each other: cross-attention, then an MLP, both pre-norm.

    Args:
        width: token length, of queries and of what they look at.
        heads: attention heads.
        norm: makes a LayerNorm of a width.
    """

    def __init__(self, width: int, heads: int, *, norm: Callable[[int], nn.LayerNorm]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm_seen, self.norm2 = norm(width), norm(width), norm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Float[Tensor, "B M D"], seen: Float[Tensor, "B V D"]) -> Float[Tensor, "B M D"]:
        """Let `tokens` look at `seen`."""
        batch, heads = len(tokens), self.heads
        query = norm_linear(self.norm1, self.query, tokens).view(batch, tokens.shape[1], heads, -1).transpose(1, 2)
        both = norm_linear(self.norm_seen, self.key_value, seen).view(batch, seen.shape[1], 2, heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = linear_add(self.proj, attended, tokens)
        return gelu_linear_add(self.fc2, norm_linear(self.norm2, self.fc1, tokens), tokens)


class MaskedAutoencoder(nn.Module):
    """An encoder with a light decoder that predicts hidden patches.

    Args:
        encoder: the network to pre-train; kept as `encoder` and trained in place.
        decoder: "standard" or "cross", see the head of this file.
        decoder_width: token length in the decoder.
        decoder_depth: its number of blocks; 8 (standard) or 12 (cross) if not given.
        decoder_heads: its attention heads.
        mask_ratio: share of patches to hide, between 0 and 1; int(N (1 - ratio)) stay visible, at least one.
        predict_share: share of the hidden patches that a `cross` decoder predicts in a training step, above 0 and at
            most 1. In evaluation mode all are predicted, so that losses can be compared between decoders.
        normalise_targets: compare with patches of mean 0 and standard deviation 1 each (He et al. 2021, section 4.1).

    Raises:
        PacxError: numbers that do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder: Decoder = "standard",
        decoder_width: int = 512,
        decoder_depth: int | None = None,
        decoder_heads: int = 16,
        mask_ratio: float = 0.9,
        predict_share: float = 0.25,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__()
        config = encoder.config
        _check_masking(mask_ratio, predict_share, config.num_patches)
        usual_depth = _usual_depth(decoder)
        depth = usual_depth if decoder_depth is None else decoder_depth
        _check_decoder(decoder_width, depth, decoder_heads)
        self.encoder = encoder
        self.decoder = decoder
        self.predict_share = predict_share if decoder == "cross" else 1.0
        self.mask_ratio = mask_ratio
        self.normalise_targets = normalise_targets
        self.num_visible = max(1, int(config.num_patches * (1 - mask_ratio) + 1e-6))  # 1 - .9 is a hair below .1
        norm = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        self.decoder_embed = nn.Linear(config.width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        self.decoder_positions: Tensor
        self.register_buffer("decoder_positions", sincos_positions(decoder_width, config.grid), persistent=False)
        self.decoder_blocks = nn.ModuleList(
            CrossBlock(decoder_width, decoder_heads, norm=norm)
            if decoder == "cross"
            else Block(decoder_width, decoder_heads, qkv_bias=True, norm_layer=norm)
            for _ in range(depth)
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
            noise: the patches with the smallest values stay visible; drawn uniformly unless given. A `cross` decoder
                in training predicts those with the next smallest.

        Raises:
            PacxError: images or noise of another shape than the encoder's.
        """
        return self._complete(images, noise, share=self.predict_share if self.training else 1.0)

    def _check_input(self, images: Tensor, noise: Tensor | None) -> None:
        config = self.encoder.config
        expected = (config.preprocess.in_chans, config.preprocess.image_size, config.preprocess.image_size)
        if images.shape[1:] != expected:  # another size would be cut and placed wrongly, without a word
            raise PacxError(
                f"Found images of shape {tuple(images.shape)}; this network takes (B, {', '.join(map(str, expected))})."
            )
        if noise is not None and noise.shape != (len(images), config.num_patches):
            raise PacxError(
                f"Found noise of shape {tuple(noise.shape)}; there is one number per patch: "
                f"({len(images)}, {config.num_patches})."
            )

    def _complete(self, images: Tensor, noise: Tensor | None, *, share: float) -> MaeOutput:
        self._check_input(images, noise)
        patches = patchify(images, self.encoder.config.patch_size)
        if noise is None:
            noise = torch.rand(patches.shape[:2], device=patches.device)
        order = noise.argsort(dim=1)
        visible, hidden = order[:, : self.num_visible], order[:, self.num_visible :]
        wanted = hidden[:, : max(1, round(hidden.shape[1] * share))]
        predicted = self.decode(self.encode_visible(_pick(patches, visible), visible), visible, wanted)
        loss = masked_pixel_loss(predicted, self._targets(_pick(patches, wanted)))["loss"]
        prediction = predicted.new_zeros(patches.shape).scatter(1, _across(wanted, patches.shape[2]), predicted)
        return MaeOutput(
            loss,
            prediction,
            mask=torch.ones_like(noise).scatter(1, visible, 0.0),
            predicted=torch.zeros_like(noise).scatter(1, wanted, 1.0),
        )

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
        encoded: Tensor = vit.norm(run_blocks(vit.blocks, torch.cat([first, tokens], dim=1)))
        return encoded

    def decode(self, encoded: Float[Tensor, "B 1+V D"], visible: Tensor, wanted: Tensor) -> Float[Tensor, "B M P"]:
        """Predict the pixels of hidden patches from the encoder's tokens.

        Args:
            encoded: class token and V visible patches.
            visible: (B, V), numbers of the visible patches in reading order.
            wanted: (B, M), numbers of the patches to predict; a standard decoder wants all hidden ones, because
                its tokens look at each other.
        """
        visible_with_class = F.pad(visible + 1, (1, 0))  # place 0 is the class token's
        known = self.decoder_embed(encoded) + F.embedding(visible_with_class, self.decoder_positions)
        mask_tokens = self.mask_token[0] + self.decoder_positions[1:]  # one for each place
        if self.decoder == "cross":
            asked = F.embedding(wanted, mask_tokens)
            for block in self.decoder_blocks:
                asked = block(asked, known)
        else:
            asked = run_decoder(self.decoder_blocks, known, mask_tokens, wanted)
        pixels: Tensor = self.decoder_pixels(self.decoder_norm(asked))
        return pixels

    @torch.no_grad()
    def reconstruct(
        self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Return the images with hidden patches as predicted and visible patches as they were.

        With normalised targets the network predicts a patch's pattern only; its mean and contrast are then taken
        from the true patch.
        """
        output = self._complete(images, noise, share=1.0)
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


def _usual_depth(decoder: Decoder) -> int:
    depths = {"standard": 8, "cross": 12}
    if decoder not in depths:
        raise PacxError(f"There is no decoder {decoder!r}. Known: {', '.join(get_args(Decoder))}.")
    return depths[decoder]


def _check_masking(mask_ratio: float, predict_share: float, num_patches: int) -> None:
    if not 0 < mask_ratio < 1:
        raise PacxError(f"Found a mask ratio of {mask_ratio}; it is the share of patches to hide, between 0 and 1.")
    if not 0 < predict_share <= 1:
        raise PacxError(
            f"Found a predict share of {predict_share}; it is the share of hidden patches that a cross decoder "
            "predicts per step, above 0 and at most 1."
        )
    if num_patches < 2:
        raise PacxError("The image is a single patch, so nothing can be hidden. Use smaller patches or larger images.")


def _check_decoder(width: int, depth: int, heads: int) -> None:
    if depth < 1 or heads < 1 or width < 4 or width % 4 or width % heads:
        raise PacxError(
            f"Found a decoder of width {width}, depth {depth} with {heads} heads; the width must be a multiple of 4 "
            "and of the number of heads, and there is at least one block."
        )
