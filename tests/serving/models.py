"""Small encoders, heads and X-rays for the tests of this folder."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.models.readout_head import ReadoutHead, save_head
from pacx.models.weights import weights_hash
from pacx.preprocess import Geometry, Preprocess
from pacx.readout import Calibration, HeadToken, Output, Readout

SIZE, WIDTH, GRID = 64, 32, 4


def make_encoder(*, geometry: Geometry = "squash", seed: int = 0, width: int = WIDTH) -> Encoder:
    torch.manual_seed(seed)
    config = EncoderConfig(Preprocess(SIZE, geometry=geometry), patch_size=16, width=width, depth=3, heads=4)
    encoder = Encoder(config).eval()
    with torch.no_grad():
        for block in encoder.vit.blocks:
            block.attn.qkv.weight.mul_(4.0)  # fresh attention is even, which would hide a wrong map
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                layer.bias.normal_(std=0.5)  # fresh biases are 0, which would hide one that is missing
    return encoder


def make_readout(token: HeadToken = "cls", *, names: tuple[str, ...] = ("effusion", "nodule")) -> Readout:
    outputs = tuple(
        Output(name, name, threshold=0.4, prevalence=0.1, auroc=0.8, auroc_low=0.7, auroc_high=0.9, sensitivity=0.7,
               specificity=0.8, num_test=100)
        for name in names
    )  # fmt: skip
    return Readout(
        outputs, token, Calibration("Platt", "validation split", 0.02), "a store, 100% of the training labels"
    )


def make_head(encoder: Encoder, token: HeadToken = "cls", **options: tuple[str, ...]) -> ReadoutHead:
    readout = make_readout(token, **options)
    rng = np.random.default_rng(1)
    width = encoder.config.width * (2 if token == "both" else 1)
    weight = rng.normal(0, 0.5, (len(readout.outputs), width)).astype(np.float32)
    bias = rng.normal(0, 0.5, len(readout.outputs)).astype(np.float32)
    return ReadoutHead(weight, bias, readout, weights_hash(encoder), "")


def save_classifier(folder: Path, token: HeadToken = "cls", *, geometry: Geometry = "squash", seed: int = 0) -> Path:
    """Write an encoder with a head beside it, as `pacx finetune` does."""
    encoder = make_encoder(geometry=geometry, seed=seed)
    save_encoder(encoder, folder / "encoder")
    save_head(make_head(encoder, token), folder / "head")
    return folder


def draw(height: int = 50, width: int = 40, *, seed: int = 0, dtype: type = np.uint8) -> NDArray[np.unsignedinteger]:
    """Draw a smooth picture with the full range of its type."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((6, 5), dtype=np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    picture = np.asarray(coarse)
    unit = (picture - picture.min()) / np.ptp(picture)
    return np.round(unit * np.iinfo(dtype).max).astype(dtype)


def png(picture: NDArray[np.unsignedinteger] | None = None, **options: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(draw(**options) if picture is None else picture).save(stream, "PNG")
    return stream.getvalue()
