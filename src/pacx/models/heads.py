# ruff: noqa: F722
"""What is put on top of a frozen encoder to use it: one linear map, or a small decoder for masks.

Both are kept small on purpose: what they reach is what the encoder knows.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pacx.errors import PacxError

__all__ = ["LinearHead", "SegmentationDecoder", "check_teacher_name", "projection_head"]

NARROWEST = 8  # channels of the last upsampling steps, however large the patch


class LinearHead(nn.Linear):
    """One logit per label from an embedding; starts near zero, so that every label starts at one half."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__(width, num_labels)
        _start_small(self)


class SegmentationDecoder(nn.Module):
    """One mask from the patch tokens of an encoder.

    A 3 x 3 convolution on the grid of tokens, then transposed convolutions that double the resolution and halve the
    channels until a patch is back at its size in pixels; ReLU between. For ViT-B/16 at 224 px: 768 x 14 x 14 -> 256
    -> 128 -> 64 -> 32 -> 1 at 224 x 224, 1 942 113 parameters. Where the patch size is no power of two, the last step
    overshoots and is resampled to the image.

    Args:
        width: length of a token.
        grid: patches along one edge of the image.
        patch_size: edge of a patch, pixels; at least 2.
        hidden: channels after the first convolution; never fewer than 8 anywhere.
    """

    def __init__(self, width: int, *, grid: int, patch_size: int, hidden: int = 256) -> None:
        super().__init__()
        if patch_size < 2:
            raise PacxError(f"Found patch size {patch_size}; the segmentation decoder needs at least 2.")
        self.grid = grid
        self.image_size = grid * patch_size
        doublings = (patch_size - 1).bit_length()
        widths = [max(NARROWEST, hidden >> step) for step in range(doublings)] + [1]
        layers: list[nn.Module] = [nn.Conv2d(width, widths[0], kernel_size=3, padding=1)]
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, kernel_size=2, stride=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, patch_tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B H W"]:
        """Return one logit per pixel.

        Args:
            patch_tokens: after the encoder's final norm, in reading order, without the class token:
                `encoder.tokens(images)[:, 1:]`.

        Raises:
            PacxError: not as many tokens as the grid has patches.
        """
        batch, num_tokens, width = patch_tokens.shape
        if num_tokens != self.grid**2:
            raise PacxError(
                f"Found {num_tokens} tokens; this decoder takes the {self.grid} x {self.grid} = {self.grid**2} patch "
                "tokens, without the class token."
            )
        maps = patch_tokens.transpose(1, 2).reshape(batch, width, self.grid, self.grid)
        logits: Tensor = self.layers(maps)
        if logits.shape[-1] != self.image_size:
            logits = F.interpolate(logits, size=(self.image_size, self.image_size), mode="bilinear", antialias=True)
        return logits.squeeze(1)


def check_teacher_name(name: str) -> None:
    """Refuse names under which a student could not keep a teacher's heads.

    Raises:
        PacxError: not a Python identifier, or what a `ModuleDict` calls something else (training, keys).
    """
    # An instance has names that its class lacks, such as training.
    if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
        raise PacxError(
            f"A teacher cannot be called {name!r}. Use letters, digits and _, such as ecg or labs, and no word that "
            "PyTorch uses itself, such as training or keys."
        )


def projection_head(width: int, out_width: int, *, dropout: float = 0.2) -> nn.Sequential:
    """Make a head of distillation: dropout, linear map, LayerNorm; normal weights (std .02, truncated), zero bias."""
    linear = nn.Linear(width, out_width)
    _start_small(linear)
    return nn.Sequential(nn.Dropout(dropout), linear, nn.LayerNorm(out_width))


def _start_small(linear: nn.Linear) -> None:
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
