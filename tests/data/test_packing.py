from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from PIL import Image

from pacx.data.ecg import LEADS
from pacx.data.manifest import Manifest
from pacx.data.packing import Settings, make_jobs, pack
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four good X-rays and masks, and two good ECGs."""
    root = tmp_path / "in"
    root.mkdir()
    rows, columns = np.mgrid[:40, :60]
    t = np.arange(5000) / 500
    for number in range(4):
        Image.fromarray(np.uint8(127 + 60 * np.sin(rows / (5 + number)))).save(root / f"{number}.png")
        Image.fromarray(np.uint8(255 * (columns < 30))).save(root / f"m{number}.png")
        signal = np.stack([np.sin(2 * np.pi * (1 + number + lead / 7) * t) for lead in range(12)], axis=1)
        wfdb.wrsamp(
            f"e{number}", fs=500, units=["mV"] * 12, sig_name=list(LEADS), p_signal=signal, fmt=["16"] * 12,
            write_dir=str(root),
        )  # fmt: skip
    return root


def packed(root: Path, out: Path, *, image: bool = True, strict: bool = False, **changed: list) -> Store:
    ids = ["a", "b", "c", "d"]
    columns = {
        "image_id": ids, "patient_id": ids, "split": ["train"] * 3 + ["test"],
        "path": [f"{number}.png" for number in range(4)], "mask_path": [f"m{number}.png" for number in range(4)],
        "ecg_path": [f"e{number}" for number in range(4)], **changed,
    }  # fmt: skip
    table = pd.DataFrame(columns)
    if not image:
        table = table.drop(columns=["path", "mask_path"])
    manifest = Manifest("t", table, root=root)
    writer = StoreWriter(
        out, name="t", num_rows=4, image_size=16 if image else None, mask_names=("mask",) if image else (), ecg=True
    )
    pack(writer, make_jobs(manifest), Settings(16, "squash", 10**6, "mask", strict, {}, {}), workers=1)
    writer.finish(manifest, source={})
    return Store.open(out)


def test_a_bad_ecg_or_mask_costs_its_row_that_modality_only(root: Path, tmp_path: Path) -> None:
    (root / "e1.dat").unlink()
    (root / "m2.png").write_text("no picture")
    store = packed(root, tmp_path / "out")
    assert store.manifest["image_id"].tolist() == ["a", "b", "c", "d"]
    assert store.manifest["has_image"].all()
    assert store.manifest["has_ecg"].tolist() == [True, False, True, True]
    assert store.manifest["has_mask"].tolist() == [True, True, False, True]
    assert np.isnan(store.ecg[1]).all() and np.isfinite(store.ecg[2]).all()
    rejects = pd.read_csv(store.path / "rejects.csv")
    assert rejects["file"].tolist() == [str(root / "e1"), str(root / "m2.png")]
    assert rejects["reason"].str.endswith("(Its row stays, without this file.)").all()


def test_a_row_without_both_mask_and_ecg_lists_both(root: Path, tmp_path: Path) -> None:
    (root / "e0.hea").unlink()
    (root / "m0.png").unlink()
    store = packed(root, tmp_path / "out")
    assert len(store) == 4 and not store.manifest.loc[0, ["has_ecg", "has_mask"]].any()
    assert len(pd.read_csv(store.path / "rejects.csv")) == 2


def test_a_bad_image_takes_its_row_along(root: Path, tmp_path: Path) -> None:
    (root / "1.png").write_bytes((root / "1.png").read_bytes()[:60])
    store = packed(root, tmp_path / "out")
    assert store.manifest["image_id"].tolist() == ["a", "c", "d"] and store.manifest["has_ecg"].all()
    (reason,) = pd.read_csv(store.path / "rejects.csv")["reason"]
    assert "stays" not in reason


def test_a_row_of_an_ecg_alone_is_lost_with_it(root: Path, tmp_path: Path) -> None:
    (root / "e3.hea").unlink()
    store = packed(root, tmp_path / "out", image=False)
    assert store.manifest["image_id"].tolist() == ["a", "b", "c"]
    (reason,) = pd.read_csv(store.path / "rejects.csv")["reason"]
    assert "no .hea file" in reason and "stays" not in reason


def test_what_was_done_to_ecgs_is_kept_and_counted(root: Path, tmp_path: Path, caplog) -> None:
    signal = np.sin(np.arange(1000)[:, None] / 20 + np.arange(12))
    signal[:, 11] = signal[:, 10]
    for number in (1, 3):
        wfdb.wrsamp(
            f"e{number}", fs=100, units=["mV"] * 12, sig_name=list(LEADS), p_signal=signal, fmt=["16"] * 12,
            write_dir=str(root),
        )  # fmt: skip
    (root / "3.png").unlink()
    with caplog.at_level("INFO"):
        store = packed(root, tmp_path / "out")
    steps = pd.read_csv(store.path / "ecg-steps.csv").query("image_id == 'b'")["step"].tolist()
    assert "resampled from 100 Hz to 500 Hz" in steps
    assert not (pd.read_csv(store.path / "ecg-steps.csv")["image_id"] == "d").any(), "that row was lost with its image"
    assert "resampled from # Hz to # Hz (1)" in caplog.text
    assert "V5 and V6 are identical (1)" in caplog.text, "leads keep their numbers"


def test_strict_stops_at_a_bad_ecg_too(root: Path, tmp_path: Path) -> None:
    (root / "e1.dat").unlink()
    with pytest.raises(PacxError, match=r"e1.*--strict"):
        packed(root, tmp_path / "out", strict=True)


def test_images_and_masks_may_be_rows_of_arrays(root: Path, tmp_path: Path) -> None:
    pictures = np.stack([np.asarray(Image.open(root / f"{number}.png")) for number in range(4)])
    np.save(root / "all.npy", pictures)
    np.save(root / "masks.npy", np.stack([np.asarray(Image.open(root / f"m{number}.png")) for number in range(4)]))
    from_files = packed(root, tmp_path / "files")
    paths, masks = ([f"{name}.npy::{row}" for row in (0, 1, 2, 3)] for name in ("all", "masks"))
    from_arrays = packed(root, tmp_path / "arrays", path=paths, mask_path=masks)
    np.testing.assert_array_equal(from_arrays.images, from_files.images)
    np.testing.assert_array_equal(from_arrays.masks, from_files.masks)


def test_a_root_where_no_array_exists_is_noticed_before_anything_is_read(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"None of the first 4 image files .*absent\.npy::0"):
        packed(root, tmp_path / "out", path=[f"absent.npy::{row}" for row in range(4)])
