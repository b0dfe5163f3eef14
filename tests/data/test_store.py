from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError

SIZE = 8
Usage = namedtuple("Usage", "total used free")


def make_manifest() -> Manifest:
    table = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(6)],
            "patient_id": ["p0", "p0", "p1", "p1", "p2", "p3"],
            "split": ["train", "train", "train", "train", "val", "test"],
            "edema": [0.0, 1.0, np.nan, 1.0, 0.0, 1.0],
        }
    )
    labs = pd.DataFrame({"crp": [5.0, np.nan], "po2": [np.nan, np.nan]}, index=["i1", "i4"])
    return Manifest(
        "demo", table, tasks={"edema": Task("edema", ("edema",), "binary")}, labs=labs, lab_units={"crp": "mg/L"}
    )


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).random((SIZE, SIZE), dtype=np.float32)


def open_writer(path: Path, **changes: object) -> StoreWriter:
    settings = {"name": "demo", "num_rows": 6, "image_size": SIZE, "mask_names": ("lung", "heart"), "ecg": True}
    return StoreWriter(path, **{**settings, **changes})


def fill(path: Path, rows: range = range(6)) -> None:
    writer = StoreWriter.attach(path)
    for row in rows:
        masks = {"lung": pixels(row) > 0.5, "heart": pixels(row) > 0.9}
        ecg = None if row % 2 else np.full((12, 5000), row / 4)
        writer.write(row, image=pixels(row), masks=masks if row != 3 else None, ecg=ecg)


def build(path: Path) -> Store:
    writer = open_writer(path)
    fill(path)
    writer.finish(make_manifest(), source={"command": "test"})
    return Store.open(path)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    store = build(tmp_path / "s")
    np.testing.assert_array_equal(store.images[2], np.rint(pixels(2) * 255))
    np.testing.assert_array_equal(store.mask("lung", [1, 2]), np.stack([pixels(1) > 0.5, pixels(2) > 0.5]))
    np.testing.assert_array_equal(store.mask("heart", [2])[0], pixels(2) > 0.9)
    assert store.ecg.dtype == np.float16 and (store.ecg[2] == 0.5).all() and np.isnan(store.ecg[1]).all()
    assert store.labs["crp"].tolist()[1] == 5.0 and store.labs.notna().sum().sum() == 1
    assert store.manifest["has_mask"].tolist() == [True, True, True, False, True, True]
    assert store.manifest["has_ecg"].tolist() == [True, False] * 3
    assert store.manifest["has_labs"].tolist() == [False, True, False, False, False, False]
    assert not (tmp_path / "s" / ".partial").exists()


def test_rows_are_chosen_by_split_and_by_what_they_have(tmp_path: Path) -> None:
    store = build(tmp_path / "s")
    assert store.rows().tolist() == [0, 1, 2, 3, 4, 5]
    assert store.rows("train", needs=("image", "mask", "ecg")).tolist() == [0, 2]
    assert store.rows("test", needs=("labs",)).tolist() == []
    assert store.has("labs") and store.has("ecg")
    with pytest.raises(PacxError, match="no split 'valid'"):
        store.rows("valid")


def test_targets_keep_unknown_labels_unknown(tmp_path: Path) -> None:
    targets = build(tmp_path / "s").targets("edema", [0, 1, 2])
    np.testing.assert_array_equal(targets, np.array([[0.0], [1.0], [np.nan]], dtype=np.float32))


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    store = build(tmp_path / "s")
    with pytest.raises(PacxError, match=r"no task 'oedema'. It has: edema"):
        store.task("oedema")
    with pytest.raises(PacxError, match=r"no mask 'rib'. It has: lung, heart"):
        store.mask("rib", [0])


def test_pixel_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    store = build(tmp_path / "s")
    train = store.images[:4] / 255.0
    assert store.meta["mean"] == pytest.approx(train.mean(), abs=1e-6)
    assert store.meta["std"] == pytest.approx(train.std(), abs=1e-6)
    assert store.preprocess().mean == (store.meta["mean"],)
    assert store.preprocess().image_size == SIZE


def test_the_summary_counts_images_patients_splits_and_labels(tmp_path: Path) -> None:
    summary = build(tmp_path / "s").summary()
    assert (summary["num_images"], summary["num_patients"], summary["rejects"]) == (6, 4, 0)
    assert summary["splits"] == {"train": 4, "val": 1, "test": 1}
    assert summary["tasks"] == {"edema": {"edema": {"positives": 3, "negatives": 2, "unknown": 1}}}


def test_rejected_rows_leave_no_hole(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "s")
    fill(tmp_path / "s", range(1, 4))
    fill(tmp_path / "s", range(5, 6))
    writer.reject(4, file="d/4.png", reason="truncated,\n at byte 12")
    writer.reject(0, file="d/0.png", reason="blank")
    meta = writer.finish(make_manifest(), source={})
    store = Store.open(tmp_path / "s")
    assert meta["num_rows"] == len(store) == len(store.images) == len(store.ecg) == 4
    assert store.manifest["image_id"].tolist() == ["i1", "i2", "i3", "i5"]
    for position, row in enumerate((1, 2, 3, 5)):
        np.testing.assert_array_equal(store.images[position], np.rint(pixels(row) * 255))
    assert store.labs["crp"].iloc[0] == 5.0
    rejects = pd.read_csv(tmp_path / "s" / "rejects.csv")
    assert rejects.values.tolist() == [["d/0.png", "blank"], ["d/4.png", "truncated, at byte 12"]]


def test_a_store_may_hold_labs_only(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", name="labs", num_rows=6)
    for row in range(6):
        writer.write(row)
    writer.finish(make_manifest(), source={})
    store = Store.open(tmp_path / "s")
    assert store.images is None and store.image_size is None and not store.has("image")
    with pytest.raises(PacxError, match="holds no images"):
        store.preprocess()


def test_processes_that_write_disjoint_rows_make_the_same_store_as_one(tmp_path: Path) -> None:
    alone = build(tmp_path / "alone")
    writer = open_writer(tmp_path / "many")
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(fill, [tmp_path / "many"] * 3, [range(0, 2), range(2, 4), range(4, 6)]))
    writer.finish(make_manifest(), source={})
    assert Store.open(tmp_path / "many").content_hash == alone.content_hash


def test_the_content_hash_sees_one_changed_pixel_and_one_changed_label(tmp_path: Path) -> None:
    first = build(tmp_path / "a").content_hash
    writer = open_writer(tmp_path / "b")
    fill(tmp_path / "b")
    image = np.rint(pixels(5) * 255).astype(np.uint8)
    image[0, 0] ^= 1
    writer.write(5, image=image, masks={"lung": pixels(5) > 0.5, "heart": pixels(5) > 0.9})
    writer.finish(make_manifest(), source={})
    writer = open_writer(tmp_path / "c")
    fill(tmp_path / "c")
    manifest = make_manifest()
    manifest.table.loc[0, "edema"] = 1.0
    writer.finish(manifest, source={})
    assert len({first, *(Store.open(tmp_path / name).content_hash for name in "bc")}) == 3


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    open_writer(tmp_path / "s")
    fill(tmp_path / "s", range(0, 3))
    again = open_writer(tmp_path / "s")
    assert again.todo().tolist() == [3, 4, 5]
    assert again.done(2) and not again.done(3)
    with pytest.raises(PacxError, match="3 of 6 rows"):
        again.finish(make_manifest(), source={})
    with pytest.raises(PacxError, match="unfinished"):
        Store.open(tmp_path / "s")
    fill(tmp_path / "s", range(3, 6))
    again.finish(make_manifest(), source={})
    assert Store.open(tmp_path / "s").content_hash == build(tmp_path / "whole").content_hash


@pytest.mark.parametrize("stop_after", ["images.npy", "manifest.parquet", "meta.json"])
def test_a_crash_while_finishing_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: str
) -> None:
    writer = open_writer(tmp_path / "s")
    fill(tmp_path / "s", range(0, 5))
    writer.reject(5, file="5", reason="blank")
    replace = Path.replace

    def crash(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        if Path(target) == tmp_path / "s" / stop_after:
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            writer.finish(make_manifest(), source={})
    StoreWriter.attach(tmp_path / "s").finish(make_manifest(), source={})
    store = Store.open(tmp_path / "s")
    assert len(store) == 5
    np.testing.assert_array_equal(store.images[4], np.rint(pixels(4) * 255))


def test_an_unfinished_build_with_other_settings_is_not_touched(tmp_path: Path) -> None:
    open_writer(tmp_path / "s", fingerprint="a")
    with pytest.raises(PacxError, match="different: image_size, fingerprint"):
        open_writer(tmp_path / "s", image_size=16, fingerprint="b")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(PacxError, match=r"needs 50\.18 GB, but only 0\.00 GB are free"):
        StoreWriter(tmp_path / "s", name="big", num_rows=10**6, image_size=224)
    assert not (tmp_path / "s" / ".partial" / "plan.json").exists()


def test_a_disk_that_fills_up_gives_a_message_and_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path / "s")
    fill(tmp_path / "s", range(0, 2))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(PacxError, match=r"full \(No space left on device\).*goes on where it stopped"):
            writer.write(2, image=pixels(2))
    assert open_writer(tmp_path / "s").todo().tolist() == [2, 3, 4, 5]
    with pytest.raises(PacxError, match="unfinished"):
        Store.open(tmp_path / "s")


def test_arrays_that_do_not_fit_are_a_bug_of_the_caller(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "s")
    with pytest.raises(ValueError, match="does not fit"):
        writer.write(0, image=np.zeros((SIZE, SIZE + 1)))
    with pytest.raises(ValueError, match="does not fit"):
        writer.write(6, image=np.zeros((SIZE, SIZE)))
    with pytest.raises(ValueError, match="masks"):
        writer.write(0, image=np.zeros((SIZE, SIZE)), masks={"lung": np.zeros((SIZE, SIZE), dtype=bool)})
    assert not writer.done(0)


def test_nothing_readable_at_all_is_an_error_that_quotes_a_reason(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "s")
    for row in range(6):
        writer.reject(row, file=f"{row}.png", reason="not an image")
    with pytest.raises(PacxError, match=r"None of the 6 rows.*not an image \(0\.png\)"):
        writer.finish(make_manifest(), source={})


def test_folders_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="is not a store"):
        Store.open(tmp_path)
    store = build(tmp_path / "s")
    meta = json.loads((store.path / "meta.json").read_text())
    (store.path / "meta.json").write_text(json.dumps({**meta, "store_version": 99}))
    with pytest.raises(PacxError, match="version 99"):
        Store.open(store.path)
    (store.path / "meta.json").write_text(json.dumps(meta))
    np.save(store.path / "images.npy", np.zeros((2, SIZE, SIZE), np.uint8))
    with pytest.raises(PacxError, match=r"images\.npy has 2 rows, its manifest 6"):
        Store.open(store.path)


def test_a_store_pickles_as_its_path(tmp_path: Path) -> None:
    store = build(tmp_path / "s")
    content = pickle.dumps(store)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).images[0], store.images[0])
    assert "edema" in repr(store) and "6 rows" in repr(store)
