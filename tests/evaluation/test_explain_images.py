"""Overlays of one's own images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacx.errors import PacxError
from pacx.evaluation.attention import explain
from pacx.evaluation.rollout import rollout_maps
from pacx.models.encoder import load_encoder
from pacx.runs import read_result


@pytest.fixture
def scans(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/a.png", "b.png"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 20)).astype(np.uint8)).save(path)
    (tmp_path / "scans" / "broken.png").write_bytes(b"no image")
    return tmp_path / "scans"


def test_every_image_gets_an_overlay_and_its_map(scans: Path, encoder_folder, tmp_path):
    out = tmp_path / "overlays"
    explain([str(scans)], encoder=str(encoder_folder), out=out, batch_size=2)
    table = pd.read_parquet(out / "attention.parquet")
    assert sorted(table["overlay"]) == ["overlays/a-2.png", "overlays/a.png", "overlays/b.png"]
    assert len(set(table["path"])) == 3
    encoder = load_encoder(encoder_folder)
    for row in table.itertuples():
        (expected,) = rollout_maps(encoder, encoder.prepare(row.path))
        np.testing.assert_allclose(row.map, expected.ravel(), atol=1e-6)
        assert row.peak == pytest.approx(expected.max() * expected.size, rel=1e-4)
        picture = np.asarray(Image.open(out / row.overlay).convert("RGB"), dtype=float)
        assert picture.std() > 10
    assert pd.read_csv(out / "rejects.csv")["file"].tolist() == [str(scans / "broken.png")]
    assert read_result(out)["results"]["num_rejected"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the two"),
        ({"images": ["a.png"], "store": Path("store")}, "one of the two"),
        ({"images": ["a.png"], "task": "side"}, "Give --store, no images"),
        ({"images": ["absent.png"]}, "does not exist"),
    ],
)
def test_what_does_not_fit_together_is_refused(encoder_folder, tmp_path, options, message):
    with pytest.raises(PacxError, match=message):
        explain(**options, encoder=str(encoder_folder), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_of_no_image_is_refused(scans: Path, encoder_folder, tmp_path):
    with pytest.raises(PacxError, match="batch_size is 0"):
        explain([str(scans)], encoder=str(encoder_folder), out=tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_read_leave_no_finished_run(scans: Path, encoder_folder, tmp_path):
    with pytest.raises(PacxError, match="None of the 1 files"):
        explain([str(scans / "broken.png")], encoder=str(encoder_folder), out=tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()
