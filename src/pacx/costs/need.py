"""What one step of a plan takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["WEIGHT_BYTES", "Arguments", "Need"]

Arguments = Mapping[str, Any]
"""of a checked step, defaults included"""

WEIGHT_BYTES = 4


class Need(NamedTuple):
    """What a step takes."""

    rows: int = 0
    """of the store, that it reads or learns from"""
    epochs: int = 0
    """how often; 0 where it reads them once"""
    disk: float = 0.0
    """bytes that it leaves behind or needs while it runs"""
    memory: float = 0.0
    """bytes on the host"""
    gpu_memory: float = 0.0
    """bytes on each GPU"""
    flops: float = 0.0
    """floating-point operations of all devices together"""
