import numpy as np
import pytest
import torch

from pacx.errors import PacxError
from pacx.frozen import cache as cache_module
from pacx.frozen.features import extract, preprocessed
from pacx.frozen.tokens import keep_tokens, token_bytes
from pacx.models.encoder import Encoder


@pytest.mark.parametrize("flip", [False, True])
def test_tokens_are_those_of_the_image_or_its_mirror_image(store, encoder, tmp_path, flip):
    rows = np.array([70, 2, 2, 149])
    images = preprocessed(encoder, store, rows)
    with torch.inference_mode():
        expected = encoder.tokens(images.flip(-1) if flip else images)[:, 1:].numpy()
        reference = preprocessed(encoder, store, np.arange(64))
        centre = encoder.tokens(reference.flip(-1) if flip else reference)[:, 1:].mean(dim=0).numpy()
    kept = keep_tokens(encoder, store, rows, cache=tmp_path, flip=flip)(rows)
    assert kept.shape == (4, 16, 16)
    assert (np.abs(kept - expected) <= 2.0**-11 * np.abs(expected - centre) + 1e-6).all()


def test_each_view_is_computed_once_and_the_size_on_disk_is_as_said(store, encoder, tmp_path, monkeypatch):
    seen = []
    real = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, x: seen.append(len(x)) or real(self, x))
    for _ in range(2):
        keep_tokens(encoder, store, np.arange(len(store)), cache=tmp_path)
    assert sum(seen) == len(store)
    keep_tokens(encoder, store, [1], cache=tmp_path, flip=True)
    assert sum(seen) == len(store) + 64
    files = sorted(tmp_path.glob("tokens-*/patches.npy"))
    assert [np.load(file, mmap_mode="r").nbytes for file in files] == [len(store) * token_bytes(encoder.config)] * 2


def test_tokens_and_embeddings_are_kept_side_by_side_and_agree(store, encoder, tmp_path):
    rows = np.arange(30)
    tokens = keep_tokens(encoder, store, rows, cache=tmp_path)(rows)
    mean = extract(encoder, store, rows, token="mean", cache=tmp_path)
    np.testing.assert_allclose(tokens.mean(axis=1), mean, atol=2e-3)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["features", "tokens"]


def test_tokens_that_do_not_fit_the_disk_are_an_error_with_the_size(store, encoder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 64 * token_bytes(encoder.config) - 1})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PacxError, match=r"need 0\.00 GB .*PACX_CACHE"):
        keep_tokens(encoder, store, [0], cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
