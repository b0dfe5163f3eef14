"""Matrix products in oneDNN, for float32 on CPUs.

`torch.compile` uses the same operations. On the AVX-512 machine that they were measured on (benchmarks/README.md) they
are a tenth faster than the BLAS behind `nn.Linear`, and they add a bias and another tensor without a copy of either.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["applies", "product", "product_add"]

_Linear = torch.ops.mkldnn._linear_pointwise  # (x, weight, bias), optionally plus a tensor


def applies(x: Tensor) -> bool:
    """Say whether the products below can take this tensor: float32 on a CPU with oneDNN, not being compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T (+ bias): (..., D), (E, D), (E,) -> (..., E)."""
    result: Tensor = _Linear.default(x, weight, bias, "none", [], "")
    return result


def product_add(x: Tensor, weight: Tensor, bias: Tensor | None, to: Tensor) -> Tensor:
    """Return to + x @ weight.T (+ bias)."""
    result: Tensor = _Linear.binary(x, to, weight, bias, "add")
    return result
