# ruff: noqa: F722
"""Transformer blocks that cost a CPU less time and memory, with the same numbers.

A pre-norm block is x + proj(attention(qkv(norm(x)))), then x + fc2(gelu(fc1(norm(x)))). Plain autograd keeps the
output of every operation for the backward pass: 16 times the tokens per block. Three fused operations keep 10:

* `norm_linear` keeps the tokens and forgets their normalised copy, which two numbers per token bring back.
* `gelu_linear_add` keeps what enters the GELU and forgets what leaves it.
* `linear_add` and `gelu_linear_add` add bias and residual inside the matrix product, without a copy of either.

`run_decoder` skips two things that a decoder need not compute: before its first block a mask token depends on its
place alone, so its projection to query, key and value is made once per place and not once per image; and after its
last block nobody asks for the tokens of visible patches.

Their matrix products run in oneDNN (`pacx.models.onednn`). The exception is the gradient of a weight, whose operands
oneDNN would first copy into place.

All of this applies to float32 on a CPU that has oneDNN. Elsewhere (GPU, half precision, inside `torch.compile`) the
same functions are the plain composition, and blocks are called as timm wrote them; so are blocks that were changed, by
adapters, dropout, layer scale, hooks or sharding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from timm.layers import LayerNorm, Mlp
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pacx.models.onednn import applies, product, product_add

__all__ = ["gelu_linear_add", "is_hooked", "is_untouched", "linear_add", "norm_linear", "run_blocks", "run_decoder"]

_PLAIN = {Block, Attention, Mlp, nn.Linear, nn.LayerNorm, LayerNorm, nn.GELU, nn.Identity, nn.Dropout}


def run_blocks(blocks: Iterable[Block], tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """Send tokens through timm's pre-norm blocks."""
    for block in blocks:
        tokens = _block(block, tokens) if applies(tokens) and _is_plain(block) else block(tokens)
    return tokens


def run_decoder(
    blocks: nn.ModuleList, known: Float[Tensor, "B K D"], table: Float[Tensor, "N D"], places: Int64[Tensor, "B M"]
) -> Float[Tensor, "B M D"]:
    """Send known tokens and rows of a table through blocks together; return what becomes of the latter.

    Args:
        blocks: timm's, as for `run_blocks`; at least one.
        known: tokens that differ from image to image.
        table: a token per place that is the same in all images.
        places: which rows of the table each image takes.
    """
    tokens = torch.cat([known, F.embedding(places, table)], dim=1)
    if not (applies(tokens) and all(map(_is_plain, blocks))):
        return run_blocks(blocks, tokens)[:, known.shape[1] :]
    projected = [_qkv(blocks[0], known), F.embedding(places, _qkv(blocks[0], table))]
    for number, block in enumerate(blocks, start=1):
        qkv = torch.cat(projected, dim=1) if number == 1 else None
        tokens = _block(block, tokens, qkv=qkv, start=known.shape[1] if number == len(blocks) else 0)
    return tokens


def norm_linear(norm: nn.LayerNorm, linear: nn.Linear, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
    """Return linear(norm(x))."""
    if not applies(x):
        projected: Tensor = linear(norm(x))
        return projected
    fused: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps)
    return fused


def linear_add(linear: nn.Linear, x: Float[Tensor, "... D"], to: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
    """Return to + linear(x)."""
    total: Tensor = _LinearAdd.apply(x, linear.weight, linear.bias, to) if applies(x) else to + linear(x)
    return total


def gelu_linear_add(
    linear: nn.Linear, hidden: Float[Tensor, "... D"], to: Float[Tensor, "... E"]
) -> Float[Tensor, "... E"]:
    """Return to + linear(gelu(hidden)), with the exact GELU."""
    if not applies(hidden):
        return to + cast(Tensor, linear(F.gelu(hidden)))
    total: Tensor = _GeluLinearAdd.apply(hidden, linear.weight, linear.bias, to)
    return total


def _qkv(block: Block, tokens: Tensor) -> Tensor:
    return norm_linear(block.norm1, block.attn.qkv, tokens)


def _block(block: Block, tokens: Tensor, *, qkv: Tensor | None = None, start: int = 0) -> Tensor:
    """Run one block; return the tokens from `start` on. `qkv` is given where it was projected elsewhere."""
    batch, length, width = tokens.shape
    projected = _qkv(block, tokens) if qkv is None else qkv
    by_head = projected.view(batch, length, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = by_head.unbind(0)
    attended = F.scaled_dot_product_attention(query[:, :, start:], key, value).transpose(1, 2)
    wanted = linear_add(block.attn.proj, attended.reshape(batch, -1, width), tokens[:, start:].contiguous())
    return gelu_linear_add(block.mlp.fc2, norm_linear(block.norm2, block.mlp.fc1, wanted), wanted)


def _is_plain(block: nn.Module) -> bool:
    """Say whether calling the block does no more than its formula: nothing is adapted, sharded, compiled or hooked."""
    return type(block) is Block and all(map(is_untouched, block.modules()))


def is_untouched(module: nn.Module) -> bool:
    """Say whether a part of a block is one of those that a plain block has, and does no more than its formula."""
    if is_hooked(module) or type(module) not in _PLAIN:
        return False
    if isinstance(module, nn.Linear):
        return module.bias is not None
    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    return not (isinstance(module, nn.Dropout) and module.training and module.p > 0)


def is_hooked(module: nn.Module) -> bool:
    """Say whether calling the module does more than its forward: somebody listens in, or it was compiled."""
    return any((
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
        module._compiled_call_impl,
    ))  # fmt: skip


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, weight)
        ctx.eps = eps
        return product(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gain, shift, weight = ctx.saved_tensors
        *wanted, weight_wanted, bias_wanted, _ = ctx.needs_input_grad
        grad_weight = None
        if weight_wanted:  # the normalised copy is gone before the next large tensor is made
            normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0]
            grad_weight = _weight_grad(grad, normed)
            del normed
        grads: tuple[Tensor | None, ...] = (None, None, None)
        if any(wanted):
            grads = torch.ops.aten.native_layer_norm_backward(
                product(grad, weight.t()), x, x.shape[-1:], mean, rstd, gain, shift, wanted
            )
        return *grads, grad_weight, _bias_grad(grad) if bias_wanted else None, None


class _LinearAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, to: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)  # a frozen weight needs no x
        return product_add(x, weight, bias, to)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_wanted, weight_wanted, bias_wanted, _ = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if x_wanted else None,
            _weight_grad(grad, x) if weight_wanted else None,
            _bias_grad(grad) if bias_wanted else None,
            grad,
        )


class _GeluLinearAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, to: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return product_add(F.gelu(hidden), weight, bias, to)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        hidden_wanted, weight_wanted, bias_wanted, _ = ctx.needs_input_grad
        grad_weight = _weight_grad(grad, F.gelu(hidden)) if weight_wanted else None
        grad_hidden = None
        if hidden_wanted:
            grad_hidden = product(grad, weight.t())
            torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)  # in place
        return grad_hidden, grad_weight, _bias_grad(grad) if bias_wanted else None, grad


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    return grad.flatten(0, -2).t() @ x.flatten(0, -2)


def _bias_grad(grad: Tensor) -> Tensor:
    return grad.flatten(0, -2).sum(dim=0)
