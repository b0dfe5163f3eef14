# ruff: noqa: F722
"""Learning the ECG without labels: segments of it are hidden, and the network fills them in.

    x * shown (B, 12, T) -> EcgNet.feature_map (B, D, T / stride) -> two small convolutions -> x (B, 12, T)

* Time is cut into segments of `seconds`, from a random place, and each is hidden with probability `ratio`. In half of
  the records all leads are hidden together, so the network must know how beats follow each other; in the other half
  each lead for itself, so it must know how leads depend on each other. (Six limb leads hold two signals: a single
  hidden limb lead is only arithmetic.)
* The loss is the squared error over hidden samples alone. Always answering the record's mean scores 1, about.
* The decoder sees three positions of the feature map at a time. It is thrown away, so what it cannot do must be in the
  features.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pacx.models.ecgfounder import EcgNet

__all__ = ["EcgFiller", "hidden_error", "hide_segments"]


class EcgFiller(nn.Module):
    """The ECG network with a light decoder.

    Args:
        net: the network that learns.
        width: channels of the decoder.
    """

    def __init__(self, net: EcgNet, *, width: int = 128) -> None:
        super().__init__()
        self.net = net
        self.decoder = nn.Sequential(
            nn.SiLU(),
            nn.Conv1d(net.config.dim, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, net.config.in_channels * net.config.stride, 1),
        )

    def forward(
        self, x: Float[Tensor, "B leads time"], hidden: Bool[Tensor, "B leads time"]
    ) -> Float[Tensor, "B leads time"]:
        """Return the record as filled in from what is not hidden; hidden samples enter as 0, the record's mean."""
        batch, leads, length = x.shape
        patches = self.decoder(self.net.feature_map(x.masked_fill(hidden, 0.0)))
        patches = patches.reshape(batch, leads, self.net.config.stride, -1)
        filled: Tensor = patches.transpose(2, 3).reshape(batch, leads, -1)[:, :, :length]
        return filled


def hide_segments(
    batch: int, leads: int, length: int, *, segment: int, ratio: float, generator: torch.Generator | None = None
) -> Bool[Tensor, "B leads time"]:
    """Draw what is hidden.

    Args:
        batch: number of records.
        leads: number of leads.
        length: samples of a record.
        segment: samples of a segment.
        ratio: probability with which a segment is hidden.
        generator: source of randomness, on the CPU.
    """
    phase = torch.randint(segment, (batch, 1), generator=generator)
    number = (phase + torch.arange(length)) // segment
    drawn = torch.rand(batch, leads, (length - 2) // segment + 2, generator=generator)
    together = torch.rand(batch, 1, 1, generator=generator) < 0.5
    drawn = torch.where(together, drawn[:, :1], drawn)
    return drawn.gather(2, number[:, None].expand(-1, leads, -1)) < ratio


def hidden_error(
    filled: Float[Tensor, "B leads time"], x: Float[Tensor, "B leads time"], hidden: Bool[Tensor, "B leads time"]
) -> Float[Tensor, ""]:
    """Mean squared error over the hidden samples of a batch; 0 where none is hidden."""
    return ((filled - x).square() * hidden).sum() / hidden.sum().clamp(min=1)
