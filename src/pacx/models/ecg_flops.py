"""How much arithmetic the ECG network takes: floating-point operations (FLOPs) of a forward pass, by its shape.

Counted as in `pacx.models.flops`, a multiply-add as two operations. Of n positions:

    convolution, a to b channels in groups of g, k samples      2 n k b min(a, g)       1 x 1: all of a
    squeeze-excitation, b channels                              2 b^2                   b to b/2 and back

ECGFounder's shape takes 2.3 G for a record of 10 s at 500 Hz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # plans are made without PyTorch
    from pacx.models.ecgfounder import EcgNetConfig

__all__ = ["ecg_flops"]


def ecg_flops(config: EcgNetConfig, *, samples: int) -> int:
    """Return the FLOPs of one record's forward pass.

    Args:
        config: shape of the network.
        samples: length of a lead.
    """
    positions = -(-samples // 2)
    total = 2 * positions * config.kernel_size * config.in_channels * config.stem_width
    width_in = config.stem_width
    for width, blocks in zip(config.widths, config.blocks, strict=True):
        for block in range(blocks):
            total += 2 * positions * width_in * width
            positions = -(-positions // 2) if block == 0 else positions  # the first block of a stage halves time
            total += 2 * positions * config.kernel_size * config.group_width * width
            total += 2 * positions * width * width + 4 * width * (width // 2)
            width_in = width
    return total + 2 * config.dim * config.num_classes
