# ruff: noqa: F722
"""An encoder with a linear head on top, to be trained as a whole.

Drop path (Huang et al. 2016, arXiv 1603.09382, "stochastic depth"): in training, what a block adds to a token is left
out for a random image, and the rest divided by the probability of staying. The probability of dropping grows linearly
from 0 in the first block to `drop_path` in the last.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.encoder import Encoder
from pacx.models.heads import LinearHead

__all__ = ["Classifier", "HeadToken"]

HeadToken = Literal["cls", "mean"]
"""What the head looks at: the class token, or the mean of the patch tokens."""


class Classifier(nn.Module):
    """Logits from images.

    Args:
        encoder: starts from its weights and is changed by training.
        num_outputs: one logit each.
        token: what the head looks at, after the final norm.
        drop_path: probability of leaving out what the last block adds, [0, 1).
    """

    def __init__(self, encoder: Encoder, num_outputs: int, *, token: HeadToken = "cls", drop_path: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise PacxError(f"drop_path is {drop_path:g}; it is a probability, from 0 (none) to below 1.")
        self.encoder = encoder
        self.head = LinearHead(encoder.config.width, num_outputs)
        self.token = token
        self.drop_path = drop_path
        if drop_path:
            self._drop_paths()

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Classify normalised images."""
        logits: Tensor = self.head(self._embed(images))
        return logits

    def _embed(self, images: Tensor) -> Float[Tensor, "B D"]:
        if self.token == "cls" and not self.drop_path:
            embedding: Tensor = self.encoder(images)
            return embedding
        tokens: Tensor = self.encoder.tokens(images)
        return tokens[:, 0] if self.token == "cls" else tokens[:, 1:].mean(dim=1)

    def _drop_paths(self) -> None:
        blocks = self.encoder.vit.blocks
        for number, block in enumerate(blocks):
            rate = self.drop_path * number / max(1, len(blocks) - 1)
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
