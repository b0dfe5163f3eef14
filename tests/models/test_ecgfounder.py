import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecgfounder
from pacx.models.ecgfounder import EcgNet, EcgNetConfig, _SameConv

torch.set_num_threads(1)
CHECKPOINT = os.environ.get("PACX_ECGFOUNDER")
WIDTHS = (64, 160, 160, 400, 400, 1024, 1024)
BLOCKS = (2, 2, 2, 3, 3, 4, 4)


@pytest.fixture(scope="module")
def net() -> EcgNet:
    torch.manual_seed(0)
    return EcgNet().eval()


def tiny(**changes) -> EcgNet:
    torch.manual_seed(0)
    settings = {"stem_width": 8, "widths": (8, 16), "blocks": (2, 1), "kernel_size": 16, "group_width": 8} | changes
    return EcgNet(EcgNetConfig(3, **settings))


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public checkpoint, written down from its description."""
    shapes: dict[str, tuple[int, ...]] = {"first_conv.conv.weight": (64, 12, 16), "first_conv.conv.bias": (64,)}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("first_bn", 64)
    before = 64
    for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
        for block in range(blocks):
            prefix = f"stage_list.{stage}.block_list.{block}."
            norm(f"{prefix}bn1", before)
            norm(f"{prefix}bn2", width)
            norm(f"{prefix}bn3", width)
            shapes[f"{prefix}conv1.conv.weight"] = (width, before, 1)
            shapes[f"{prefix}conv2.conv.weight"] = (width, 16, 16)
            shapes[f"{prefix}conv3.conv.weight"] = (width, width, 1)
            shapes |= {f"{prefix}conv{i}.conv.bias": (width,) for i in (1, 2, 3)}
            shapes[f"{prefix}se_fc1.weight"], shapes[f"{prefix}se_fc1.bias"] = (width // 2, width), (width // 2,)
            shapes[f"{prefix}se_fc2.weight"], shapes[f"{prefix}se_fc2.bias"] = (width, width // 2), (width,)
            before = width
    return shapes | {"dense.weight": (150, 1024), "dense.bias": (150,)}


def test_the_509_names_and_shapes_are_the_published_ones(net):
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == published_shapes()
    assert len(published_shapes()) == 509
    assert sum(parameter.numel() for parameter in net.parameters()) == 30_819_014


def test_the_feature_uses_30_598_896_values(net):
    used = sum(p.numel() for name, p in net.named_parameters() if "bn" not in name and "dense" not in name)
    assert used == 30_598_896


def test_each_stage_halves_the_time_as_published(net):
    lengths = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[-1]))
        for module in (net.first_conv, *net.stage_list)
    ]
    with torch.inference_mode():
        feature = net.features(torch.randn(1, 12, 5000))
        assert net(torch.randn(1, 12, 5000)).shape == (1, 150)
    for hook in hooks:
        hook.remove()
    assert lengths[:8] == [2500, 1250, 625, 313, 157, 79, 40, 20]
    assert feature.shape == (1, 1024)


def test_logits_are_the_dense_layer_of_the_feature():
    net = tiny().eval()
    x = torch.randn(2, 12, 200)
    torch.testing.assert_close(net(x), net.dense(net.features(x)))


@pytest.mark.parametrize(("length", "stride", "left", "right"), [(20, 1, 7, 8), (20, 2, 7, 7), (21, 2, 7, 8)])
def test_same_padding_is_the_published_one(length, stride, left, right):
    conv = _SameConv(1, 1, 16, stride=stride)
    x = torch.randn(1, 1, length)
    expected = conv.conv(F.pad(x, (left, right)))
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).shape[-1] == -(-length // stride)


def test_the_max_pool_of_the_shortcut_pads_with_zero():
    block = tiny().stage_list[0].block_list[0]
    x = torch.full((1, 8, 5), -2.0)
    pooled = block._shortcut(x, 8)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([-2.0, -2.0, 0.0]))


def test_new_channels_lie_on_both_sides_of_the_old_ones():
    block = tiny().stage_list[0].block_list[1]
    widened = block._shortcut(torch.ones(1, 8, 4), 15)
    np.testing.assert_array_equal(widened[0, :, 0], [0] * 3 + [1] * 8 + [0] * 4)


def test_a_block_computes_what_the_description_says():
    """Written out with explicit sums for the second block of a stage: no stride, no change of width."""
    net = tiny().eval()
    block = net.stage_list[0].block_list[1]
    x = torch.randn(1, 8, 12, dtype=torch.float64)
    block = block.double()

    def swish(value: np.ndarray) -> np.ndarray:
        return value / (1 + np.exp(-value))

    w1, w2, w3 = (getattr(block, f"conv{i}").conv.weight.detach().numpy() for i in (1, 2, 3))
    b1, b2, b3 = (getattr(block, f"conv{i}").conv.bias.detach().numpy()[:, None] for i in (1, 2, 3))
    h = w1[:, :, 0] @ swish(x[0].numpy()) + b1
    padded = np.pad(swish(h), ((0, 0), (7, 8)))
    h = np.stack([(w2 * padded[None, :, t : t + 16]).sum((1, 2)) for t in range(12)], axis=1) + b2
    h = w3[:, :, 0] @ swish(h) + b3
    squeeze = block.se_fc1.weight.detach().numpy() @ h.mean(1) + block.se_fc1.bias.detach().numpy()
    gate = block.se_fc2.weight.detach().numpy() @ swish(squeeze) + block.se_fc2.bias.detach().numpy()
    expected = h / (1 + np.exp(-gate))[:, None] + x[0].numpy()
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=1e-10)


def test_the_very_first_block_starts_without_an_activation():
    net = tiny()
    firsts = [block.first for stage in net.stage_list for block in stage.block_list]
    assert firsts == [True, False, False]
    block = net.stage_list[0].block_list[0].eval()
    block.conv1.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    seen: list[torch.Tensor] = []
    x = torch.randn(1, 8, 10)
    block(x)
    torch.testing.assert_close(seen[0], x)


def scramble_norms(net: nn.Module) -> None:
    for name, value in net.state_dict().items():
        if "bn" in name and value.is_floating_point():
            value.uniform_(0.5, 2.0)


def test_batch_norm_tensors_are_kept_and_unused_unless_switched_on():
    x = torch.randn(2, 12, 200)
    for batch_norm in (False, True):
        net = tiny(batch_norm=batch_norm).eval()
        before = net(x)
        scramble_norms(net)
        assert torch.equal(net(x), before) is not batch_norm


def test_the_small_network_takes_any_length_and_names_its_parts_alike():
    net = EcgNet.small(5).eval()
    assert net.config.batch_norm
    assert net(torch.randn(2, 12, 1000)).shape == (2, 5)
    assert net.features(torch.randn(2, 12, 733)).shape == (2, net.config.dim)
    assert set(net.state_dict()) <= set(published_shapes())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_weight_that_is_to_be_trained_gets_a_gradient(batch_norm: bool):
    net = EcgNet(EcgNetConfig(2, widths=(32, 32), blocks=(2, 1), group_width=16, batch_norm=batch_norm))
    net(torch.randn(3, 12, 100)).sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_size_is_changed_field_by_field():
    config = EcgNetConfig.named("small", num_classes=4, widths=(32, 48, 64, 96), stem_width=None, dropout=0.2)
    assert (config.widths, config.blocks, config.stem_width) == ((32, 48, 64, 96), (1, 1, 1, 1), 32)
    assert (config.batch_norm, config.dropout, config.dim, config.stride) == (True, 0.2, 96, 32)
    assert EcgNetConfig.named("ecgfounder", num_classes=150) == EcgNetConfig()


def test_the_feature_is_the_mean_of_the_map_over_time():
    net = tiny().eval()
    x = torch.randn(2, 12, 203)
    assert net.feature_map(x).shape == (2, 16, -(-203 // net.config.stride))
    torch.testing.assert_close(net.feature_map(x).mean(-1), net.features(x))


def test_settings_that_cannot_be_built_are_refused():
    with pytest.raises(PacxError, match="must be 1 or more"):
        EcgNetConfig(2, widths=(64,), blocks=(0,))
    with pytest.raises(PacxError, match="multiples of the group width 16"):
        EcgNetConfig(2, widths=(0,), blocks=(1,))
    with pytest.raises(PacxError, match="dropout is 1;"):
        EcgNetConfig(2, dropout=1.0)
    with pytest.raises(PacxError, match="no ECG network size 'huge'"):
        EcgNetConfig.named("huge", num_classes=2)
    with pytest.raises(PacxError, match="multiples of the group width 16"):
        EcgNetConfig(2, widths=(64, 100), blocks=(1, 1))
    with pytest.raises(PacxError, match="one of each per stage"):
        EcgNetConfig(2, widths=(64,), blocks=(1, 1))


@pytest.mark.skipif(
    not CHECKPOINT,
    reason="the published checkpoint is not here: PACX_ECGFOUNDER=path/to/12_lead_ECGFounder.pth would name it",
)
def test_the_published_checkpoint_gives_the_published_logits():
    net = load_ecgfounder(Path(str(CHECKPOINT)))
    with torch.inference_mode():
        logits = net(torch.linspace(-1, 1, 60000).reshape(1, 12, 5000))[0, :10]
    expected = [
        8.3751173, -4.1527028, -6.7856750, -2.8647900, 4.4135675, -2.2547250, -5.3009405, -6.1225495, -1.0395477,
        -1.8894272,
    ]  # fmt: skip
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5, rtol=1e-5)
