import pytest
import torch

from pacx.errors import PacxError
from pacx.models.classifier import Classifier
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.preprocess import Preprocess

IMAGES = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def make_encoder(*, depth: int = 3) -> Encoder:
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=16, geometry="pad", mean=(0.5,), std=(0.2,))
    return Encoder(EncoderConfig(preprocess, patch_size=8, width=16, depth=depth, heads=2)).eval()


def test_the_head_looks_at_the_class_token_or_at_the_mean_of_the_patches():
    encoder = make_encoder()
    tokens = encoder.tokens(IMAGES[:5])
    for token, expected in (("cls", tokens[:, 0]), ("mean", tokens[:, 1:].mean(dim=1))):
        classifier = Classifier(encoder, 2, token=token).eval()
        torch.testing.assert_close(classifier(IMAGES[:5]), classifier.head(expected))


def test_drop_path_leaves_out_blocks_in_training_only_and_the_more_the_later():
    plain = make_encoder()
    classifier = Classifier(make_encoder(), 2, drop_path=0.6)
    rates = [block.drop_path1.drop_prob for block in classifier.encoder.vit.blocks]
    assert rates == pytest.approx([0, 0.3, 0.6])
    with torch.no_grad():
        classifier.eval()
        expected = classifier.head(plain(IMAGES))
        torch.testing.assert_close(classifier(IMAGES), expected)
        classifier.train()
        torch.manual_seed(0)
        last = classifier.encoder.vit.blocks[2]
        x = torch.randn(2000, 5, 16)
        kept = (last.drop_path1(x) != 0).flatten(1).any(dim=1)
        assert kept.float().mean() == pytest.approx(0.4, abs=0.05)
        torch.testing.assert_close(last.drop_path1(x).abs().sum() / x.abs().sum(), torch.tensor(1.0), atol=0.1, rtol=0)
        assert (classifier(IMAGES) - expected).abs().max() > 1e-3


def test_a_drop_path_that_leaves_nothing_is_refused():
    for wrong in (1.0, -0.1):
        with pytest.raises(PacxError, match="drop_path"):
            Classifier(make_encoder(), 2, drop_path=wrong)
