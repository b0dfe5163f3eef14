"""Our encoder files are timm's: the same keys, the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.preprocess import Preprocess

timm = pytest.importorskip("timm")
torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "size", "image_size"), [("vit_tiny_patch16_224", "tiny", 64), ("vit_small_patch16_224", "small", 32)]
)
def test_timm_loads_our_file_and_gives_equal_features(name: str, size: str, image_size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig.named(size, preprocess=Preprocess(image_size=image_size))).eval()  # type: ignore[arg-type]
    folder = save_encoder(encoder, tmp_path / "encoder")
    theirs = timm.create_model(
        name, checkpoint_path=str(folder / "model.safetensors"), num_classes=0, in_chans=1, img_size=image_size
    ).eval()
    images = torch.randn(2, 1, image_size, image_size)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), encoder(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs.forward_features(images), encoder.tokens(images), atol=1e-5, rtol=0)


def test_keys_of_vit_base_are_timms() -> None:
    with torch.device("meta"):
        ours = Encoder(EncoderConfig.named("base", preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)))
        theirs = timm.create_model("vit_base_patch16_224", num_classes=0)
    shapes = [{key: value.shape for key, value in vit.state_dict().items()} for vit in (ours.vit, theirs)]
    assert shapes[0] == shapes[1]
    assert theirs.norm.eps == ours.vit.norm.eps
