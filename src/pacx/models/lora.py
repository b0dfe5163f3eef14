"""LoRA that costs a CPU less: PEFT's layers with the same parameters and formulas, computed in fewer steps.

    y = W x + b + s B A (m * x) / (1 - p),   m_i = 1 with probability 1 - p, else 0;   s = alpha / rank

(Hu et al. 2021, section 4; W and b are frozen). Composed of single operations this keeps x, its masked copy and the
mask for the backward pass, and a CPU draws the mask one number after the other, as slowly as it multiplies with W. Here
16 bits per entry come from SFC64, and backwards the mask is drawn once more from its seed. So p is rounded to a
multiple of 1/65536, and what is divided by is the rounded one: the mean stays exact.

What enters an adapted product is forgotten where it can be had again: `AdaptedBlock` keeps the tokens before a norm and
before the GELU, as `pacx.models.lean` does for blocks that are not adapted.

On other devices, in half precision, under `torch.compile`, and for any use of PEFT beyond the plain one (merged,
disabled, several adapters, DoRA and the like) these are PEFT's layers and timm's blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from peft.utils import ModulesToSaveWrapper
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pacx.models.lean import is_hooked, is_untouched, linear_add
from pacx.models.onednn import applies, product, product_add

__all__ = ["AdaptedBlock", "LoraLinear", "draw_mask"]

_STEPS = 65536


class LoraLinear(Linear):
    """PEFT's LoRA layer around an `nn.Linear`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted product; see the top of the module."""
        if args or kwargs or not (applies(x) and self.is_plain()):
            composed: Tensor = super().forward(x, *args, **kwargs)
            return composed
        return self.fused(x)

    def is_plain(self) -> bool:
        """Say whether the formula at the top of the module is all that this layer computes."""
        base, names = self.base_layer, self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A:
            return False
        down, up, dropout = self.lora_A[names[0]], self.lora_B[names[0]], self.lora_dropout[names[0]]
        frozen = type(base) is nn.Linear and base.bias is not None and not base.weight.requires_grad
        plain_types = type(down) is nn.Linear and type(up) is nn.Linear and type(dropout) in {nn.Dropout, nn.Identity}
        return frozen and not base.bias.requires_grad and plain_types and up.bias is None and not self.lora_variant

    def fused(self, x: Tensor, *, before: nn.Module | None = None, to: Tensor | None = None) -> Tensor:
        """Return the adapted product of before(x), plus `to`; only for layers that are plain.

        Args:
            x: (..., D) float32 on the CPU.
            before: an `nn.LayerNorm`, or an `nn.GELU`, whose output is not kept.
            to: (..., E)
        """
        (name,) = self.active_adapters
        base, dropout = cast(nn.Linear, self.base_layer), self.lora_dropout[name]
        share = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        norm = before if isinstance(before, nn.LayerNorm) else None
        how = _How("gelu" if isinstance(before, nn.GELU) else "norm" if norm else "", float(self.scaling[name]), share,
                   norm.eps if norm else 0.0)  # fmt: skip
        adapted: Tensor = _LoraProduct.apply(
            x, norm and norm.weight, norm and norm.bias, base.weight, base.bias, self.lora_A[name].weight,
            self.lora_B[name].weight, to, how,
        )  # fmt: skip
        return adapted


class AdaptedBlock(Block):
    """One of timm's pre-norm blocks whose `qkv`, `fc1` and `fc2` have become `LoraLinear`.

    A block becomes one by `AdaptedBlock.adopt(block)`; its parameters and their names stay as they are.
    """

    @classmethod
    def adopt(cls, block: Block) -> None:
        """Turn an adapted block into one that computes in fewer steps, if it is a plain one of timm."""
        if type(block) is Block and type(block.attn) is Attention:
            block.__class__ = cls

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the block's tokens, (B, T, D) to (B, T, D)."""
        if args or kwargs or not (applies(x) and self._is_plain()):
            composed: Tensor = super().forward(x, *args, **kwargs)
            return composed
        batch, length, width = x.shape
        qkv = cast(LoraLinear, self.attn.qkv).fused(x, before=_active(self.norm1))
        by_head = qkv.view(batch, length, 3, self.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = by_head.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = linear_add(self.attn.proj, attended, x)
        hidden = cast(LoraLinear, self.mlp.fc1).fused(x, before=_active(self.norm2))
        return cast(LoraLinear, self.mlp.fc2).fused(hidden, before=self.mlp.act, to=x)

    def _is_plain(self) -> bool:
        adapted = (self.attn.qkv, self.mlp.fc1, self.mlp.fc2)
        if not all(type(layer) is LoraLinear and layer.is_plain() for layer in adapted):
            return False
        passing = (
            self.attn.q_norm, self.attn.k_norm, self.mlp.norm, self.ls1, self.ls2, self.drop_path1, self.drop_path2,
        )  # fmt: skip
        drops = (self.attn.attn_drop, self.attn.proj_drop, self.mlp.drop1, self.mlp.drop2)
        plain = (self.norm1, self.norm2, self.attn.proj, self.mlp.act, *passing, *drops)
        return (
            all(isinstance(_active(part), nn.Identity) for part in passing)
            and all(is_untouched(_active(part)) for part in plain)
            and not any(map(is_hooked, (self.attn, self.mlp, *adapted, *plain)))
        )


def draw_mask(like: Tensor, share: float, *, seed: int) -> tuple[Tensor, float]:
    """Draw which entries stay when a share of them is dropped.

    Returns:
        The mask, bool of the shape of `like`, True where an entry stays; and the share that stays on average.
    """
    numbers = np.random.SFC64(seed).random_raw((like.numel() + 3) // 4)
    entries = torch.from_numpy(numbers.view(np.int16))[: like.numel()].view(like.shape)
    dropped = round(share * _STEPS)
    return entries >= dropped - _STEPS // 2, 1 - dropped / _STEPS


class _How(NamedTuple):
    before: str
    """what x goes through first: "norm", "gelu" or "" """
    scaling: float
    """alpha / rank"""
    share: float
    """p"""
    eps: float
    """of the norm"""


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor, down: Tensor,
        up: Tensor, to: Tensor | None, how: _How,
    ) -> Tensor:  # fmt: skip
        seed = int(torch.randint(2**62, ())) if how.share > 0 else 0  # from the generator that a run saves
        entering, mean, rstd = _enter(x, gain, shift, how)
        masked, kept = _drop(entering, how.share, seed)
        inner = product(masked, down)
        y = product(entering, weight, bias) if to is None else product_add(entering, weight, bias, to)
        y.flatten(0, -2).addmm_(inner.flatten(0, -2), up.t(), alpha=how.scaling / kept)
        ctx.save_for_backward(x, gain, shift, mean, rstd, inner, weight, down, up)
        ctx.how, ctx.seed, ctx.factor = how, seed, how.scaling / kept
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, rstd, inner, weight, down, up = ctx.saved_tensors
        x_wanted, gain_wanted, shift_wanted, _, _, down_wanted, up_wanted, _, _ = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        grad_up = (rows.t() @ inner.flatten(0, -2)).mul_(ctx.factor) if up_wanted else None
        grad_inner = (rows @ up).mul_(ctx.factor)
        mask = None if not ctx.how.share else draw_mask(x, ctx.how.share, seed=ctx.seed)[0]
        grad_down = None
        if down_wanted:
            entering = _enter(x, gain, shift, ctx.how)[0]
            masked = entering if mask is None else entering * mask
            grad_down = grad_inner.t() @ masked.flatten(0, -2)
            del entering, masked
        grads: tuple[Tensor | None, ...] = (None, None, None)
        if x_wanted or gain_wanted or shift_wanted:
            through = (grad_inner @ down).view(x.shape)
            grad_x = product_add(grad, weight.t(), None, through if mask is None else through.mul_(mask))
            if ctx.how.before == "gelu":
                torch.ops.aten.gelu_backward.grad_input(grad_x, x, grad_input=grad_x)  # in place
            grads = (grad_x, None, None)
            if ctx.how.before == "norm":
                wanted = [x_wanted, gain_wanted, shift_wanted]
                grads = torch.ops.aten.native_layer_norm_backward(
                    grad_x, x, x.shape[-1:], mean, rstd, gain, shift, wanted
                )
        return *grads, None, None, grad_down, grad_up, grad if ctx.needs_input_grad[7] else None, None


def _enter(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, how: _How
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what enters the product, and the norm's mean and 1/deviation per token."""
    if how.before == "norm":
        return torch.native_layer_norm(x, x.shape[-1:], gain, shift, how.eps)
    return F.gelu(x) if how.before == "gelu" else x, None, None


def _drop(x: Tensor, share: float, seed: int) -> tuple[Tensor, float]:
    if not share:
        return x, 1.0
    mask, kept = draw_mask(x, share, seed=seed)
    return x * mask, kept


def _active(module: nn.Module) -> nn.Module:
    """Return the module that PEFT calls: the trained copy of one that it wraps, or the module itself."""
    if isinstance(module, ModulesToSaveWrapper) and not module.disable_adapters and len(module.active_adapters) == 1:
        return cast(nn.Module, module.modules_to_save[module.active_adapters[0]])
    return module
