"""Blocks that keep less for the backward pass give the numbers and gradients of timm's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pacx.models import lean
from pacx.models.lean import gelu_linear_add, linear_add, norm_linear, run_blocks, run_decoder

torch.set_num_threads(1)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this CPU build has no oneDNN")

WIDTH, HEADS = 32, 4


def blocks(count: int = 2) -> nn.ModuleList:
    torch.manual_seed(0)
    made = nn.ModuleList(Block(WIDTH, HEADS, qkv_bias=True) for _ in range(count))
    with torch.no_grad():  # biases start at 0 and gains at 1, which would hide a mix-up
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def tokens() -> Tensor:
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradients(run: Callable[[nn.ModuleList, Tensor], Tensor]) -> dict[str, Tensor]:
    made, x = blocks(), tokens()
    y = run(made, x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    return {"value": y.detach(), "x": x.grad, **{name: p.grad for name, p in made.named_parameters()}}  # type: ignore[dict-item]


def plainly(made: nn.ModuleList, x: Tensor) -> Tensor:
    for block in made:
        x = block(x)
    return x


def kept_bytes(run: Callable[[nn.ModuleList, Tensor], Tensor]) -> int:
    """Bytes of activations that a forward pass keeps for the backward pass, parameters left out."""
    made, kept = blocks(), {}
    own = {parameter.data_ptr() for parameter in made.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(made, tokens())
    return sum(kept.values())


@needs_onednn
def test_values_and_every_gradient_equal_those_of_plain_blocks() -> None:
    ours, plain = gradients(run_blocks), gradients(plainly)
    for name, expected in plain.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5, msg=name)


def decoded(run: Callable[..., Tensor], count: int) -> dict[str, Tensor]:
    torch.manual_seed(2)
    known, table = torch.randn(3, 2, WIDTH, requires_grad=True), torch.randn(6, WIDTH, requires_grad=True)
    places, made = torch.tensor([[4, 0, 5], [1, 2, 3], [0, 1, 5]]), blocks(count)
    y = run(made, known, table, places)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = {name: parameter.grad for name, parameter in made.named_parameters()}
    return {"value": y.detach(), "known": known.grad, "table": table.grad, **grads}  # type: ignore[dict-item]


def decoded_plainly(made: nn.ModuleList, known: Tensor, table: Tensor, places: Tensor) -> Tensor:
    return plainly(made, torch.cat([known, table[places]], dim=1))[:, known.shape[1] :]


@needs_onednn
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_decoder_that_skips_what_nobody_needs_equals_one_that_does_not(count: int) -> None:
    ours, plain = decoded(run_decoder, count), decoded(decoded_plainly, count)
    for name, expected in plain.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5, msg=name)


@needs_onednn
def test_less_than_two_thirds_of_the_activations_are_kept() -> None:
    assert kept_bytes(run_blocks) < 0.67 * kept_bytes(plainly)


@needs_onednn
def test_the_fused_operations_are_really_used_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    real = lean._product
    monkeypatch.setattr(lean, "_product", lambda *args: used.append("product") or real(*args))
    run_blocks(blocks(1), tokens())
    assert used == ["product", "product"]  # qkv and fc1; proj and fc2 add as they multiply


@pytest.mark.parametrize("off", ["autocast", "double", "no oneDNN"])
def test_elsewhere_blocks_are_called_as_they_are(off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = blocks(), tokens().detach()
    monkeypatch.setattr(lean, "_Linear", None)  # would fail if it were called
    if off == "double":
        made, x = made.double(), x.double()
    if off == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.autocast("cpu", enabled=off == "autocast", dtype=torch.bfloat16):
        torch.testing.assert_close(run_blocks(made, x), plainly(made, x), rtol=0, atol=0)


def test_the_plain_composition_says_what_the_fused_operations_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
    x, to = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    fused = norm_linear(norm, linear, x), linear_add(linear, x, to), gelu_linear_add(linear, x, to)
    monkeypatch.setattr(lean, "_applies", lambda _: False)
    plain = norm_linear(norm, linear, x), linear_add(linear, x, to), gelu_linear_add(linear, x, to)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
