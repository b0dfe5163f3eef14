"""Gradient-weighted rollout against hand computation, and explicit attention against the fused kernel."""

import copy

import numpy as np
import pytest
import torch

from pacx.errors import PacxError
from pacx.evaluation.rollout import attention_rollout, gradient_maps, gradient_rollout, rollout_maps
from pacx.frozen.features import preprocessed
from pacx.models.encoder import Encoder, EncoderConfig


def _heads(*heads):
    return torch.tensor([heads], dtype=torch.float64)


def test_gradient_rollout_equals_a_hand_computation():
    # Block 1: two heads on 2 tokens; what lowers the score (negative products) does not count.
    first = _heads([[0.5, 0.5], [0.2, 0.8]], [[1.0, 0.0], [0.4, 0.6]])
    first_gradient = _heads([[2.0, 4.0], [0.0, -1.0]], [[1.0, 9.0], [-5.0, 1.0]])
    a1 = np.array([[(1 + 1) / 2, (2 + 0) / 2], [0.0, (0 + 0.6) / 2]])
    second = _heads([[0.25, 0.75], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])
    second_gradient = _heads([[-1.0, 2.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    a2 = np.array([[0.0, (1.5 + 0.5) / 2], [0.0, 0.0]])
    expected = (np.eye(2) + a2) @ (np.eye(2) + a1)  # R + A R = (I + A) R, from R = I
    found = gradient_rollout([first, second], [first_gradient, second_gradient])[0]
    assert np.allclose(found, expected)
    late = gradient_rollout([first, second], [first_gradient, second_gradient], start_layer=1)[0]
    assert np.allclose(late, np.eye(2) + a2)
    with pytest.raises(PacxError, match="no block from layer 2"):
        gradient_rollout([first, second], [first_gradient, second_gradient], start_layer=2)


def test_gradients_are_those_of_the_score(store, encoder):
    """A finite step on one attention entry moves the score as the gradient says."""
    images, encoder = preprocessed(encoder, store, [0]).double(), copy.deepcopy(encoder).double()
    direction = torch.linspace(-1, 1, 16, dtype=torch.float64)
    tokens, maps = encoder.tokens_with_attention(images.requires_grad_(True))
    gradients = torch.autograd.grad((tokens[:, 0] @ direction).sum(), maps)

    def score(block, step):
        attention = encoder.vit.blocks[block].attn
        nudge = torch.zeros_like(maps[block])
        nudge[0, 1, 0, 3] = step
        hook = attention.attn_drop.register_forward_hook(lambda *call: call[2] + nudge)
        try:
            return float(encoder.tokens_with_attention(images)[0][0, 0] @ direction)
        finally:
            hook.remove()

    with torch.no_grad():
        for block in (0, 1):
            slope = (score(block, 1e-5) - score(block, -1e-5)) / 2e-5
            assert slope == pytest.approx(float(gradients[block][0, 1, 0, 3]), rel=1e-4)


@pytest.mark.parametrize("token", ["cls", "mean"])
def test_a_map_follows_the_patch_that_raises_the_score(store, encoder, token):
    """Attention is fixed on one patch; only what passes through it can raise the score."""
    grid = encoder.config.grid
    patch = 1 + 2 * grid + 3

    class Planted(Encoder):
        def tokens_with_attention(self, images):
            maps = torch.full((1, 1, 1 + grid**2, 1 + grid**2), 0.01, requires_grad=True)
            raising = maps[..., patch].sum() - maps[..., 2].sum()
            return torch.ones(1, 1 + grid**2, 16) * raising, [maps]

    found = gradient_maps(Planted(encoder.config), torch.zeros(1, 1, 16, 16), direction=torch.ones(16), token=token)[0]
    expected = np.zeros((grid, grid))
    expected[2, 3] = 1
    assert np.allclose(found, expected)


def test_a_score_that_no_attention_raises_has_no_map(store, encoder):
    maps = gradient_maps(encoder, preprocessed(encoder, store, [0, 1]), direction=torch.zeros(16))
    assert np.isnan(maps).all()


def test_a_map_turns_round_with_the_sign_of_the_score(store, encoder):
    images = preprocessed(encoder, store, [0, 1, 2])
    direction = torch.linspace(-1, 1, 16)
    more = gradient_maps(encoder, images, direction=direction)
    less = gradient_maps(encoder, images, direction=-direction)
    assert np.allclose(more.sum(axis=(1, 2)), 1)
    assert (more >= 0).all()
    assert not np.allclose(more, less, atol=0.01)


def test_rollout_of_the_patches_mean_of_uniform_attention_is_the_closed_form(store):
    """L blocks of even attention over T tokens: a patch keeps 2^-L of itself, the rest is spread evenly over all."""
    encoder = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=2)).eval()
    for block in encoder.vit.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    tokens, kept = 17, 0.25
    rollout = attention_rollout(encoder.iter_attention(preprocessed(encoder, store, [0])))[0]
    expected = kept * np.eye(tokens) + (1 - kept) / tokens
    assert np.allclose(rollout.detach(), expected, atol=1e-6)
    maps = rollout_maps(encoder, preprocessed(encoder, store, [0]), token="mean")
    assert np.allclose(maps, 1 / 16, atol=1e-6)


def test_fused_and_explicit_attention_give_the_same_features(store, encoder):
    images = preprocessed(encoder, store, np.arange(8))
    assert all(block.attn.fused_attn for block in encoder.vit.blocks)
    with torch.no_grad():
        explicit, maps = encoder.tokens_with_attention(images)
        assert torch.allclose(encoder.tokens(images), explicit, atol=1e-5)
        assert torch.allclose(encoder(images), explicit[:, 0], atol=1e-5)
        assert all(torch.equal(one, other) for one, other in zip(maps, encoder.iter_attention(images), strict=True))
    assert all(block.attn.fused_attn for block in encoder.vit.blocks)  # switched on again
