"""The benchmarks of probes compare like with like; how fast anything is, is not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import probe, probe_scale, table

from pacx.data.store import Store
from pacx.frozen.features import extract
from pacx.models.encoder import load_encoder

torch.set_num_threads(1)


def test_both_sides_end_with_the_same_logits_and_the_table_has_the_promised_ratio(tmp_path: Path) -> None:
    content = probe.measure(probe.QUICK, tmp_path, rounds=1)
    assert content["logit_difference"] < 1e-5
    assert content["speed_ratio"] == content["speed"]["ratio"] > 0
    aims = [(row.at_least, row.at_most) for row in probe.rows(content)]
    assert aims == [(12, None), (None, None), (None, None), (None, pytest.approx(100))]
    assert {"probe", "probe_scale"} <= set(table.NAMES)


def test_sides_that_end_elsewhere_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FIRST_SEED", 43)  # of the loop alone
    with pytest.raises(SystemExit, match="logits differ"):
        probe.measure(probe.QUICK, tmp_path, rounds=1)


def test_the_large_probe_reads_both_views_from_the_cache_and_runs_no_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an encoder ran")

    monkeypatch.setattr("pacx.models.encoder.Encoder.tokens", refuse)
    sizes = probe_scale.Sizes(images=300, patients=120, width=16, epochs=2, seeds=2, fractions=(0.2, 1.0), draws=5)
    content = probe_scale.measure(sizes, tmp_path, protocol="paper")
    assert content["heads"] == 14 * 2 * 2 * 8 and content["sizes"]["labels"] == 14
    assert [row.at_most for row in probe_scale.rows(content)] == [600, 8192]
    store, encoder = Store.open(tmp_path / "store"), load_encoder(tmp_path / "encoder")
    assert store.manifest["patient_id"].nunique() == 120 and len(store) == 300
    train = store.rows("train")
    views = [extract(encoder, store, train, cache=tmp_path / ".features", flip=flip) for flip in (False, True)]
    assert views[0].shape == (len(train), 16) and not np.allclose(views[0], views[1], atol=0.1)
