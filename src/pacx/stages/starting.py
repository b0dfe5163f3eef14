"""Where pre-training starts: fresh weights of a size, or weights trained before, for instance on natural images.

An encoder with three input channels, as ImageNet makes them, is folded into one that gives the same embeddings of gray
images (`pacx.models.channels`), unless three channels are asked for. Its normalisation and geometry stay its own.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pacx import __version__
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.config import EncoderConfig, EncoderSize
from pacx.models.encoder import Encoder, load_encoder, weights_hash
from pacx.models.patients import SeenPatients
from pacx.runs import RunFolder
from pacx.stages.provenance import training_data

__all__ = ["starting_encoder"]

log = logging.getLogger("pacx")


def starting_encoder(
    store: Store,
    run: RunFolder,
    *,
    encoder: str | None,
    size: EncoderSize | None,
    width: int | None,
    depth: int | None,
    heads: int | None,
    patch_size: int | None,
    image_size: int | None,
    channels: int,
    method: str,
) -> Encoder:
    """Make or load the encoder to train; the arguments are those of `pacx pretrain`.

    Args:
        store: gives size and normalisation of the images where nothing else does.
        run: notes the encoder that was read.
        encoder: the source of the weights; None for fresh ones.
        size: a usual ViT size; base if not given.
        width: token width in place of the size's.
        depth: blocks, likewise.
        heads: attention heads, likewise.
        patch_size: edge of a patch, likewise.
        image_size: edge of the input; the store's or the source's if not given.
        channels: 1 or 3.
        method: what is going to be done, for the provenance.

    Raises:
        PacxError: the source is no encoder, or arguments do not fit together.
    """
    if encoder is None:
        preprocess = store.preprocess()
        if image_size is not None:
            preprocess = replace(preprocess, image_size=image_size)
        if channels == 3:
            preprocess = replace(preprocess, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
        start = Encoder(
            EncoderConfig.named(
                size or "base", preprocess=preprocess, width=width, depth=depth, heads=heads, patch_size=patch_size
            )
        )
        start.patients = SeenPatients()  # fresh weights have seen nobody
        parent = None
    else:
        _refuse_sizes(size=size, width=width, depth=depth, heads=heads, patch_size=patch_size)
        start = load_encoder(encoder, image_size=image_size, fold=channels == 1)
        if start.config.preprocess.in_chans != channels:
            raise PacxError(f"channels is {channels}, and {encoder} has one input channel. Leave --channels out.")
        parent = {"hash": weights_hash(start), "provenance": start.config.provenance}
        run.read("encoder", path=encoder, hash=parent["hash"])
    start.config = replace(start.config, provenance=_provenance(store, method=method, parent=parent))
    edge = start.config.preprocess.image_size
    if store.image_size is not None and edge > store.image_size:
        log.warning(
            "%s: the store's images are enlarged, from %d pixels to %d; prepare it with a larger --size",
            run.command, store.image_size, edge,
        )  # fmt: skip
    return start


def _refuse_sizes(**sizes: str | int | None) -> None:
    given = [name for name, value in sizes.items() if value is not None]
    if given:
        raise PacxError(
            f"Found --encoder together with {', '.join(f'--{name}' for name in given)}. The given encoder has a size "
            "of its own; leave these out, or leave --encoder out to start from fresh weights."
        )


def _provenance(store: Store, *, method: str, parent: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "method": method,
        "parent": parent,
        "data": training_data(store),
        "pacx_version": __version__,
    }
