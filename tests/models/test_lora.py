"""The fused LoRA layer: PEFT's numbers, gradients included; a fair mask; PEFT's own way wherever it does not apply."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pacx.models import lora, onednn
from pacx.models.lora import AdaptedBlock, LoraLinear, draw_mask

torch.set_num_threads(1)
needs_onednn = pytest.mark.skipif(not onednn.applies(torch.zeros(1)), reason="this torch has no oneDNN")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 20), nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


def adapted(*, fused: bool, dropout: float = 0.0, **options: object) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["fc1", "fc2"], init_lora_weights=False, **options
    )
    if fused:
        config._register_custom_module({nn.Linear: LoraLinear})
    return get_peft_model(Net(), config)


def x() -> Tensor:
    return torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_(True)


def numbers(net: nn.Module, given: Tensor) -> dict[str, Tensor | None]:
    out = net(given)
    out.sin().sum().backward()
    return {"out": out, "x": given.grad, **{name: parameter.grad for name, parameter in net.named_parameters()}}


@needs_onednn
@pytest.mark.parametrize("training", [True, False])
def test_output_and_gradients_are_those_of_peft(training: bool) -> None:
    ours, theirs = adapted(fused=True).train(training), adapted(fused=False).train(training)
    assert isinstance(ours.base_model.model.fc1, LoraLinear)
    assert type(theirs.base_model.model.fc1) is Linear
    found, expected = numbers(ours, x()), numbers(theirs, x())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert sum(value is not None for name, value in expected.items() if "lora_" in name) == 4


@needs_onednn
def test_with_dropout_the_gradients_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    net = adapted(fused=True, dropout=0.3).train()
    layer, given = net.base_model.model.fc1, x()
    mask, kept = draw_mask(given, 0.3, seed=7)
    monkeypatch.setattr(lora, "draw_mask", lambda like, share, *, seed: (mask, kept))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def formula(value: Tensor) -> Tensor:
        return layer.base_layer(value) + 2.0 * (value * mask / kept) @ down.T @ up.T

    torch.testing.assert_close(layer(given), formula(given), rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(layer(given).sin().sum(), [given, down, up])
    plain = torch.autograd.grad(formula(given).sin().sum(), [given, down, up])
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_mask_drops_its_share_and_follows_the_seed(share: float) -> None:
    like = torch.empty(1000, 333)
    mask, kept = draw_mask(like, share, seed=5)
    assert mask.shape == like.shape
    assert kept == pytest.approx(1 - share, abs=1e-5)
    assert mask.float().mean().item() == pytest.approx(kept, abs=5 * (share * (1 - share) / like.numel()) ** 0.5)
    assert not torch.equal(mask, draw_mask(like, share, seed=6)[0])
    assert torch.equal(mask, draw_mask(like, share, seed=5)[0])


@pytest.mark.parametrize("how", ["autocast", "double", "no oneDNN", "merged", "disabled", "dora"])
def test_elsewhere_it_is_the_layer_of_peft(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"use_dora": True} if how == "dora" else {}
    ours, theirs = adapted(fused=True, **options).eval(), adapted(fused=False, **options).eval()
    monkeypatch.setattr(lora, "_LoraProduct", None)  # would fail if it were called
    given = x().detach()
    if how == "double":
        ours, theirs, given = ours.double(), theirs.double(), given.double()
    if how == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for net in (ours, theirs):
        if how == "merged":
            net.merge_adapter()
        if how == "disabled":
            net.base_model.disable_adapter_layers()
    with torch.autocast("cpu", enabled=how == "autocast", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(given), theirs(given), rtol=0, atol=0)


WIDTH = 24


def blocks(*, fused: bool, norms: tuple[str, ...] = ("norm1", "norm2"), dropout: float = 0.0) -> nn.Module:
    """Two adapted blocks, every trainable weight moved; fused ones as `Student` makes them."""
    torch.manual_seed(0)
    net = nn.Sequential(*(Block(WIDTH, num_heads=3, qkv_bias=True) for _ in range(2)))
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["qkv", "fc1", "fc2"], init_lora_weights=False,
        modules_to_save=list(norms),
    )  # fmt: skip
    if fused:
        config._register_custom_module({nn.Linear: LoraLinear})
    adapted_net = get_peft_model(net, config)
    if fused:
        for block in net:
            AdaptedBlock.adopt(block)
    with torch.no_grad():
        for parameter in adapted_net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return adapted_net


def tokens() -> Tensor:
    return torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_(True)


@needs_onednn
@pytest.mark.parametrize("norms", [("norm1", "norm2"), ("norm2",)])
def test_a_block_gives_the_tokens_and_gradients_of_timm_and_peft(norms: tuple[str, ...]) -> None:
    ours, theirs = blocks(fused=True, norms=norms).train(), blocks(fused=False, norms=norms).train()
    assert all(type(block) is AdaptedBlock and block._is_plain() for block in ours.base_model.model)
    found, expected = numbers(ours, tokens()), numbers(theirs, tokens())
    assert found.keys() == expected.keys()
    assert sum(value is not None for value in expected.values()) == 2 + 2 * (6 + 2 * len(norms))
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@needs_onednn
def test_what_is_forgotten_comes_back_with_the_same_mask() -> None:
    """The gradient is the slope of what was computed, dropout included: the mask of the backward pass is the same."""
    net = blocks(fused=True, dropout=0.4).train()
    weight = net.base_model.model[0].mlp.fc2.lora_A["default"].weight

    def loss() -> Tensor:
        torch.manual_seed(9)
        return net(tokens()).sin().sum()

    (slope,) = torch.autograd.grad(loss(), [weight])
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        values = []
        for step in (1e-3, -1e-3):
            weight.add_(step * direction)
            values.append(float(loss()))
            weight.sub_(step * direction)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(float((slope * direction).sum()), rel=0.01)


@needs_onednn
def test_a_block_keeps_less_than_two_thirds_of_what_timm_and_peft_keep() -> None:
    def kept(net: nn.Module) -> int:
        sizes: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = net(torch.randn(8, 50, WIDTH))
        del out
        return sum(sizes.values())

    assert kept(blocks(fused=True, dropout=0.1).train()) < 0.67 * kept(blocks(fused=False, dropout=0.1).train())


HOOKED = ["attn", "mlp", "attn.qkv", "mlp.fc1", "attn.proj", "norm1"]


@pytest.mark.parametrize("how", [*HOOKED, "qk norm", "dropout", "disabled", "merged", "double"])
def test_a_block_that_does_more_is_called_as_it_is(how: str) -> None:
    ours, theirs = blocks(fused=True).train(), blocks(fused=False).train()
    given = tokens().detach()
    for net in (ours, theirs):
        block = net.base_model.model[0]
        if how in HOOKED:
            block.get_submodule(how).register_forward_hook(lambda *call: call[-1] * 2)
        if how == "qk norm":
            block.attn.q_norm = nn.LayerNorm(WIDTH // 3)
        if how == "dropout":
            block.mlp.drop1 = nn.Dropout(0.5)
        if how == "disabled":
            net.base_model.disable_adapter_layers()
        if how == "merged":
            net.merge_adapter()
        if how == "double":
            net.double()
    if how == "double":
        given = given.double()
    assert how == "double" or not ours.base_model.model[0]._is_plain()
    outputs = []
    for net in (ours, theirs):
        torch.manual_seed(1)
        outputs.append(net(given))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
