"""FLOPs by formula against those that PyTorch counts while it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.flops import (
    encoder_flops,
    lora_step_flops,
    mae_forward_flops,
    mae_step_flops,
    mask_decoder_flops,
)
from pacx.models.heads import SegmentationDecoder
from pacx.models.mae import MaskedAutoencoder
from pacx.models.student import Student
from pacx.preprocess import Preprocess

torch.set_num_threads(1)


def config(channels: int = 1) -> EncoderConfig:
    preprocess = Preprocess(image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    return EncoderConfig(preprocess, patch_size=8, width=24, depth=3, heads=3)


def base(**options: object) -> MaskedAutoencoder:
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.device("meta"):
        model = MaskedAutoencoder(Encoder(EncoderConfig.named("base", preprocess=preprocess)), **options)  # type: ignore[arg-type]
    return model.to("meta")


def counted(function: Callable[[], object]) -> int:
    """Count on the meta device: PyTorch does not know the fused operations of the CPU, nor its attention kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def step(model: MaskedAutoencoder, images: Tensor, noise: Tensor) -> None:
    model(images, noise).loss.backward()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_takes_what_pytorch_counts(channels: int) -> None:
    encoder = Encoder(config(channels)).to("meta")
    images = torch.empty(1, channels, 32, 32, device="meta")
    assert encoder_flops(encoder.config) == counted(lambda: encoder.tokens(images))
    assert counted(lambda: encoder(images)) < encoder_flops(encoder.config)  # the class token alone asks for less


@pytest.mark.parametrize("ratio", [0.75, 0.9])
@pytest.mark.parametrize("decoder", ["standard", "cross"])
def test_a_masked_step_takes_what_pytorch_counts(decoder: str, ratio: float) -> None:
    options = {"decoder": decoder, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2, "mask_ratio": ratio}
    model = MaskedAutoencoder(Encoder(config()), **options).to("meta")  # type: ignore[arg-type]
    images, noise = torch.empty(5, 1, 32, 32, device="meta"), torch.empty(5, 16, device="meta")
    assert 5 * mae_forward_flops(model) == counted(lambda: model(images, noise))
    assert 5 * mae_step_flops(model) == counted(lambda: step(model, images, noise))


@pytest.mark.parametrize(("decoder", "gflops"), [("standard", 42.4), ("cross", 19.6)])
def test_the_step_of_a_vit_b_takes_what_pytorch_counts_and_what_is_written(decoder: str, gflops: float) -> None:
    model = base(decoder=decoder)
    images, noise = torch.empty(1, 3, 224, 224, device="meta"), torch.empty(1, 196, device="meta")
    assert mae_step_flops(model) == counted(lambda: step(model, images, noise))
    assert round(mae_step_flops(model) / 1e9, 1) == gflops


def test_the_decoder_takes_three_quarters_of_a_step_and_the_whole_encoder_35_gflop() -> None:
    model = base()
    assert round(encoder_flops(model.encoder.config) / 1e9, 1) == 35.1
    seen = encoder_flops(model.encoder.config, num_patches=19)
    assert 1 - seen / mae_forward_flops(model) == pytest.approx(0.757, abs=1e-3)


def test_predicting_fewer_patches_saves_arithmetic_only_where_they_do_not_look_at_each_other() -> None:
    assert mae_step_flops(base(decoder="cross", predict_share=0.1)) < mae_step_flops(base(decoder="cross"))
    assert mae_step_flops(base(predict_share=0.1)) == mae_step_flops(base())


def test_the_table_of_sizes_in_the_docs_is_what_the_formulas_give() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    for size in ("tiny", "small", "base", "large", "huge"):
        with torch.device("meta"):
            models = [
                MaskedAutoencoder(Encoder(EncoderConfig.named(size, preprocess=Preprocess())), decoder=decoder)
                for decoder in ("standard", "cross")
            ]
        parameters = sum(parameter.numel() for parameter in models[0].encoder.parameters())
        steps = " | ".join(f"{mae_step_flops(model) / 1e9:.1f}" for model in models)
        assert f"| {size} | {parameters / 1e6:.1f} M | {steps} |" in page


def test_a_step_of_lora_takes_what_pytorch_counts_and_what_is_written() -> None:
    """The tokens of a whole pass are asked for; the last block for the class token alone asks for less."""
    student = Student(Encoder(config()), {"ecg": 8}, rank=2).to("meta")
    images = torch.empty(3, 1, 32, 32, device="meta")
    assert 3 * lora_step_flops(config(), rank=2) == counted(lambda: student.encoder.tokens(images).sum().backward())
    three = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert round(lora_step_flops(EncoderConfig.named("base", preprocess=three), rank=8) / 1e9, 1) == 72.7


@pytest.mark.parametrize("patch_size", [8, 16])
def test_a_mask_decoder_takes_what_pytorch_counts(patch_size: int) -> None:
    shape = EncoderConfig(Preprocess(image_size=64), patch_size=patch_size, width=24, depth=1, heads=3)
    decoder = SegmentationDecoder(24, grid=shape.grid, patch_size=patch_size).to("meta")
    tokens = torch.empty(2, shape.num_patches, 24, device="meta")
    assert 2 * mask_decoder_flops(shape) == counted(lambda: decoder(tokens))
    assert 2 * mask_decoder_flops(shape, step=True) == counted(lambda: decoder(tokens).sum().backward())
