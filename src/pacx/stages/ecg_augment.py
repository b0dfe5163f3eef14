"""What must not matter to a reader of the ECG: where a beat falls, how long one looks, the gain, a lead off, noise.

* **Crop.** Each step looks at a window of random length. The window is not padded, which would put zeros into the mean
  over time, and not stretched, which would change the heart rate: the network takes records of any length, so a step's
  records are all cut to the same one, each at a place of its own.
* **Shift** rotates a record in time, around its end; it leaves one seam per record, at a random place.
* **Wander of the baseline** is not offered: the recipe (`pacx.data.ecg.recipe`) removes it before the network looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pacx.errors import PacxError

__all__ = ["EcgAugment"]


@dataclass(frozen=True)
class EcgAugment:
    """Random changes of training records; each is off at its default."""

    crop: float = 1.0
    """smallest share of a record that a window keeps, (0, 1]; 1 = always the whole record"""
    shift: bool = False
    """rotate each record in time by a random amount"""
    gain: float = 0.0
    """standard deviation of a factor around 1, one per record"""
    lead_dropout: float = 0.0
    """probability with which a lead becomes zero, [0, 1)"""
    noise: float = 0.0
    """standard deviation of added white noise, in units of the record's"""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise PacxError(f"crop is {self.crop:g}; it is the smallest share of a record kept, above 0 and up to 1.")
        if not 0 <= self.lead_dropout < 1:
            raise PacxError(f"lead_dropout is {self.lead_dropout:g}; it is a probability, from 0 to below 1.")
        if self.gain < 0 or self.noise < 0:
            raise PacxError(f"gain is {self.gain:g} and noise {self.noise:g}; both must be 0 (none) or more.")

    def __call__(self, x: Tensor) -> Tensor:
        """Change a batch of records.

        Args:
            x: (B, leads, T) prepared records, standard deviation 1.

        Returns:
            (B, leads, t), crop * T <= t <= T.
        """
        x = self._window(x)
        batch, leads, _ = x.shape
        if self.gain:
            x = x * (1 + self.gain * torch.randn(batch, 1, 1, device=x.device))
        if self.lead_dropout:
            x = x * (torch.rand(batch, leads, 1, device=x.device) >= self.lead_dropout)
        return x + self.noise * torch.randn_like(x) if self.noise else x

    def _window(self, x: Tensor) -> Tensor:
        batch, leads, length = x.shape
        kept = int(torch.randint(math.ceil(self.crop * length), length + 1, ()))
        if not self.shift and kept == length:
            return x
        start = torch.randint(length if self.shift else length - kept + 1, (batch, 1), device=x.device)
        order = (start + torch.arange(kept, device=x.device)) % length
        return x.gather(2, order[:, None].expand(-1, leads, -1))
