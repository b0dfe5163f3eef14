"""What is exported says what the encoder, the head and the rollout say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.serving.models import GRID, SIZE, make_encoder, make_head

from pacx.evaluation.rollout import rollout_maps
from pacx.readout import HeadToken
from pacx.serving.network import ExportNetwork, _parts


@pytest.mark.parametrize("token", ["cls", "mean", "both"])
@pytest.mark.parametrize("width", [32, 256, 512], ids=["in one part", "halves", "uneven parts"])
def test_one_graph_says_what_encoder_head_and_rollout_say(token: HeadToken, width: int) -> None:
    encoder = make_encoder(width=width)
    head = make_head(encoder, token)
    images = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        embedding, probability, attention = ExportNetwork(encoder, head, attention=True).eval()(images)
        tokens = encoder.tokens(images)
    torch.testing.assert_close(embedding, encoder(images), atol=1e-5, rtol=1e-5)
    read = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
    features = torch.cat([read["cls"], read["mean"]], 1) if token == "both" else read[token]
    expected = torch.sigmoid(features @ torch.from_numpy(head.weight).T + torch.from_numpy(head.bias))
    torch.testing.assert_close(probability, expected, atol=1e-5, rtol=1e-5)
    maps = rollout_maps(encoder, images, token="mean" if token == "mean" else "cls")
    assert maps.std() > 1e-3
    np.testing.assert_allclose(attention.numpy(), maps, atol=1e-6)
    assert attention.shape == (3, GRID, GRID)


def test_what_is_not_there_is_not_in_the_graph() -> None:
    encoder = make_encoder()
    assert ExportNetwork(encoder, None, attention=False).names == ("embedding",)
    assert ExportNetwork(encoder, make_head(encoder), attention=False).names == ("embedding", "probability")


@pytest.mark.parametrize("hidden", [128, 768, 1024, 1536, 2048, 3072, 4096])
def test_rows_of_the_hidden_layer_are_never_whole_pages_apart(hidden: int) -> None:
    parts = _parts(hidden)
    assert sum(parts) == hidden
    assert all(4 * part % 4096 for part in parts)


def test_weights_are_not_kept_twice() -> None:
    encoder = make_encoder(width=256)
    storages = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    network = ExportNetwork(encoder, None, attention=False)
    assert {parameter.untyped_storage().data_ptr() for parameter in network.parameters()} == storages
