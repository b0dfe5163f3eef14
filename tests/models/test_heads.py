"""Heads: the sizes of the published ones, and masks of the size of the image."""

from __future__ import annotations

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.heads import LinearHead, SegmentationDecoder, projection_head

torch.set_num_threads(1)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_linear_head_starts_small_with_zero_bias() -> None:
    torch.manual_seed(0)
    head = LinearHead(768, 14)
    assert head(torch.zeros(2, 768)).abs().max() == 0
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_segmentation_decoder_of_vit_b_16_has_the_published_parameters() -> None:
    with torch.device("meta"):
        decoder = SegmentationDecoder(768, grid=14, patch_size=16)
        assert decoder(torch.zeros(1, 196, 768)).shape == (1, 224, 224)
    assert count(decoder) == 1_942_113


@pytest.mark.parametrize(("grid", "patch_size", "size"), [(4, 8, 32), (3, 14, 42), (5, 2, 10), (2, 32, 64), (3, 3, 9)])
def test_mask_has_the_size_of_the_image(grid: int, patch_size: int, size: int) -> None:
    decoder = SegmentationDecoder(24, grid=grid, patch_size=patch_size, hidden=16)
    assert decoder(torch.randn(2, grid**2, 24)).shape == (2, size, size)


def test_a_token_paints_its_own_neighbourhood() -> None:
    torch.manual_seed(0)
    decoder = SegmentationDecoder(8, grid=6, patch_size=4, hidden=16)
    tokens = torch.randn(1, 36, 8)
    changed = tokens.clone()
    changed[0, 6 * 1 + 4] += 1  # row 1, column 4: reaches one patch further through the 3 x 3 convolution
    rows, columns = torch.where((decoder(changed) - decoder(tokens))[0].abs() > 1e-6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 11, 12, 23)


def test_the_class_token_is_refused() -> None:
    with pytest.raises(PacxError, match="without the class token"):
        SegmentationDecoder(8, grid=4, patch_size=4)(torch.zeros(1, 17, 8))


def test_projection_head_normalises_and_drops_only_in_training() -> None:
    torch.manual_seed(0)
    head = projection_head(32, 16)
    x = torch.randn(4, 32)
    assert not torch.equal(head(x), head(x))
    head.eval()
    out = head(x)
    assert torch.equal(out, head(x))
    torch.testing.assert_close(out.mean(-1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(-1, unbiased=False), torch.ones(4), atol=0.15, rtol=0)
