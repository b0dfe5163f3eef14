# ruff: noqa: F722
"""The network that is exported: encoder, head and attention in one graph, written for a CPU that only infers.

* **Embedding**: the class token after the final norm; in the last block it alone is computed, unless the head reads the
  patches too.
* **Probability**: one linear map and a sigmoid; calibration is inside the map.
* **Attention**: rollout with the mean over heads (`pacx.evaluation.rollout`). Only one row of the product of all blocks
  is asked for, that of the token which the head reads. It is carried backwards from the last block to the first as a
  row times a matrix: T^2 operations per block and not T^3.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pacx.models.encoder import Encoder
from pacx.models.readout_head import ReadoutHead

__all__ = ["ExportNetwork"]


class ExportNetwork(nn.Module):
    """From normalised images to embedding, probabilities and attention.

    Args:
        encoder: whose weights are used.
        head: a trained head; without one there are no probabilities.
        attention: whether the map is part of the graph.
    """

    def __init__(self, encoder: Encoder, head: ReadoutHead | None, *, attention: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.token = head.readout.token if head else "cls"
        self.grid = encoder.config.grid
        self.names = ("embedding", *(("probability",) if head else ()), *(("attention",) if attention else ()))
        self.inputs = nn.ModuleList(nn.ModuleList(_split(block.attn.qkv)) for block in encoder.vit.blocks)
        if head is not None:
            self.head = nn.Linear(*reversed(head.weight.shape))
            self.head.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})

    def forward(self, images: Float[Tensor, "B C S S"]) -> tuple[Tensor, ...]:
        """Return what `names` lists."""
        vit = self.encoder.vit
        x, maps = self.encoder.embed(images), []
        for number, block in enumerate(vit.blocks):
            last = number == len(vit.blocks) - 1
            x, attention = _block(block, self.inputs[number], x, first_only=last and self.token == "cls")
            maps.append(attention)
        tokens = vit.norm(x)
        found = {"embedding": tokens[:, 0]}
        if "probability" in self.names:
            found["probability"] = self.head(self._read(tokens)).sigmoid()
        if "attention" in self.names:
            found["attention"] = self._rollout(maps)
        return tuple(found[name] for name in self.names)

    def _read(self, tokens: Float[Tensor, "B T D"]) -> Tensor:
        if self.token == "cls":
            return tokens[:, 0]
        mean = tokens[:, 1:].mean(dim=1)
        return mean if self.token == "mean" else torch.cat([tokens[:, 0], mean], dim=1)

    def _rollout(self, maps: list[Float[Tensor, "B Q T"]]) -> Float[Tensor, "B grid grid"]:
        """Follow attention and residual connections back from the token that the head reads."""
        last = maps[-1]
        if self.token == "mean":
            # The mean over the patches' own rows of (A + I) / 2.
            own = torch.ones_like(last[:, :1]) / (last.shape[-1] - 1)
            own = torch.cat([torch.zeros_like(own[..., :1]), own[..., 1:]], dim=-1)
            row = (last[:, 1:].mean(dim=1, keepdim=True) + own) / 2
        else:
            own = torch.cat([torch.ones_like(last[:, :1, :1]), torch.zeros_like(last[:, :1, 1:])], dim=-1)
            row = (last[:, :1] + own) / 2
        for attention in reversed(maps[:-1]):
            row = (row @ attention + row) / 2
        patches = row[:, 0, 1:]
        patches = patches / patches.sum(dim=1, keepdim=True)
        return patches.reshape(-1, self.grid, self.grid)


def _split(joint: nn.Linear) -> list[nn.Linear]:
    """Take a joint map to query, key and value apart: of the last block only one query is asked for."""
    maps = []
    for weight, bias in zip(joint.weight.chunk(3), joint.bias.chunk(3), strict=True):
        own = nn.Linear(joint.in_features, joint.out_features // 3)
        own.load_state_dict({"weight": weight, "bias": bias})
        maps.append(own)
    return maps


def _block(
    block: Any, inputs: Any, x: Float[Tensor, "B T D"], *, first_only: bool
) -> tuple[Tensor, Float[Tensor, "B Q T"]]:
    """Run a pre-norm block; return its tokens, or the first alone, and its attention, the mean over the heads.

    Linear maps see tokens as rows of one matrix: ONNX then has an operation that adds the bias while it multiplies.
    """
    attention = block.attn
    batch, _, width = x.shape
    by_head = (batch, -1, attention.num_heads, width // attention.num_heads)
    seen = block.norm1(x)
    asking = seen[:, :1] if first_only else seen
    query, key, value = (
        linear(rows.reshape(-1, width)).reshape(by_head).transpose(1, 2)
        for linear, rows in zip(inputs, (asking, seen, seen), strict=True)
    )
    weights = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
    attended = (weights @ value).transpose(1, 2).reshape(-1, width)
    x = (x[:, :1] if first_only else x).reshape(-1, width) + attention.proj(attended)
    x = x + block.mlp(block.norm2(x))
    return x.reshape(batch, -1, width), weights.mean(dim=1)
