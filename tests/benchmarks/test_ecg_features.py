"""What is said of an ECG teacher's features is what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.ecg_features import cosines, cross_validate, embedder, fresh_like, judge, probe

from pacx.data.manifest import Manifest, Task
from pacx.data.prepare import prepare
from pacx.data.store import Store, StoreWriter
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.stages.fit_ecg import fit_ecg
from pacx.statistics import macro_auroc

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def test_cosines_between_partners_and_strangers():
    low = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    high = np.array([[2.0, 0.0], [3.0, 3.0]], dtype=np.float32)
    found = cosines(low, high)
    assert found["cosine_min"] == pytest.approx(np.sqrt(0.5))
    assert found["cosine_median"] == pytest.approx((1 + np.sqrt(0.5)) / 2)
    assert found["cosine_strangers_mean"] == pytest.approx(np.sqrt(0.5) / 2)


def test_features_that_are_all_alike_are_found_out_by_the_centred_cosine():
    rng = np.random.default_rng(0)
    low, high = (100 + rng.standard_normal((2, 20, 8))).astype(np.float32)
    found = cosines(low, high)
    assert found["cosine_min"] > 0.999
    assert abs(found["centred_median"]) < 0.5


def test_a_fresh_network_has_the_shape_and_the_statistics_of_the_records():
    net = EcgNet(EcgNetConfig(2, 16, (16, 32), (1, 1), batch_norm=True))
    fresh = fresh_like(net, 3 + np.random.default_rng(0).standard_normal((40, 12, 100)).astype(np.float32))
    assert fresh.config == net.config
    assert fresh.first_bn.running_mean.abs().max() > 0.3
    assert not fresh.training


def test_a_probe_finds_a_label_that_lies_in_the_features_and_no_other(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (120, 2)).astype(float)
    table = pd.DataFrame({"image_id": [f"r{i}" for i in range(120)], "patient_id": [f"p{i}" for i in range(120)]})
    table["split"] = np.repeat(["train", "val", "test"], [60, 20, 40])
    table[["told", "untold"]] = labels
    writer = StoreWriter(tmp_path / "s", name="toy", num_rows=120, ecg=False)
    for row in range(120):
        writer.write(row)
    task = Task("superclass", ("told", "untold"), "multilabel")
    writer.finish(Manifest("toy", table, tasks={"superclass": task}), source={"command": "test"})
    store = Store.open(tmp_path / "s")
    rows = {split: store.rows(split) for split in ("train", "val", "test")}
    records = {split: labels[part].astype(np.float32) for split, part in rows.items()}

    def embed(part: np.ndarray) -> np.ndarray:
        return np.stack([part[:, 0], *rng.standard_normal((3, len(part)))], axis=1).astype(np.float32)

    for found in (probe(store, rows, records, embed), cross_validate(store, rows, records, embed)):
        told, untold = (macro_auroc(found.target[:, [i]], found.score[:, [i]]) for i in range(2))
        assert told == 1
        assert untold < 0.75
    assert len(found.target) == 120


def test_features_do_not_depend_on_the_batch():
    net = EcgNet(EcgNetConfig(2, 16, (16, 32), (1, 1))).eval()
    records = np.random.default_rng(0).standard_normal((40, 12, 100)).astype(np.float32)
    np.testing.assert_allclose(embedder(net)(records)[35:], embedder(net)(records[35:]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_a_record_has_one_feature_whichever_of_its_two_files_was_read(tmp_path):
    prepare("open-sample", SHARED, part="ecg", out=tmp_path / "store")
    fit_ecg(store=tmp_path / "store", task="superclass", epochs=8, accelerator="cpu", workers=1, out=tmp_path / "run")
    found = judge(tmp_path / "run", Store.open(tmp_path / "store"), SHARED)
    files = found["two_files"]
    assert files["records"] == 24
    assert files["cosine_min"] > 0.95
    assert files["centred_median"] > 0.95
    assert files["centred_strangers_mean"] < 0.2
    assert found["probe"]["teacher"]["value"] > 0.75
