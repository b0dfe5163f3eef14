"""`--compile`: the transformer blocks as fused kernels.

* Block by block, not the whole network: blocks of equal shape share one compiled graph, so it takes seconds where the
  whole of a ViT-B takes minutes, and what lies between blocks is gathering, which has nothing to fuse.
* In place, so that weights keep their names and files look as if nothing had been compiled.
* Results differ from uncompiled ones by rounding.
* This is for GPUs. On a CPU in 32-bit, `pacx.models.lean` already fuses what is worth fusing; compiled blocks are
  called instead of it and are slower.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from pacx.errors import PacxError

__all__ = ["compile_blocks"]

log = logging.getLogger("pacx")


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """Compile all transformer blocks of a network; each is compiled when it is first used.

    Args:
        network: changed in place.
        device: where it will compute.

    Raises:
        PacxError: compiled code does not run here.
    """
    torch.compiler.reset()  # an earlier run of this process may have used up the graphs that are kept per function
    _try_out(device)
    blocks = [module for module in network.modules() if type(module).__name__.endswith("Block")]
    for block in blocks:
        block.compile()
    log.info("compiling %d transformer blocks; the first steps take longer", len(blocks))
    if device.type == "cpu":
        log.warning(
            "On a CPU in 32-bit, training without --compile is faster: pacx has its own fused operations there."
        )


def _try_out(device: torch.device) -> None:
    """Compile one addition: whether there is a compiler, and one that works, shows only on trying."""
    try:
        torch.compile(_add_one)(torch.ones(8, device=device))
    except RuntimeError as error:  # torch's compiler wraps whatever goes wrong in these
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        needed = "Triton, which comes with PyTorch for CUDA" if device.type == "cuda" else "a C++ compiler such as g++"
        raise PacxError(
            f"torch.compile does not work here: {lines[0] if lines else type(error).__name__}. It needs {needed}. "
            "Install it (for another C++ compiler set CXX), or leave --compile out: the results are the same."
        ) from error


def _add_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1
