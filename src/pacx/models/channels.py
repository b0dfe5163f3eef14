"""Colour encoders for gray images: fold the input channels into one, exactly."""

from __future__ import annotations

from dataclasses import replace

import torch

from pacx.models.encoder import Encoder
from pacx.preprocess import Preprocess

__all__ = ["fold_channels", "folded"]


def folded(preprocess: Preprocess) -> Preprocess:
    """Return the one-channel normalisation that `fold_channels` uses unless told: the channels' average.

    Any numbers give the same embeddings; the average keeps the pixels that enter the network in their usual range.
    """
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,), std=(std,))


def fold_channels(encoder: Encoder, *, mean: float | None = None, std: float | None = None) -> Encoder:
    """Turn a colour encoder into a one-channel one that gives the same embeddings for gray images.

    With a gray image g repeated over channels c, channel c sees (g - m_c) / s_c. Write g = std x + mean: then
    sum_c W_c (g - m_c) / s_c = (sum_c W_c std / s_c) x + sum_c W_c (mean - m_c) / s_c. The second term is a
    constant, because patches do not overlap and nothing is padded: it joins the bias.

    Args:
        encoder: with any number of channels; left as it is.
        mean: pixel mean in the new encoder's normalisation, on the [0, 1] scale; the channels' average if not given.
        std: its standard deviation, likewise.
    """
    old = encoder.config.preprocess
    (usual_mean,), (usual_std,) = folded(old).mean, folded(old).std
    mean, std = usual_mean if mean is None else mean, usual_std if std is None else std
    note = f"{old.in_chans} input channels folded into one"
    config = replace(encoder.config, preprocess=replace(old, mean=(mean,), std=(std,))).noting(note)
    weights = dict(encoder.vit.state_dict())
    kernel = weights["patch_embed.proj.weight"].double()  # sums of hundreds of products, rounded once
    means, stds = (kernel.new_tensor(values).view(1, -1, 1, 1) for values in (old.mean, old.std))
    shift = (kernel * ((mean - means) / stds)).sum(dim=(1, 2, 3))
    bias = weights["patch_embed.proj.bias"]
    weights["patch_embed.proj.bias"] = (bias.double() + shift).to(bias.dtype)
    weights["patch_embed.proj.weight"] = (kernel * (std / stds)).sum(dim=1, keepdim=True).to(bias.dtype)
    with torch.device("meta"):
        folded_encoder = Encoder(config)
    folded_encoder.vit.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return folded_encoder.train(encoder.training)
