"""Blocks that keep less for the backward pass give the numbers and gradients of timm's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import Block, LayerScale
from torch import Tensor, nn

from pacx.models import lean, onednn
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
    real = lean.product
    monkeypatch.setattr(lean, "product", lambda *args: used.append("product") or real(*args))
    run_blocks(blocks(1), tokens())
    assert used == ["product", "product"]  # qkv and fc1; proj and fc2 add as they multiply


@pytest.mark.parametrize("off", ["autocast", "double", "no oneDNN"])
def test_elsewhere_blocks_are_called_as_they_are(off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = blocks(), tokens().detach()
    monkeypatch.setattr(onednn, "_Linear", None)  # would fail if it were called
    if off == "double":
        made, x = made.double(), x.double()
    if off == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.autocast("cpu", enabled=off == "autocast", dtype=torch.bfloat16):
        torch.testing.assert_close(run_blocks(made, x), plainly(made, x), rtol=0, atol=0)


def adapted(made: nn.ModuleList) -> None:
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv", "fc1"], init_lora_weights=False), made)


def scaled(made: nn.ModuleList) -> None:
    for block in made:
        block.ls1 = LayerScale(WIDTH, init_values=0.1)


def hooked(made: nn.ModuleList) -> None:
    for block in made:
        block.mlp.fc1.register_forward_hook(lambda *given: given[-1] * 2)


def without_bias(made: nn.ModuleList) -> None:
    for block in made:
        block.attn.qkv.register_parameter("bias", None)


@pytest.mark.parametrize("change", [adapted, scaled, hooked, without_bias])
def test_a_block_that_was_changed_is_called_as_it_is(change: Callable[[nn.ModuleList], None]) -> None:
    made, x = blocks(), tokens().detach()
    before = run_blocks(made, x)
    change(made)
    after = run_blocks(made, x)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, plainly(made, x), rtol=0, atol=0)


def test_dropout_in_training_is_not_passed_by() -> None:
    made = blocks(1).train()
    made[0].mlp.drop1 = nn.Dropout(0.5)
    assert not lean._is_plain(made[0])
    assert lean._is_plain(made.eval()[0])


@needs_onednn
@pytest.mark.parametrize("trained", ["bias", "norm", "fc2.weight", ""])
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(trained: str) -> None:
    def run(forward: Callable[[nn.ModuleList, Tensor], Tensor]) -> dict[str, Tensor | None]:
        made, x = blocks(), tokens()
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(bool(trained) and trained in name)
        forward(made, x).square().sum().backward()
        return {"x": x.grad, **{name: parameter.grad for name, parameter in made.named_parameters()}}

    ours, plain = run(run_blocks), run(plainly)
    assert {name for name, grad in ours.items() if grad is None} == {n for n, grad in plain.items() if grad is None}
    for name, expected in plain.items():
        if expected is not None:
            torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-4, msg=name)


def test_the_plain_composition_says_what_the_fused_operations_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
    x, to = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    fused = norm_linear(norm, linear, x), linear_add(linear, x, to), gelu_linear_add(linear, x, to)
    monkeypatch.setattr(lean, "applies", lambda _: False)
    plain = norm_linear(norm, linear, x), linear_add(linear, x, to), gelu_linear_add(linear, x, to)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
