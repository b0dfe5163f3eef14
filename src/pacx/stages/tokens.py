# ruff: noqa: F722
"""Patch tokens of a frozen encoder, each computed once and then remembered.

A frozen encoder gives the same tokens in every epoch, and the encoder is nearly all of the cost. What has been
computed is kept in half precision (tokens after a LayerNorm are of order one; the rounding is 1e-3 of that), for the
images as they are and, where flips are trained, for their mirror images. A cache that would not fit the budget is
not made, and tokens are computed anew whenever asked for: slower, same results.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pacx.models.encoder import Encoder

__all__ = ["FrozenTokens"]

log = logging.getLogger("pacx")


class FrozenTokens:
    """Computes and remembers patch tokens.

    Not a module on purpose: the encoder is neither trained nor written into checkpoints.

    Args:
        encoder: the frozen encoder.
        rows: the store rows that will be asked for.
        flip: whether mirror images will be asked for too.
        budget_mib: largest size of the cache.
    """

    def __init__(self, encoder: Encoder, rows: NDArray[np.int64], *, flip: bool, budget_mib: float = 2048) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        config = encoder.config
        shape = (len(rows), 1 + flip, config.num_patches, config.width)
        mib = int(np.prod(shape)) * 2 / 1024**2
        self.kept = mib <= budget_mib
        if not self.kept:
            log.info("Tokens of %d images would take %.0f MiB: they are computed anew in each epoch.", len(rows), mib)
            return
        self._position = np.full(int(rows.max()) + 1 if len(rows) else 0, -1)
        self._position[rows] = np.arange(len(rows))
        self._tokens = torch.empty(shape, dtype=torch.float16)
        self._known = torch.zeros(shape[:2], dtype=torch.bool)

    def __call__(
        self, images: Float[Tensor, "B C S S"], rows: Int[Tensor, " B"], flipped: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B N D"]:
        """Return the patch tokens of a batch, class token left out.

        Args:
            images: the batch as it came, normalised and not flipped.
            rows: their store rows.
            flipped: which of them are to be mirrored left to right.
        """
        if not self.kept:
            return self._compute(images, flipped)
        at, side = torch.from_numpy(self._position[rows.cpu().numpy()]), flipped.long().cpu()
        new = ~self._known[at, side]
        if bool(new.any()):
            here = new.to(images.device)
            computed = self._compute(images[here], flipped[here])
            self._tokens[at[new], side[new]] = computed.to("cpu", torch.float16)
            self._known[at[new], side[new]] = True
        return self._tokens[at, side].to(images.device, torch.float32)

    @torch.no_grad()
    def _compute(self, images: Tensor, flipped: Tensor) -> Tensor:
        self.encoder.to(images.device)
        turned = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
        return self.encoder.tokens(turned)[:, 1:].float()
