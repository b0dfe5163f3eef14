"""Which images a user means."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pacx.data.image_files import list_images
from pacx.errors import PacxError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.dcm", "deep/er/IM0001", "notes.txt"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(sources: list[str]) -> list[str]:
    return [Path(image.path).name for image in list_images(sources)]


def test_folders_are_searched_to_the_bottom_and_texts_are_no_images(folder: Path) -> None:
    assert names([str(folder / "scans")]) == ["a.png", "b.dcm", "IM0001"]


def test_patterns_files_and_rows_keep_their_order_and_come_once(folder: Path) -> None:
    scans = folder / "scans"
    found = names([f"{scans}/*.dcm", str(scans / "a.png"), f"{scans}/**/IM*", str(scans), "cxr.npy::17"])
    assert found == ["b.dcm", "a.png", "IM0001", "cxr.npy::17"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_are_relative_to_their_folder_and_may_name_images(folder: Path, suffix: str) -> None:
    table = pd.DataFrame({"path": ["scans/a.png", "scans/b.dcm"], "image_id": ["007", None]})
    path = folder / f"images{suffix}"
    table.to_parquet(path) if suffix == ".parquet" else table.to_csv(
        path, index=False, sep="\t" if suffix == ".tsv" else ","
    )
    found = list_images([path])
    assert [image.image_id for image in found] == ["007", "scans/b.dcm"]
    assert [image.path for image in found] == [str(folder / "scans/a.png"), str(folder / "scans/b.dcm")]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "No images are given"),
        (["absent.png"], "does not exist"),
        (["*.absent"], "No file fits the pattern"),
        (["empty"], "holds no files"),
        (["wrong.csv"], "has no column `path`"),
        (["gap.csv"], r"row 1 \(from 0\) has no path"),
        (["blank.parquet"], r"row 1 \(from 0\) has no path"),
        (["none.csv"], "none.csv has no rows"),
        (["none.parquet"], "none.parquet has no rows"),
        (["cxr.npy::x"], "is no row number"),
        ([""], "An image is named ''"),
        (["scans", " "], "An image is named ' '"),
        (["store"], r"store is a store of pacx.*pacx probe.*images.npy::0"),
        (["stores"], r"stores/mine is a store of pacx"),
    ],
)
def test_what_names_no_image_is_refused(
    folder: Path, sources: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("empty").mkdir()
    Path("wrong.csv").write_text("file\na.png\n")
    Path("gap.csv").write_text("path,image_id\na.png,1\n,2\n")
    Path("none.csv").write_text("path,image_id\n")
    pd.DataFrame({"path": []}).to_parquet("none.parquet")
    pd.DataFrame({"path": ["a.png", " "]}).to_parquet("blank.parquet")
    for store in ("store", "stores/mine"):
        Path(store, "figures").mkdir(parents=True)
        for name in ("meta.json", "images.npy", "manifest.parquet", "figures/contact_sheet.png"):
            Path(store, name).write_bytes(b"x")
    with pytest.raises(PacxError, match=message):
        list_images(sources)
