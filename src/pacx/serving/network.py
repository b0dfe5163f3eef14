# ruff: noqa: F722
"""The network that is exported: encoder, head and attention in one graph, written for a CPU that only infers.

* **Embedding**: the class token after the final norm; in the last block it alone is computed, without the others' keys
  and values, unless the head reads the patches too.
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

_FLOAT = 4
"""bytes"""
_PAGE, _LINE = 4096, 16
"""bytes after which addresses share a line of the first cache; floats of one line"""


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
        self.blocks: Any = nn.ModuleList(_Block(block) for block in encoder.vit.blocks)
        if head is not None:
            self.head = nn.Linear(*reversed(head.weight.shape))
            self.head.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})

    def forward(self, images: Float[Tensor, "B C S S"]) -> tuple[Tensor, ...]:
        """Return what `names` lists."""
        x, maps = self.encoder.embed(images), []
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            x, attention = (block.first_token if last and self.token == "cls" else block)(x)
            maps.append(attention)
        tokens = self.encoder.vit.norm(x)
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


class _Block(nn.Module):
    """A pre-norm block; gives its tokens and its attention, the mean over the heads.

    Linear maps see tokens as rows of one matrix: ONNX then has an operation that adds the bias while it multiplies.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.norm1, self.norm2, self.proj = block.norm1, block.norm2, attention.proj
        self.query, self.key, self.value = _rows(attention.qkv, [attention.qkv.out_features // 3] * 3)
        parts = _parts(mlp.fc1.out_features)
        self.act = mlp.act
        self.rise = nn.ModuleList(_rows(mlp.fc1, parts))
        self.fall = nn.ModuleList(_columns(mlp.fc2, parts))

    def forward(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T T"]]:
        """Run the block for all tokens."""
        batch, num_tokens, width = x.shape
        by_head = (batch, num_tokens, self.num_heads, width // self.num_heads)
        rows = self.norm1(x).reshape(-1, width)
        query, key, value = (
            linear(rows).reshape(by_head).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        weights = ((query * self.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
        attended = (weights @ value).transpose(1, 2).reshape(-1, width)
        return self._finish(x.reshape(-1, width), attended).reshape(x.shape), weights.mean(dim=1)

    def first_token(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B 1 D"], Float[Tensor, "B 1 T"]]:
        """Run the block for the first token alone, without keys and values of the others.

        One head with query q, tokens x_t, maps W_k and W_v (d x D): q . (W_k x_t + b_k) = (W_k^T q) . x_t + c, and the
        softmax does not see c; and sum_t a_t (W_v x_t + b_v) = W_v (sum_t a_t x_t) + b_v, as the a_t sum to 1. So each
        head multiplies two vectors and no matrix of all tokens.
        """
        batch, _, width = x.shape
        by_head = (self.num_heads, width // self.num_heads, width)
        seen = self.norm1(x)
        query = self.query(seen[:, 0]).reshape(batch, self.num_heads, 1, -1) * self.scale
        asked = (query @ self.key.weight.reshape(by_head)).squeeze(2)
        weights = (asked @ seen.transpose(1, 2)).softmax(dim=-1)
        mixed = (weights @ seen).unsqueeze(2) @ self.value.weight.reshape(by_head).transpose(1, 2)
        attended = mixed.reshape(batch, width) + self.value.bias
        return self._finish(x[:, 0], attended)[:, None], weights.mean(dim=1, keepdim=True)

    def _finish(self, rows: Float[Tensor, "R D"], attended: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        """Add what attention found, then what the perceptron makes of it."""
        rows = rows + self.proj(attended)
        seen = self.norm2(rows)
        for rise, fall in zip(self.rise, self.fall, strict=True):
            rows = rows + fall(self.act(rise(seen)))
        return rows


def _parts(hidden: int) -> list[int]:
    """Say in which parts the hidden layer is computed.

    Where rows lie a multiple of 4 KiB apart, entries of one column fall into the same few lines of a processor's first
    cache and drive each other out: the product that reads them loses a tenth of its speed. Two parts have another
    stride, and the sum over hidden channels is the sum of both.
    """
    if hidden * _FLOAT % _PAGE:
        return [hidden]
    half = hidden // 2
    return [half, half] if half * _FLOAT % _PAGE else [half + _LINE, half - _LINE]


def _rows(joint: nn.Linear, sizes: list[int]) -> list[nn.Linear]:
    """Take a map apart by its outputs."""
    parts = zip(torch.split(joint.weight, sizes), torch.split(joint.bias, sizes), strict=True)
    return [_linear(weight, bias) for weight, bias in parts]


def _columns(joint: nn.Linear, sizes: list[int]) -> list[nn.Linear]:
    """Take a map apart by its inputs; the first part keeps the bias."""
    parts = enumerate(torch.split(joint.weight, sizes, dim=1))
    return [_linear(weight, None if number else joint.bias) for number, weight in parts]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a map of weights that belong to another: they stay where they are."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
