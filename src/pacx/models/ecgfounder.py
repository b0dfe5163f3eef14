# ruff: noqa: F722
"""The ECG network: a residual 1-D CNN whose weights are interchangeable with the published ECGFounder.

    x (B, 12, T) -> stem -> 7 stages, each halving time -> mean over time (B, 1024) -> dense (B, 150)

* Names and shapes are ECGFounder's (PKUDigitalHealth/ECGFounder, MIT licence), so `12_lead_ECGFounder.pth` loads
  strictly, all 509 tensors accounted for.
* A block is pre-activated: 1x1 convolution, grouped convolution over 16 samples, 1x1 convolution, squeeze-excitation,
  plus the block's input. Swish comes before each convolution, except in the very first block.
* ECGFounder carries batch-norm tensors that it never applies. `batch_norm=False` does the same: they are loaded, kept
  and unused. A network trained here from scratch may switch them on, under the same names; it learns much faster so.
* Time is halved with SAME padding: `out = ceil(T / stride)`, the odd zero of padding on the right. The shortcut's
  max-pool pads with zero, not with minus infinity; a negative last sample of odd T feels the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pacx.errors import PacxError

__all__ = ["EcgNet", "EcgNetConfig", "EcgNetSize"]

EcgNetSize = Literal["small", "medium", "ecgfounder"]

_SIZES: dict[str, dict[str, Any]] = {
    "small": {"stem_width": 32, "widths": (32, 64, 64, 128), "blocks": (1, 1, 1, 1), "batch_norm": True},
    "medium": {
        "stem_width": 32, "widths": (32, 64, 64, 128, 128), "blocks": (2, 2, 2, 2, 2), "batch_norm": True,
        "dropout": 0.1,
    },
    "ecgfounder": {},
}  # fmt: skip


@dataclass(frozen=True)
class EcgNetConfig:
    """Shape of the network. The defaults are ECGFounder's."""

    num_classes: int = 150
    """number of ECG statements; 0 = no head, the network returns the feature"""
    stem_width: int = 64
    """channels after the first convolution"""
    widths: tuple[int, ...] = (64, 160, 160, 400, 400, 1024, 1024)
    """channels of each stage; the last is the length of the feature"""
    blocks: tuple[int, ...] = (2, 2, 2, 3, 3, 4, 4)
    """blocks of each stage"""
    kernel_size: int = 16
    """samples under the stem's and the grouped convolutions"""
    group_width: int = 16
    """channels per group of the grouped convolutions"""
    in_channels: int = 12
    """leads"""
    batch_norm: bool = False
    """apply the batch norms; ECGFounder does not"""
    dropout: float = 0.0
    """probability after each Swish of a block; ECGFounder uses none"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise PacxError(
                f"{len(self.widths)} stage widths and {len(self.blocks)} block counts; give one of each per stage."
            )
        if any(width < 1 or width % self.group_width for width in self.widths):
            raise PacxError(f"Stage widths {self.widths} must be multiples of the group width {self.group_width}.")
        if self.stem_width < 1 or min(self.blocks) < 1:
            raise PacxError(f"The stem width {self.stem_width} and the blocks {self.blocks} must be 1 or more.")
        if not 0 <= self.dropout < 1:
            raise PacxError(f"dropout is {self.dropout:g}; it is a probability, from 0 to below 1.")

    @classmethod
    def named(cls, size: EcgNetSize, *, num_classes: int, **changes: Any) -> EcgNetConfig:
        """Return a usual size: "small" and "medium" train from scratch on a CPU, "ecgfounder" is the published one.

        Args:
            size: the usual size.
            num_classes: number of ECG statements.
            changes: any other field, in place of the size's; None leaves it.
        """
        if size not in _SIZES:
            raise PacxError(f"There is no ECG network size {size!r}. Known sizes: {', '.join(_SIZES)}.")
        given = {key: value for key, value in changes.items() if value is not None}
        return cls(num_classes, **{**_SIZES[size], **given})

    @property
    def dim(self) -> int:
        """Length of the feature."""
        return self.widths[-1]

    @property
    def stride(self) -> int:
        """Samples of the record per position of the last stage."""
        return int(2 ** (1 + len(self.widths)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EcgNetConfig:
        """Read what `dataclasses.asdict` wrote; nothing may be missing or left over."""
        names = {item.name for item in fields(cls)}
        if set(content) != names:
            raise PacxError(
                f"An ECG network's architecture has the keys {sorted(names)}; found {sorted(content)}. "
                "Fit the teacher again with this pacx."
            )
        return cls(**content)


class _SameConv(nn.Module):
    """1-D convolution with out = ceil(T / stride); keeps ECGFounder's extra level of naming."""

    def __init__(self, width_in: int, width: int, kernel_size: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width, kernel_size, stride=stride, groups=groups)
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        out = -(-length // self.stride)
        total = max(0, (out - 1) * self.stride + self.kernel_size - length)
        result: Tensor = self.conv(F.pad(x, (total // 2, total - total // 2)))
        return result


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, config: EcgNetConfig, *, stride: int, first: bool) -> None:
        super().__init__()
        self.config = config
        self.stride = stride
        self.first = first
        self.bn1 = nn.BatchNorm1d(width_in)
        self.conv1 = _SameConv(width_in, width, 1)
        self.bn2 = nn.BatchNorm1d(width)
        groups = width // config.group_width
        self.conv2 = _SameConv(width, width, config.kernel_size, stride=stride, groups=groups)
        self.bn3 = nn.BatchNorm1d(width)
        self.conv3 = _SameConv(width, width, 1)
        self.se_fc1 = nn.Linear(width, width // 2)
        self.se_fc2 = nn.Linear(width // 2, width)
        # Weights that the published file holds and nothing uses: training on several devices would wait for gradients.
        self.bn1.requires_grad_(config.batch_norm and not first)
        self.bn2.requires_grad_(config.batch_norm)
        self.bn3.requires_grad_(config.batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else self._activate(x, self.bn1)
        h = self.conv1(h)
        h = self.conv2(self._activate(h, self.bn2))
        h = self.conv3(self._activate(h, self.bn3))
        gate = self.se_fc2(F.silu(self.se_fc1(h.mean(-1))))
        result: Tensor = h * torch.sigmoid(gate).unsqueeze(-1) + self._shortcut(x, h.shape[1])
        return result

    def _activate(self, x: Tensor, norm: nn.Module) -> Tensor:
        h = F.silu(norm(x) if self.config.batch_norm else x)
        return F.dropout(h, self.config.dropout, self.training) if self.config.dropout else h

    def _shortcut(self, x: Tensor, width: int) -> Tensor:
        if self.stride == 2:
            x = F.max_pool1d(F.pad(x, (0, 1)), 2, 2)
        extra = width - x.shape[1]
        # New channels lie on both sides of the old ones; a negative extra, in a narrowing network, crops likewise.
        return F.pad(x, (0, 0, extra // 2, extra - extra // 2)) if extra else x


class _Stage(nn.Module):
    def __init__(self, width_in: int, width: int, blocks: int, config: EcgNetConfig, *, first: bool) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(
            _Block(
                width_in if block == 0 else width,
                width,
                config,
                stride=2 if block == 0 else 1,
                first=first and block == 0,
            )
            for block in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class EcgNet(nn.Module):
    """12-lead ECG to a feature vector and to logits of ECG statements."""

    def __init__(self, config: EcgNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EcgNetConfig()
        self.first_conv = _SameConv(config.in_channels, config.stem_width, config.kernel_size, stride=2)
        self.first_bn = nn.BatchNorm1d(config.stem_width).requires_grad_(config.batch_norm)
        widths_in = (config.stem_width, *config.widths[:-1])
        self.stage_list = nn.ModuleList(
            _Stage(width_in, width, blocks, config, first=stage == 0)
            for stage, (width_in, width, blocks) in enumerate(zip(widths_in, config.widths, config.blocks, strict=True))
        )
        self.dense = nn.Linear(config.dim, config.num_classes) if config.num_classes else nn.Identity()

    @classmethod
    def small(cls, num_classes: int) -> EcgNet:
        """Build a network that trains on a CPU in a minute."""
        return cls(EcgNetConfig.named("small", num_classes=num_classes))

    def feature_map(self, x: Float[Tensor, "B leads time"]) -> Float[Tensor, "B dim positions"]:
        """Return the last stage; a position stands for `config.stride` samples, ceil(time / stride) of them."""
        h: Tensor = self.first_conv(x)
        h = F.silu(self.first_bn(h) if self.config.batch_norm else h)
        for stage in self.stage_list:
            h = stage(h)
        return h

    def features(self, x: Float[Tensor, "B leads time"]) -> Float[Tensor, "B dim"]:
        """Return the mean over time of the last stage."""
        return self.feature_map(x).mean(-1)

    def forward(self, x: Float[Tensor, "B leads time"]) -> Float[Tensor, "B classes"]:
        """Return one logit per ECG statement; the sigmoid is left to the caller."""
        logits: Tensor = self.dense(self.features(x))
        return logits
