from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacx.data import packing
from pacx.data.prepare import prepare
from pacx.data.sources import Options, read_source
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.runs import read_result

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data"
Usage = namedtuple("Usage", "total used free")
HEIGHT, WIDTH = 40, 60


def picture(number: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.uint8(127 + 60 * np.sin(rows / (5 + number)) + 60 * np.sin(columns / (7 + number)))


def write_images(root: Path, num: int = 6) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(num):
        Image.fromarray(picture(number)).save(root / f"{number}.png")
    return root


def make(root: Path, out: Path, source: str = "folder", **more: object) -> dict:
    return prepare(source, root, out=out, **{"size": 16, "workers": 1, **more})


def break_some(root: Path) -> None:
    """The bad files of the issue: text named .dcm, truncated JPEG, a header of 40,000 x 40,000, all black."""
    (root / "text.dcm").write_text("this is not a DICOM file")
    Image.fromarray(picture(0)).save(root / "whole.jpg")
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:200])
    (root / "whole.jpg").unlink()
    png = bytearray((root / "0.png").read_bytes())
    png[16:24] = (40000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    (root / "huge.png").write_bytes(png)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "black.png")


def test_a_folder_becomes_a_store_and_a_run(tmp_path: Path) -> None:
    result = make(write_images(tmp_path / "in"), tmp_path / "out")
    assert result == read_result(tmp_path / "out")
    assert result["results"]["num_images"] == result["results"]["num_patients"] == 6
    assert result["results"]["rejects"] == 0 and sum(result["results"]["splits"].values()) == 6
    store = Store.open(tmp_path / "out")
    assert store.manifest["image_id"].tolist() == [f"{number}.png" for number in range(6)]
    expected = np.asarray(Image.fromarray(picture(3)).resize((16, 16), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(store.images[3].astype(float) - expected).max() <= 1
    assert store.meta["source"]["source"] == "folder" and store.meta["geometry"] == "squash"


def test_the_geometry_is_applied_and_kept(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in", 3)
    make(root, tmp_path / "out", geometry="pad")
    store = Store.open(tmp_path / "out")
    assert store.preprocess().geometry == "pad"
    assert (store.images[:, 0] == 0).all() and (store.images[:, 8] > 0).any()


def test_files_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in")
    break_some(root)
    result = make(root, tmp_path / "out")
    assert result["results"]["num_images"] == 6 and result["results"]["rejects"] == 4
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    reasons = {Path(file).name: reason for file, reason in rejects.itertuples(index=False)}
    assert sorted(reasons) == ["black.png", "cut.jpg", "huge.png", "text.dcm"]
    assert "blank" in reasons["black.png"] and "truncated" in reasons["cut.jpg"]
    assert "40,000 rows x 40,000 columns" in reasons["huge.png"] and "the text 'this is not a D" in reasons["text.dcm"]
    assert not any(str(root) in reason for reason in reasons.values())


def test_strict_stops_at_the_first_file_that_cannot_be_used(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in")
    break_some(root)
    with pytest.raises(PacxError, match=r"black\.png: It is blank.*--strict"):
        make(root, tmp_path / "out", strict=True)
    assert not (tmp_path / "out" / "meta.json").exists() and not (tmp_path / "out" / "result.json").exists()


def test_the_size_limit_is_the_users_to_set(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"None of the 6 rows .* could be read.*40 rows x 60 columns"):
        make(write_images(tmp_path / "in"), tmp_path / "out", max_pixels=2000)


def test_a_table_brings_labels_masks_and_labs(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in")
    masks = np.zeros((HEIGHT, WIDTH), np.uint8)
    masks[: HEIGHT // 2] = 1  # 0/1 in an 8-bit file, as some data sets have it
    Image.fromarray(masks).save(root / "m0.png")
    Image.fromarray(masks[:, ::2]).save(root / "m1.png")
    table = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(6)],
            "patient_id": ["a", "a", "b", "c", "d", "e"],
            "split": ["train"] * 4 + ["val", "test"],
            "edema": [1, 0, None, 1, 0, 1],
            "mask": ["m0.png", "m1.png", None, None, None, None],
            "crp": [None, None, 7.5, 8, None, None],
        }
    )
    table.to_csv(root / "t.csv", index=False)
    result = make(
        root / "t.csv", tmp_path / "out", "table", label_columns=["edema"], split_column="split", mask_column="mask",
        mask_name="lung", lab_columns=["crp"],
    )  # fmt: skip
    store = Store.open(tmp_path / "out")
    assert result["results"]["tasks"] == {"edema": {"edema": {"positives": 3, "negatives": 2, "unknown": 1}}}
    (reason,) = pd.read_csv(tmp_path / "out" / "rejects.csv")["reason"]
    assert reason == "The mask is 30 x 40, its image 60 x 40. (Its row stays, without this file.)"
    lung = store.mask("lung", [0])[0]
    assert lung[:8].all() and not lung[8:].any()
    assert store.manifest["has_mask"].tolist() == [True, False, False, False, False, False]
    assert store.labs["crp"].tolist()[2:4] == [7.5, 8.0] and store.rows(needs=("labs",)).tolist() == [2, 3]


def test_patients_that_cross_splits_are_refused_unless_told_otherwise(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in", 2)
    pd.DataFrame({"path": ["0.png", "1.png"], "patient_id": ["a", "a"], "split": ["train", "test"]}).to_csv(
        root / "t.csv", index=False
    )
    with pytest.raises(PacxError, match=r"more than one split: 'a'.*--allow_patient_overlap"):
        make(root / "t.csv", tmp_path / "out", "table", split_column="split")
    assert not (tmp_path / "out").exists()
    make(root / "t.csv", tmp_path / "out", "table", split_column="split", allow_patient_overlap=True)
    assert len(Store.open(tmp_path / "out")) == 2


def test_a_wrong_root_is_noticed_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="does not exist"):
        make(tmp_path / "nowhere", tmp_path / "out")
    pd.DataFrame({"path": ["x.png"], "patient_id": ["a"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(PacxError, match=r"None of the first 1 image files of 't' exists.*x\.png"):
        make(tmp_path / "t.csv", tmp_path / "out", "table")
    assert not (tmp_path / "out").exists()


def test_two_processes_make_the_store_that_one_makes(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in", 20)
    break_some(root)
    make(root, tmp_path / "one")
    make(root, tmp_path / "two", workers=2)
    one, two = Store.open(tmp_path / "one"), Store.open(tmp_path / "two")
    assert one.content_hash == two.content_hash
    assert (one.path / "rejects.csv").read_text() == (two.path / "rejects.csv").read_text()


def test_an_interrupted_run_goes_on_without_reading_anything_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "in", 10)
    break_some(root)
    read, opened = packing.read_cxr, []

    def counting(file: Path, **more: object) -> object:
        opened.append(file.name)
        if len(opened) == 8:
            raise KeyboardInterrupt
        return read(file, **more)

    monkeypatch.setattr(packing, "read_cxr", counting)
    with pytest.raises(KeyboardInterrupt):
        make(root, tmp_path / "out")
    first, stopped_at = opened[:7], opened[7]
    opened.clear()
    opened.extend(["not counted"] * 10)
    make(root, tmp_path / "out")
    second = opened[10:]
    assert second[0] == stopped_at and not set(first) & set(second) and len(first) + len(second) == 14
    monkeypatch.undo()
    make(root, tmp_path / "whole")
    assert Store.open(tmp_path / "out").content_hash == Store.open(tmp_path / "whole").content_hash


SLOW_RUN = """
import sys, time
from pathlib import Path
from pacx.data import packing, prepare
read = packing.read_cxr
def slow(file, **more):
    print(file.name, flush=True)
    time.sleep(0.02)
    return read(file, **more)
packing.read_cxr = slow
prepare.prepare("folder", Path(sys.argv[1]), out=Path(sys.argv[2]), size=16, workers=1)
"""


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in", 30)
    command = [sys.executable, "-c", SLOW_RUN, str(root), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        first += process.stdout.read().split()
    assert not (tmp_path / "out" / "meta.json").exists()
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(set(first) & set(second)) <= 1  # the file that was being read
    assert len(set(first) | set(second)) == 30 and len(second) <= 26
    make(root, tmp_path / "whole")
    assert Store.open(tmp_path / "out").content_hash == Store.open(tmp_path / "whole").content_hash


def test_reading_processes_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, os, time, sys\n"
        "from pacx.data.workers import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('fork').Process(target=lambda: (end_with_parent(), time.sleep(60)))\n"
        "    child.start(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        ended = not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
    assert ended, "the child outlived its parent by 5 s"


def test_an_unfinished_store_is_not_continued_with_other_files_or_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "in")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "read_cxr", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(root, tmp_path / "out")
    with pytest.raises(PacxError, match="begun with other settings"):
        make(root, tmp_path / "out", geometry="crop")
    make(root, tmp_path / "out")


def test_a_finished_store_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in")
    make(root, tmp_path / "out")
    with pytest.raises(PacxError, match="already holds a finished run"):
        make(root, tmp_path / "out", size=8)
    make(root, tmp_path / "out", size=8, overwrite=True)
    assert Store.open(tmp_path / "out").image_size == 8


def test_a_store_that_was_finished_before_its_run_is_taken_as_it_is(tmp_path: Path) -> None:
    root = write_images(tmp_path / "in")
    first = make(root, tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    assert make(root, tmp_path / "out")["results"] == first["results"]
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(PacxError, match="made of other files"):
        make(root, tmp_path / "out", size=8)


def test_too_little_space_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "in")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 0))
    with pytest.raises(PacxError, match=r"needs 0\.00 GB, but only 0\.00 GB are free"):
        make(root, tmp_path / "out")


def test_a_disk_that_fills_up_stops_the_run_and_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "in")
    pwrite = os.pwrite
    calls = []

    def fills_up(handle: int, block: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, block, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fills_up)
        with pytest.raises(PacxError, match=r"disk of .* is full .*run the same command again"):
            make(root, tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()
    assert make(root, tmp_path / "out")["results"]["num_images"] == 6


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the open sample bundle is not beside the repository")
def test_real_x_rays_masks_and_ecgs_are_packed(tmp_path: Path) -> None:
    make(SAMPLE, tmp_path / "seg", "open-sample", part="seg", size=64)
    store = Store.open(tmp_path / "seg")
    listed = pd.read_csv(SAMPLE / "seg" / "manifest.csv")["lung_fraction"]
    share = store.mask("lung", store.rows()).mean(axis=(1, 2))
    assert len(store) == 70 and np.abs(share - listed).max() < 0.01
    lung_is_darker = [
        image[m].mean() < image[~m].mean() for image, m in zip(store.images, store.mask("lung", range(70)), strict=True)
    ]
    assert np.mean(lung_is_darker) > 0.8


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the open sample bundle is not beside the repository")
def test_real_ecgs_are_packed_in_millivolts(tmp_path: Path) -> None:
    manifest = read_source("open-sample", SAMPLE, options=Options(part="ecg"))
    manifest.table = manifest.table.head(20)
    writer = StoreWriter(tmp_path / "ecg", name="ecg", num_rows=20, ecg=True)
    settings = packing.Settings(8, "squash", 10**8, "", True, {}, {})
    packing.pack(writer, packing.make_jobs(manifest), settings, workers=1)
    writer.finish(manifest, source={})
    store = Store.open(tmp_path / "ecg")
    assert store.ecg.shape == (20, 12, 5000) and store.manifest["has_ecg"].all()
    peak = np.abs(store.ecg[:].astype(np.float32)).max(axis=(1, 2))
    assert ((peak > 0.3) & (peak < 10)).all()
    lead_i, lead_ii, lead_iii = store.ecg[:, :3].astype(np.float32).transpose(1, 0, 2)
    assert np.abs(lead_ii - lead_i - lead_iii).max() < 0.05  # Einthoven's law survives storage as float16
