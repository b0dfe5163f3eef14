import pytest
import torch

from pacx.errors import PacxError
from pacx.models.classifier import Classifier
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.preprocess import Preprocess
from pacx.stages.layer_decay import layer_groups, layer_of, layer_scales


def classifier(*, depth: int = 2) -> Classifier:
    preprocess = Preprocess(image_size=16, geometry="pad", mean=(0.5,), std=(0.2,))
    return Classifier(Encoder(EncoderConfig(preprocess, patch_size=8, width=16, depth=depth, heads=2)), 3)


def test_layers_count_from_the_pixels_to_the_labels():
    names = {
        "encoder.vit.cls_token": 0,
        "encoder.vit.pos_embed": 0,
        "encoder.vit.patch_embed.proj.weight": 0,
        "encoder.vit.blocks.0.norm1.weight": 1,
        "vit.blocks.11.mlp.fc2.bias": 12,
        "blocks.3.attn.qkv.weight": 4,
        "encoder.vit.norm.weight": 13,
        "head.weight": 13,
    }
    assert {name: layer_of(name, depth=12) for name in names} == names


def test_the_rate_shrinks_by_the_decay_from_layer_to_layer():
    names = ["patch_embed.proj.bias", "blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight", "norm.bias", "head.bias"]
    scales = layer_scales(names, depth=2, decay=0.5)
    assert list(scales.values()) == [0.125, 0.25, 0.5, 1.0, 1.0]
    assert layer_scales(["blocks.0.norm1.weight"], depth=12, decay=0.75) == {"blocks.0.norm1.weight": 0.75**12}
    assert set(layer_scales(names, depth=2, decay=1.0).values()) == {1.0}
    for wrong in (0.0, 1.1, -1.0):
        with pytest.raises(PacxError, match="layer_decay"):
            layer_scales(names, depth=2, decay=wrong)


def test_every_trained_parameter_is_in_one_group_with_its_rate_and_decay():
    network = classifier()
    groups = layer_groups(network, depth=2, decay=0.5, learning_rate=8.0, weight_decay=0.05)
    name_of = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {
        name_of[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert groups[0]["lr"] == 8.0
    assert set(found) == trained
    assert "encoder.vit.pos_embed" not in found  # fixed positions stay fixed
    assert sum(len(group["params"]) for group in groups) == len(trained)
    assert found["encoder.vit.cls_token"] == (1.0, 0.0)
    assert found["encoder.vit.patch_embed.proj.weight"] == (1.0, 0.05)
    assert found["encoder.vit.blocks.0.attn.qkv.weight"] == (2.0, 0.05)
    assert found["encoder.vit.blocks.1.norm1.weight"] == (4.0, 0.0)
    assert found["head.weight"] == (8.0, 0.05)
    assert found["head.bias"] == (8.0, 0.0)
    assert found["encoder.vit.norm.bias"] == (8.0, 0.0)


def test_a_step_moves_the_layers_by_their_rates():
    """AdamW's first step without decay moves every weight by its learning rate."""
    network = classifier()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    groups = layer_groups(network, depth=2, decay=0.5, learning_rate=8e-3, weight_decay=0.0)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    network(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    for name, rate in (("encoder.vit.patch_embed.proj.weight", 1e-3), ("encoder.vit.blocks.1.mlp.fc1.weight", 4e-3),
                       ("head.weight", 8e-3)):  # fmt: skip
        moved = (network.get_parameter(name) - before[name]).abs()
        assert moved.median().item() == pytest.approx(rate, rel=1e-3)
