# ruff: noqa: F722
"""Where a mask decoder gets the patch tokens of its batch from: the disk, or the encoder itself.

A frozen encoder gives the same tokens in every epoch and is nearly all of the cost, so tokens are read from disk
(`pacx.frozen.tokens`) where they have been computed once in both views. What cannot be kept (rotated images, more
tokens than one wants to store) is computed in each step: slower, same results but for the rounding of what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pacx.frozen.tokens import PatchTokens
from pacx.models.config import EncoderConfig
from pacx.models.encoder import Encoder

__all__ = ["ComputedTokens", "ReadTokens", "TokenSource"]


class TokenSource(Protocol):
    """Gives the patch tokens of a batch, class token left out. No module: the encoder is not trained or saved."""

    config: EncoderConfig
    """of the encoder"""

    def __call__(self, batch: Mapping[str, Tensor], flipped: Bool[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """Return the tokens.

        Args:
            batch: `index`, the store rows, and where tokens are computed, `image`, normalised and not flipped.
            flipped: which images are to be mirrored left to right.
        """
        ...


class ReadTokens:
    """Reads what was kept.

    Args:
        config: the encoder's.
        straight: the tokens of the images.
        mirrored: those of their mirror images; None if none will be asked for.
    """

    def __init__(self, config: EncoderConfig, straight: PatchTokens, mirrored: PatchTokens | None) -> None:
        self.config = config
        self._views = (straight, mirrored)

    def __call__(self, batch: Mapping[str, Tensor], flipped: Bool[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """Return the tokens of a batch, of which only the rows are looked at."""
        rows, side = batch["index"].cpu().numpy(), flipped.cpu().numpy()
        tokens = np.empty((len(rows), self.config.num_patches, self.config.width), dtype=np.float32)
        for view, chosen in zip(self._views, (~side, side), strict=True):
            if chosen.any():
                assert view is not None, "mirrored tokens were not asked for"
                tokens[chosen] = view(rows[chosen])
        return torch.from_numpy(tokens).to(batch["index"].device)


class ComputedTokens:
    """Asks the encoder in every step.

    Args:
        encoder: frozen from here on.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.config = encoder.config
        self._encoder = encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], flipped: Bool[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """Return the tokens of a batch of images."""
        images = batch["image"]
        self._encoder.to(images.device)
        turned = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
        return self._encoder.tokens(turned)[:, 1:].float()
