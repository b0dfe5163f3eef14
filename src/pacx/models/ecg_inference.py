# ruff: noqa: F722
"""The ECG network's feature on a CPU, with the same numbers in less time.

Set to one thread, PyTorch takes a plain convolution of its own for kernels of 1, where three quarters of ECGFounder's
arithmetic are; set to several, its threads meet after every layer. Two things help:

* `fast_features` asks oneDNN for those convolutions, pads only where the padding is asymmetric, and works in place
  where nothing else reads the tensor. It uses the modules of `EcgNet` as they are; a test holds both equal.
* `side_by_side` lets several Python threads, of one computing thread each, work at batches of their own. Nobody waits
  for anybody inside a layer, so processes that filter the next records on the same cores do not disturb it. (Threads
  that share one layer meet after each, and all wait for the one that was interrupted.) The numbers do not depend on
  how many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pacx.models.ecgfounder import EcgNet

__all__ = ["fast_features", "side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def fast_features(net: EcgNet, x: Float[Tensor, "B leads time"]) -> Float[Tensor, "B dim"]:
    """Compute `net.features(x)` for a network in eval mode on a CPU, without gradients.

    Elsewhere, or without oneDNN, it is `net.features(x)`.
    """
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not net.training
    if not plain or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return net.features(x)
    h = F.silu(_normed(net.first_conv(x), net.first_bn, net), inplace=True)
    for stage in net.stage_list:
        for block in cast("Any", stage).block_list:
            h = _block(block, h, net)
    feature: Tensor = h.mean(-1)
    return feature


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """Yield `work(item)` of all items, in order; several threads work, each computes on one core.

    At most `threads` + 1 items are under way.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pacx", initializer=torch.set_num_threads, initargs=(1,))
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)  # the pool's setting would hold for every thread that begins later


def _block(block: Any, x: Tensor, net: EcgNet) -> Tensor:
    h = x if block.first else F.silu(_normed(x, block.bn1, net))
    h = _pointwise(h, block.conv1.conv)
    h = F.silu(_normed(h, block.bn2, net), inplace=True)
    h = F.silu(_normed(_grouped(h, block.conv2), block.bn3, net), inplace=True)
    h = _pointwise(h, block.conv3.conv)
    gate = torch.sigmoid(block.se_fc2(F.silu(block.se_fc1(h.mean(-1)))))
    h.mul_(gate.unsqueeze(-1))
    if block.stride == 2:
        x = F.max_pool1d(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x, 2, 2)
    extra = h.shape[1] - x.shape[1]
    if extra < 0:
        return h.add_(F.pad(x, (0, 0, extra // 2, extra - extra // 2)))
    h[:, extra // 2 : extra // 2 + x.shape[1]].add_(x)
    return h


def _normed(h: Tensor, norm: nn.Module, net: EcgNet) -> Tensor:
    normed: Tensor = norm(h) if net.config.batch_norm else h
    return normed


def _pointwise(h: Tensor, conv: nn.Conv1d) -> Tensor:
    return torch.mkldnn_convolution(h, conv.weight, conv.bias, [0], [1], [1], 1)


def _grouped(h: Tensor, same: Any) -> Tensor:
    """A convolution with SAME padding; where both sides get the same, the kernel pads and nothing is copied."""
    length, conv = h.shape[-1], same.conv
    total = max(0, (-(-length // same.stride) - 1) * same.stride + same.kernel_size - length)
    if total % 2:
        padded: Tensor = same(h)
        return padded
    return F.conv1d(h, conv.weight, conv.bias, stride=same.stride, padding=total // 2, groups=conv.groups)
