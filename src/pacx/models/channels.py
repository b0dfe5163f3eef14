"""Colour encoders for gray images: fold the input channels into one, exactly."""

from __future__ import annotations

from dataclasses import replace

from pacx.models.encoder import Encoder

__all__ = ["fold_channels"]


def fold_channels(encoder: Encoder, *, mean: float, std: float) -> Encoder:
    """Turn a colour encoder into a one-channel one that gives the same embeddings for gray images.

    With a gray image g repeated over channels c, channel c sees (g - m_c) / s_c. Write g = std x + mean: then
    sum_c W_c (g - m_c) / s_c = (sum_c W_c std / s_c) x + sum_c W_c (mean - m_c) / s_c. The second term is a
    constant, because patches do not overlap and nothing is padded: it joins the bias.

    Args:
        encoder: with any number of channels; left as it is.
        mean: pixel mean in the new encoder's normalisation, on the [0, 1] scale.
        std: its standard deviation.
    """
    old = encoder.config.preprocess
    config = replace(encoder.config, preprocess=replace(old, mean=(mean,), std=(std,)))
    weights = dict(encoder.vit.state_dict())
    kernel = weights["patch_embed.proj.weight"]
    means, stds = (kernel.new_tensor(values).view(1, -1, 1, 1) for values in (old.mean, old.std))
    shift = (kernel * ((mean - means) / stds)).sum(dim=(1, 2, 3))
    weights["patch_embed.proj.bias"] = weights["patch_embed.proj.bias"] + shift
    weights["patch_embed.proj.weight"] = (kernel * (std / stds)).sum(dim=1, keepdim=True)
    folded = Encoder(config)
    folded.vit.load_state_dict(weights, strict=True)
    return folded.train(encoder.training)
