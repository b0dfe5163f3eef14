"""CheXchoNet: the shipped labels, both splits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.sources import Options, read_source
from pacx.data.store import Store
from pacx.errors import PacxError

HEADER = (
    "patient_id,cxr_filename,cxr_time_offset,cxr_year,cxr_path,cxr_pixel_spacing_x,cxr_pixel_spacing_y,age,sex,"
    "ivsd,lvpwd,lvidd,slvh,dlv,composite_slvh_dlv,heart_transplant,lung_transplant,pacemaker_or_icd\n"
)


def row(patient: str, name: str, slvh: int = 0, dlv: int = 0, composite: int = 0, pacemaker: int = 0) -> str:
    return (
        f"{patient},{name}.jpg,1 days 02:00:00,2015,./cxrs/{name}.jpg,0.1,0.1,61,F,1.0,1.0,4.7,"
        f"{slvh},{dlv},{composite},0,0,{pacemaker}\n"
    )


def release(root: Path, rows: list[str]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(HEADER + "".join(rows), encoding="utf-8")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    for line in rows:
        Image.fromarray(pixels).save(root / "images" / line.split(",")[1])
    return root


def test_the_composite_is_the_one_that_is_shipped_and_is_not_derived(tmp_path: Path) -> None:
    rows = [row("a", "a_1", slvh=1, composite=1), row("b", "b_1", dlv=1, composite=0), row("c", "c_1", pacemaker=1)]
    manifest = read_source("chexchonet", release(tmp_path, rows), options=Options(partial=True))
    assert manifest.table["composite_slvh_dlv"].tolist() == [1, 0, 0]  # b contradicts itself, and stays as shipped
    assert manifest.tasks["composite"].labels == ("composite_slvh_dlv",)
    assert manifest.tasks["echo"].labels == ("slvh", "dlv", "heart_transplant", "lung_transplant", "pacemaker_or_icd")
    assert manifest.table["pacemaker_or_icd"].tolist() == [0, 0, 1]
    assert (manifest.table["age"].tolist(), manifest.table["sex"].tolist()) == ([61] * 3, ["F"] * 3)
    assert manifest.patients_of == "chexchonet"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chexchonet") / "release"
    simulate(out=out, patients=60, size=32, seed=5, workers=1, ecg=False, labs=False, format="chexchonet")
    return out


def test_the_miniature_is_prepared_with_its_labels_and_a_split_by_patient(miniature: Path, tmp_path: Path) -> None:
    prepare("chexchonet", miniature, partial=True, size=32, workers=1, out=tmp_path / "store")
    store = Store.open(tmp_path / "store")
    told = pd.read_csv(miniature / "metadata.csv")
    assert len(store) == len(told)
    assert store.targets("composite")[:, 0].tolist() == told["composite_slvh_dlv"].tolist()
    assert store.manifest.groupby("patient_id")["split"].nunique().max() == 1


def test_the_published_split_is_by_image_and_has_its_shares(miniature: Path) -> None:
    manifest = read_source("chexchonet", miniature, options=Options(partial=True, split="reference"))
    counts, total = manifest.table["split"].value_counts(), len(manifest.table)
    assert counts["test"] == np.ceil(0.2 * total)
    assert counts["val"] == np.ceil(0.1 * (total - counts["test"]))
    assert manifest.table.groupby("patient_id")["split"].nunique().max() > 1


def test_half_a_release_is_refused_unless_that_is_accepted(miniature: Path) -> None:
    with pytest.raises(PacxError, match=r"not the full release.* in place of 71589.*--partial true"):
        read_source("chexchonet", miniature, options=Options())


@pytest.mark.parametrize("where", ["above", "below"])
def test_a_root_too_high_or_too_low_names_the_right_one(tmp_path: Path, where: str) -> None:
    root = release(tmp_path / "physionet" / "chexchonet", [row("a", "a_1")])
    given = root.parent if where == "above" else root / "images"
    with pytest.raises(PacxError, match=rf"not the root of chexchonet.*Give {root} instead"):
        read_source("chexchonet", given, options=Options(partial=True))


def test_what_the_table_cannot_hold_is_refused(tmp_path: Path) -> None:
    root = release(tmp_path, [row("a", "a_1"), row("b", "b_1", composite=2)])
    with pytest.raises(PacxError, match=r"'composite_slvh_dlv' .* holds 2 \(1 rows\); the release has 0, 1"):
        read_source("chexchonet", root, options=Options(partial=True))
    root = release(tmp_path, [row("a", "a_1"), row("a", "a_1", slvh=1)])
    with pytest.raises(PacxError, match=r"1 entries with several rows that differ: a_1\.jpg"):
        read_source("chexchonet", root, options=Options(partial=True))
    text = (root / "metadata.csv").read_text().splitlines()[:2]
    (root / "metadata.csv").write_text("\n".join(text)[:-20], encoding="utf-8")
    with pytest.raises(PacxError, match="ends inside a row"):
        read_source("chexchonet", root, options=Options(partial=True))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    root = release(tmp_path, [row("a", "a_1"), row("b", "b_1")])
    (root / "images" / "b_1.jpg").unlink()
    check = Options(partial=True)
    assert read_source("chexchonet", root, options=check).table["image_id"].tolist() == ["a_1"]
