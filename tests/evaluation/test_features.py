import numpy as np
import pytest
import torch

from pacx.errors import PacxError
from pacx.evaluation import features as module
from pacx.evaluation.features import encoder_name, extract, feature_cache
from pacx.models.encoder import Encoder, EncoderConfig


def test_features_are_the_tokens_of_the_encoder(store, encoder):
    rows = np.array([7, 2, 2])
    images = torch.from_numpy(
        np.stack([encoder.config.preprocess(store.images[row].astype(np.float32) / 255) for row in rows])
    )
    with torch.inference_mode():
        tokens = encoder.tokens(images).numpy()
    assert np.allclose(extract(encoder, store, rows), tokens[:, 0], atol=1e-5)
    assert np.allclose(extract(encoder, store, rows, token="mean"), tokens[:, 1:].mean(axis=1), atol=1e-5)
    both = extract(encoder, store, rows, token="both")
    assert np.allclose(both[:, :16], tokens[:, 0], atol=1e-5)
    assert both.shape == (3, 32)


def test_each_image_passes_the_encoder_once(store, encoder, tmp_path, monkeypatch):
    seen = []
    real = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, x: seen.append(len(x)) or real(self, x))
    first = extract(encoder, store, np.arange(10), cache=tmp_path, batch_size=4)
    assert seen == [4, 4, 2]
    extract(encoder, store, np.arange(10), cache=tmp_path, token="mean")
    assert seen == [4, 4, 2]
    more = extract(encoder, store, np.arange(5, 13), cache=tmp_path)
    assert seen == [4, 4, 2, 3]
    assert np.array_equal(more[:5], first[5:])


def test_other_weights_or_another_configuration_are_another_cache_entry(store, encoder, tmp_path):
    extract(encoder, store, [0], cache=tmp_path)
    other = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=2)).eval()
    extract(other, store, [0], cache=tmp_path)
    more_heads = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=4)).eval()
    more_heads.load_state_dict(encoder.state_dict())
    assert not np.allclose(
        extract(more_heads, store, [0], cache=tmp_path), extract(encoder, store, [0], cache=tmp_path)
    )
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_extraction_leaves_no_wrong_features(store, encoder, tmp_path, monkeypatch):
    whole = extract(encoder, store, np.arange(12))
    real, calls = module._forward, []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_forward", stop_at_third)
    monkeypatch.setattr(module, "_ROWS_BETWEEN_SAVES", 4)
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, store, np.arange(12), cache=tmp_path, batch_size=4)
    monkeypatch.setattr(module, "_forward", real)
    assert np.allclose(extract(encoder, store, np.arange(12), cache=tmp_path, batch_size=4), whole, atol=1e-6)


def test_a_diverged_encoder_is_an_error(store):
    broken = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=1, heads=2)).eval()
    torch.nn.init.constant_(broken.vit.norm.bias, float("nan"))
    with pytest.raises(PacxError, match="diverged"):
        extract(broken, store, [0])


def test_a_full_disk_is_an_error_before_anything_is_computed(store, encoder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PacxError, match="PACX_CACHE"):
        extract(encoder, store, [0], cache=tmp_path)


def test_the_encoder_keeps_the_mode_it_was_in(store, encoder):
    encoder.train()
    extract(encoder, store, [0])
    assert encoder.training
    encoder.eval()


def test_cache_lies_beside_the_run_or_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("PACX_CACHE", raising=False)
    assert feature_cache(tmp_path / "runs" / "probe") == tmp_path / "runs" / ".features"
    monkeypatch.setenv("PACX_CACHE", str(tmp_path / "elsewhere"))
    assert feature_cache(tmp_path / "runs" / "probe") == tmp_path / "elsewhere"


def test_encoders_are_named_after_their_run():
    assert encoder_name("runs/demo/mae/encoder") == "mae"
    assert encoder_name("weights/vit-b") == "vit-b"
    assert encoder_name("random:runs/demo/mae/encoder:3") == "random"
