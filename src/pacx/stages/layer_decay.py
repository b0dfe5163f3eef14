"""Layer-wise learning-rate decay: what is near the pixels learns slower than what is near the labels.

    rate of layer l = decay^(L + 1 - l) * learning rate,     l = 0 .. L + 1 for an encoder of L blocks

Layer 0 is the patch embedding with the class token and positions, layer l block l, layer L + 1 the final norm and the
head (Clark et al. 2020, arXiv 2003.10555, for text; Bao et al. 2021, arXiv 2106.08254, and He et al. 2021,
arXiv 2111.06377, appendix A, for fine-tuned vision transformers). With a decay of 1 all layers learn alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from pacx.errors import PacxError
from pacx.stages.optimisation import is_decayed

__all__ = ["layer_groups", "layer_of", "layer_scales"]

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_ENTRANCE = re.compile(r"(?:^|\.)(?:patch_embed\.|cls_token$|reg_token$|pos_embed$)")


def layer_of(name: str, *, depth: int) -> int:
    """Return the layer of a parameter, from 0 to depth + 1.

    Args:
        name: as `named_parameters` gives it, whatever stands in front of timm's name.
        depth: number of transformer blocks.
    """
    block = _BLOCK.search(name)
    if block:
        return int(block[1]) + 1
    return 0 if _ENTRANCE.search(name) else depth + 1


def layer_scales(names: Iterable[str], *, depth: int, decay: float) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter.

    Raises:
        PacxError: the decay is not in (0, 1].
    """
    if not 0 < decay <= 1:
        raise PacxError(f"layer_decay is {decay:g}; it must be above 0 and at most 1 (all layers learn alike).")
    return {name: decay ** (depth + 1 - layer_of(name, depth=depth)) for name in names}


def layer_groups(
    network: nn.Module, *, depth: int, decay: float, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and by whether weight decay acts on them, the head's first.

    Args:
        network: an encoder, with whatever is on top of it.
        depth: the encoder's number of blocks.
        decay: factor from one layer to the next lower one, (0, 1].
        learning_rate: of the head.
        weight_decay: AdamW's coefficient for matrices; norms, biases and tokens have none.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    scales = layer_scales(trained, depth=depth, decay=decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained.items():
        rate, shrink = scales[name] * learning_rate, weight_decay if is_decayed(name, parameter) else 0.0
        group = groups.setdefault((rate, shrink), {"params": [], "lr": rate, "weight_decay": shrink})
        group["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: -group["lr"])  # the rate that is logged is the first group's
