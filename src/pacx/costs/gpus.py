"""GPUs by name, and how long arithmetic takes on one.

    seconds = FLOPs / (peak x utilisation)

The peak is that of the maker's data sheet: dense matrix products of 16-bit numbers, sums in 32 bits. Training a ViT-B
reaches a third to a half of it where the loader keeps up.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pacx.errors import PacxError

__all__ = ["GPUS", "Gpu", "GpuName", "gpu_hours"]

GpuName = Literal["A100", "A5000", "A6000", "H100", "L40S", "RTX4090"]


class Gpu(NamedTuple):
    """A GPU as its data sheet has it."""

    peak: float
    """FLOP/s, dense, 16-bit numbers"""
    memory: float
    """bytes"""


GPUS: dict[GpuName, Gpu] = {
    "A100": Gpu(312e12, 80e9),
    "A5000": Gpu(111.1e12, 24e9),
    "A6000": Gpu(154.8e12, 48e9),
    "H100": Gpu(989.4e12, 80e9),
    "L40S": Gpu(362e12, 48e9),
    "RTX4090": Gpu(165.2e12, 24e9),
}


def gpu_hours(flops: float, gpu: GpuName, *, utilisation: float) -> float:
    """Return how long one GPU computes, hours.

    Args:
        flops: floating-point operations.
        gpu: its name.
        utilisation: share of the peak that is reached, above 0 and at most 1.

    Raises:
        PacxError: a utilisation that cannot be.
    """
    if not 0 < utilisation <= 1:
        raise PacxError(f"--utilisation is {utilisation:g}; give a share of the GPU's peak, above 0 and at most 1.")
    return flops / (GPUS[gpu].peak * utilisation) / 3600
