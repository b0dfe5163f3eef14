# ruff: noqa: F722
"""Attention of all blocks, folded into one map per image.

Rollout (Abnar and Zuidema 2020, arXiv 2005.00928): token i of the last block depends on token j of the input through
every path of attention and residual connections. With A_l the attention of block l, its heads made one,

    A'_l = rows of (A_l + I) scaled to sum 1,        R = A'_L ... A'_2 A'_1

Gradient-weighted (Chefer et al. 2021, arXiv 2103.15679, equations 5 and 6): the same paths, each head counted by how
much its attention raises one score y, which is here the log-odds of a class head,

    R <- I, then block by block        R <- R + A^_l R,        A^_l = mean over heads of max(0, dy/dA_l * A_l)

The row of the token that a head reads, without the entry of the class token, says how much each patch contributed: the
class token's own row, or the mean of the patches' rows. It is scaled to sum 1.

* Rollout ignores the values and the MLPs, and knows no question: it says where information could have come from.
* Gradient weighting asks about one class. Where no attention raises the score the map is undefined (NaN), not even.
  The identity that R starts from is taken off: it would give every patch as much, whatever the score. So what a patch
  says for itself, without attention, is not in the map; that matters for heads on the patches' mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.encoder import Encoder

__all__ = [
    "HeadFusion",
    "ReadToken",
    "attention_rollout",
    "gradient_maps",
    "gradient_rollout",
    "read_token",
    "rollout_maps",
]

HeadFusion = Literal["mean", "max", "min"]
"""How the heads of a block become one map."""

ReadToken = Literal["cls", "mean"]
"""What stands for an image: the class token, or the mean of the patch tokens."""


def attention_rollout(
    maps: Iterable[Float[Tensor, "B heads T T"]], *, head_fusion: HeadFusion = "mean", start_layer: int = 0
) -> Float[Tensor, "B T T"]:
    """Multiply the attention of all blocks, each with its residual connection.

    Args:
        maps: softmax maps, first block first; rows are queries and sum to 1.
        head_fusion: how heads become one map.
        start_layer: blocks before this one are left out.

    Returns:
        R, (B, T, T): row i says how much of token i of the output came from each input token; rows sum to 1.
    """
    rollout: Tensor | None = None
    for number, attention in enumerate(maps):
        if number < start_layer:
            continue
        fused = _fuse(attention.double(), head_fusion)
        step = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        step = step / step.sum(dim=-1, keepdim=True)
        rollout = step if rollout is None else step @ rollout
    return _checked(rollout, start_layer)


def gradient_rollout(
    maps: Iterable[Float[Tensor, "B heads T T"]],
    gradients: Iterable[Float[Tensor, "B heads T T"]],
    *,
    start_layer: int = 0,
) -> Float[Tensor, "B T T"]:
    """Add up the attention of all blocks, weighted by how much it raises a score.

    Args:
        maps: softmax maps, first block first.
        gradients: of the score by each map.
        start_layer: blocks before this one are left out.

    Returns:
        R, (B, T, T), not negative; the identity is in it.
    """
    relevance: Tensor | None = None
    for number, (attention, gradient) in enumerate(zip(maps, gradients, strict=True)):
        if number < start_layer:
            continue
        raising = (gradient.double() * attention.double()).clamp(min=0).mean(dim=1)
        if relevance is None:
            relevance = torch.eye(raising.shape[-1], dtype=raising.dtype, device=raising.device).expand_as(raising)
        relevance = relevance + raising @ relevance
    return _checked(relevance, start_layer)


@torch.inference_mode()
def rollout_maps(
    encoder: Encoder,
    images: Float[Tensor, "B C H W"],
    *,
    head_fusion: HeadFusion = "mean",
    start_layer: int = 0,
    token: ReadToken = "cls",
) -> NDArray[np.float64]:
    """Return how much each patch contributed to a token, (B, grid, grid); each map sums to 1."""
    rollout = attention_rollout(encoder.iter_attention(images), head_fusion=head_fusion, start_layer=start_layer)
    return _patch_maps(rollout, encoder, token)


def gradient_maps(
    encoder: Encoder,
    images: Float[Tensor, "B C H W"],
    *,
    direction: Float[Tensor, " D"],
    start_layer: int = 0,
    token: ReadToken = "cls",
) -> NDArray[np.float64]:
    """Return how much each patch raised a linear score of a token, (B, grid, grid).

    Args:
        encoder: in evaluation mode.
        images: normalised.
        direction: weights of the score, y = direction . token.
        start_layer: blocks before this one are left out.
        token: which token the score reads.

    Returns:
        Maps that sum to 1; NaN for an image of which no attention raises the score.
    """
    with torch.enable_grad():
        tokens, maps = encoder.tokens_with_attention(images.detach().clone().requires_grad_(True))
        score = read_token(tokens, token) @ direction.to(tokens)
        gradients = torch.autograd.grad(score.sum(), maps)
    relevance = gradient_rollout([part.detach() for part in maps], gradients, start_layer=start_layer)
    own = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    return _patch_maps(relevance - own, encoder, token)


def read_token(tokens: Float[Tensor, "B 1+N D"], token: ReadToken) -> Float[Tensor, "B D"]:
    """Return what stands for each image: its class token, or the mean of its patch tokens."""
    return tokens[:, 0] if token == "cls" else tokens[:, 1:].mean(dim=1)


def _patch_maps(rollout: Tensor, encoder: Encoder, token: ReadToken) -> NDArray[np.float64]:
    patches = read_token(rollout, token)[:, 1:]  # a row of R belongs to a token as an embedding does
    patches = patches / patches.sum(dim=1, keepdim=True)  # 0 / 0 is NaN, and meant to be
    grid = encoder.config.grid
    return np.asarray(patches.reshape(-1, grid, grid).cpu().numpy(), dtype=np.float64)


def _fuse(attention: Tensor, head_fusion: HeadFusion) -> Tensor:
    if head_fusion == "mean":
        return attention.mean(dim=1)
    return attention.amax(dim=1) if head_fusion == "max" else attention.amin(dim=1)


def _checked(rollout: Tensor | None, start_layer: int) -> Tensor:
    if rollout is None:
        raise PacxError(f"There is no block from layer {start_layer} on; choose an earlier --start_layer.")
    return rollout
