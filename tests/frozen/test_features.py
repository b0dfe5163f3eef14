import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pacx.errors import PacxError
from pacx.frozen import cache as cache_module
from pacx.frozen import features as module
from pacx.frozen.features import encoder_name, extract, feature_cache, preprocessed
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
    first = extract(encoder, store, np.arange(10), cache=tmp_path, batch_size=16)
    assert seen == [16] * 4  # the 64 images that set the scale are among those kept
    extract(encoder, store, np.arange(64), cache=tmp_path, token="mean")
    assert seen == [16] * 4
    more = extract(encoder, store, np.arange(5, 67), cache=tmp_path)
    assert seen == [16] * 4 + [3]
    assert np.array_equal(more[:5], first[5:])
    assert extract(encoder, store, [3, 1, 3]).shape == (3, 16)
    assert seen == [16] * 4 + [3, 2]


def test_the_mirrored_view_is_that_of_the_mirror_images_and_a_cache_entry_of_its_own(store, encoder, tmp_path):
    rows = np.array([0, 90, 3])
    with torch.inference_mode():
        mirrored = encoder(preprocessed(encoder, store, rows).flip(-1)).numpy()
    assert np.allclose(extract(encoder, store, rows, flip=True), mirrored, atol=1e-5)
    kept = extract(encoder, store, rows, flip=True, cache=tmp_path)
    assert np.allclose(kept, mirrored, atol=1e-3)
    straight = extract(encoder, store, rows, cache=tmp_path)
    assert np.abs(straight - kept).max() > 10 * np.abs(kept - mirrored).max()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_kept_differs_by_the_rounding_of_half_precision(store, encoder, tmp_path):
    rows = np.arange(len(store))
    for token in ("cls", "mean"):
        exact, kept = (extract(encoder, store, rows, token=token, cache=cache) for cache in (None, tmp_path))
        centre = exact[:64].mean(axis=0)
        error = np.abs(kept - exact)
        assert (error <= 2.0**-11 * np.abs(exact - centre) + 1e-6).all()
        assert error.max() > 0


def test_a_probe_on_kept_features_of_an_untrained_encoder_scores_as_on_exact_ones(store, encoder, tmp_path):
    rows, labels = np.arange(len(store)), store.targets("side")[:, 0]
    aurocs = []
    for cache in (None, tmp_path):
        features = extract(encoder, store, rows, cache=cache)
        standard = (features - features[:75].mean(axis=0)) / features[:75].std(axis=0)
        probe = LogisticRegression(C=1 / 16).fit(standard[:75], labels[:75])
        aurocs.append(roc_auc_score(labels[75:], probe.decision_function(standard[75:])))
    assert aurocs[0] > 0.7
    assert aurocs[1] == pytest.approx(aurocs[0], abs=1e-3)


def test_features_do_not_depend_on_the_batch_size(store, encoder):
    rows = np.arange(50)
    one, many = (extract(encoder, store, rows, token="both", batch_size=size) for size in (1, 50))
    np.testing.assert_allclose(one, many, atol=1e-5, rtol=0)


def test_fused_and_explicit_attention_give_the_same_features(store, encoder):
    fused = extract(encoder, store, np.arange(20), token="both")
    explicit = copy.deepcopy(encoder)
    for block in explicit.vit.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
        block.attn.register_forward_hook(lambda *_: None)  # a watched layer is called as it is, not by the lean path
    np.testing.assert_allclose(extract(explicit, store, np.arange(20), token="both"), fused, atol=1e-5, rtol=0)


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


def test_an_interrupted_extraction_goes_on_and_leaves_no_wrong_features(store, encoder, tmp_path, monkeypatch):
    rows = np.arange(90)
    whole = extract(encoder, store, rows, cache=tmp_path / "whole")
    real, calls = module.forward, []

    def stop_at_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 7:  # 4 calls for the images that set the scale, 2 for rows that are saved
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "forward", stop_at_third)
    monkeypatch.setattr(cache_module, "_ROWS_BETWEEN_SAVES", 8)
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, store, rows, cache=tmp_path / "part", batch_size=16)
    folder = next((tmp_path / "part").iterdir())
    assert np.load(folder / "done.npy").sum() == 64 + 2 * 8
    calls.clear()
    monkeypatch.setattr(module, "forward", lambda *a, **o: calls.append(len(a[2])) or real(*a, **o))
    again = extract(encoder, store, rows, cache=tmp_path / "part", batch_size=16)
    assert sum(calls) == 90 - 64 - 16
    # Another batch size may tip a value to the next half.
    assert np.allclose(again, whole, atol=2.0**-10 * np.abs(whole - whole[:64].mean(axis=0)).max() + 1e-6)


def test_a_diverged_encoder_is_an_error(store):
    broken = Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=1, heads=2)).eval()
    torch.nn.init.constant_(broken.vit.norm.bias, float("nan"))
    with pytest.raises(PacxError, match="diverged"):
        extract(broken, store, [0])


def test_a_full_disk_is_an_error_before_anything_is_computed(store, encoder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PacxError, match="PACX_CACHE"):
        extract(encoder, store, [0], cache=tmp_path)


def test_a_complete_cache_is_read_where_nothing_may_be_written(store, encoder, tmp_path, monkeypatch):
    first = extract(encoder, store, np.arange(70), cache=tmp_path)
    monkeypatch.setattr(cache_module.tempfile, "NamedTemporaryFile", lambda **_: 1 / 0)
    assert np.array_equal(extract(encoder, store, np.arange(70), cache=tmp_path), first)


def test_a_cache_that_cannot_be_written_is_an_error(store, encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PacxError, match=r"cannot be written.*PACX_CACHE"):
        extract(encoder, store, [0], cache=tmp_path / "file")


def test_no_rows_have_no_features(store, encoder, tmp_path):
    assert extract(encoder, store, [], token="both", cache=tmp_path).shape == (0, 32)


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


def test_what_is_kept_can_be_read_as_it_was(store, encoder, tmp_path):
    rows = np.arange(len(store))
    for token in ("cls", "mean"):
        rounded = extract(encoder, store, rows, token=token, cache=tmp_path)
        exact = extract(encoder, store, rows, token=token, cache=tmp_path, exact=True)
        plain = extract(encoder, store, rows, token=token)
        assert np.abs(exact - plain).max() < 2e-6 < 1e-5 < np.abs(rounded - plain).max()
