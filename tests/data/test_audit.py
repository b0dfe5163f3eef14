"""The audit finds planted overlaps, finds nothing in a clean pair, and its list of exclusions ends the leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.audit import audit
from pacx.data.manifest import Manifest
from pacx.data.near_duplicates import find_copies, fingerprints
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Store:
    out = tmp_path_factory.mktemp("audit") / "cohort"
    settings = {"patients": 80, "size": 96, "seed": 2, "workers": 1, "ecg": False, "labs": False}
    simulate(out=out, images_per_patient=1.0, **settings)
    return Store.open(out)


def make(
    path: Path, images: np.ndarray, *, name: str, patients: list[str], splits: list[str], namespace: str = "mimic"
) -> Path:
    """Write a store of given images."""
    ids = [f"{name}-{i}" for i in range(len(images))]
    table = pd.DataFrame({"image_id": ids, "patient_id": patients, "split": splits, "study_id": patients})
    writer = StoreWriter(path, name=name, num_rows=len(images), image_size=images.shape[1])
    for row, image in enumerate(images):
        writer.write(row, image=image)
    writer.finish(Manifest(name, table, patients_of=namespace), source={})
    return path


def split_of(number: int) -> list[str]:
    return ["train" if i % 3 else "test" for i in range(number)]


@pytest.fixture
def pair(tmp_path: Path, cohort: Store) -> tuple[Path, Path]:
    """Two stores of other people, without any overlap."""
    a, b = np.asarray(cohort.images[:30]), np.asarray(cohort.images[30:60])
    return (
        make(tmp_path / "a", a, name="a", patients=[f"a{i}" for i in range(30)], splits=split_of(30)),
        make(tmp_path / "b", b, name="b", patients=[f"b{i}" for i in range(30)], splits=split_of(30)),
    )


def test_a_clean_pair_is_clean(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = audit([*pair], out=tmp_path / "audit")["results"]
    assert found["clean"] and found["num_copies"] == found["num_exclusions"] == 0
    assert found["shared"] == []
    assert len(pd.read_csv(tmp_path / "audit" / "exclusions.csv")) == 0


def altered(image: np.ndarray, kind: str) -> np.ndarray:
    gray = image.astype(np.float32) / 255
    changed = {
        "equal": gray,
        "mirrored": gray[:, ::-1],
        "brighter": np.clip(gray * 0.8 + 0.15, 0, 1),
        "contrast": gray**1.5,
        "mirrored and darker": np.clip(gray[:, ::-1] * 0.7, 0, 1),
        "noisy": np.clip(gray + 0.02 * np.random.default_rng(0).standard_normal(gray.shape), 0, 1),
    }[kind]
    return np.rint(changed * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["equal", "mirrored", "brighter", "contrast", "mirrored and darker", "noisy"])
def test_planted_copies_are_found_and_named(pair: tuple[Path, Path], tmp_path: Path, cohort: Store, kind: str) -> None:
    images = np.asarray(cohort.images[60:75]).copy()
    test_rows = [0, 3, 6, 9]  # of store a, by `split_of`
    for place, row in enumerate(test_rows):
        images[place] = altered(np.asarray(cohort.images[row]), kind)
    c = make(tmp_path / "c", images, name="c", patients=[f"c{i}" for i in range(15)], splits=["train"] * 15)
    found = audit([pair[0], c], out=tmp_path / "audit")["results"]
    pairs = pd.read_csv(tmp_path / "audit" / "pairs.csv")
    assert set(zip(pairs["image_a"], pairs["image_b"], strict=True)) == {
        (f"a-{row}", f"c-{i}") for i, row in enumerate(test_rows)
    }
    assert set(pairs["mirrored"]) == {kind.startswith("mirrored")}
    assert set(pairs["kind"]) == {"equal" if kind == "equal" else "copy"}
    assert not found["clean"] and found["num_leaking_images"] == 4 and found["num_leaking_patients"] == 0
    listed = pd.read_csv(tmp_path / "audit" / "exclusions.csv")
    assert sorted(listed["image_id"]) == ["c-0", "c-1", "c-2", "c-3"]
    assert set(listed["reason"]) == {"a copy of it tests"}


def test_shared_patients_and_studies_are_counted_by_split(
    pair: tuple[Path, Path], tmp_path: Path, cohort: Store
) -> None:
    images = np.asarray(cohort.images[60:64])
    c = make(
        tmp_path / "c", images, name="c", patients=["a0", "a1", "b3", "x"], splits=["train", "test", "val", "train"]
    )
    found = audit([*pair, c], out=tmp_path / "audit", images=False)["results"]
    counts = {
        (r["store_a"], r["split_a"], r["store_b"], r["split_b"]): (r["patients"], r["studies"]) for r in found["shared"]
    }
    assert counts == {
        ("a", "test", "c", "train"): (1, 1),
        ("a", "train", "c", "test"): (1, 1),
        ("b", "test", "c", "val"): (1, 1),
    }
    assert found["num_leaking_patients"] == 3
    listed = pd.read_csv(tmp_path / "audit" / "exclusions.csv")
    assert sorted(zip(listed["store"], listed["image_id"], strict=True)) == [("a", "a-1"), ("c", "c-0"), ("c", "c-2")]
    other = audit([*pair, c], out=tmp_path / "other", images=False, keep="train")
    listed = pd.read_csv(tmp_path / "other" / "exclusions.csv")
    assert sorted(listed["image_id"]) == ["a-0", "b-3", "c-1"]
    assert other["results"]["num_exclusions"] == 3


def test_equal_ids_of_other_namespaces_are_other_people(pair: tuple[Path, Path], tmp_path: Path, cohort: Store) -> None:
    images = np.asarray(cohort.images[60:62])
    facts = {"patients": ["a0", "a1"], "splits": ["train", "test"]}
    c = make(tmp_path / "c", images, name="c", namespace="nih", **facts)
    assert audit([pair[0], c], out=tmp_path / "one", images=False)["results"]["clean"]
    d = make(tmp_path / "d", images, name="d", namespace="", **facts)
    assert not audit([pair[0], d], out=tmp_path / "two", images=False)["results"]["clean"]


def test_preparing_without_the_exclusions_ends_the_leaks(tmp_path: Path, miniature_mimic: dict[str, Path]) -> None:
    stores = {}
    for name, more in (("medmod", {"images": miniature_mimic["medmod"] / "mimic-cxr-jpg"}), ("cxl-seg", {})):
        stores[name] = tmp_path / name
        prepare(name, miniature_mimic[name], partial=True, size=48, workers=1, out=stores[name], **more)
    first = audit([*stores.values()], out=tmp_path / "audit", images=False)["results"]
    assert not first["clean"] and first["num_exclusions"] > 0
    again = {}
    for name, more in (("medmod", {"images": miniature_mimic["medmod"] / "mimic-cxr-jpg"}), ("cxl-seg", {})):
        again[name] = tmp_path / f"{name}-clean"
        lists = [tmp_path / "audit" / "exclusions.csv"]
        prepare(name, miniature_mimic[name], partial=True, size=48, workers=1, out=again[name], exclude=lists, **more)
    second = audit([*again.values()], out=tmp_path / "again", images=False)["results"]
    assert second["clean"]
    before, after = (sum(len(Store.open(path)) for path in own.values()) for own in (stores, again))
    assert before - after == first["num_exclusions"]


@pytest.fixture(scope="module")
def miniature_mimic(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mimic")
    for name in ("medmod", "cxl-seg"):
        settings = {"patients": 40, "size": 48, "seed": 1, "workers": 1, "ecg": False, "labs": False}
        simulate(out=folder / name, format=name, **settings)
        (folder / name / "SIMULATED.txt").unlink()  # taken for the real ones, they have one namespace
    (folder / "medmod" / "testset_iv.csv").unlink()
    return {name: folder / name for name in ("medmod", "cxl-seg")}


def test_copies_within_blocks_are_found_once(cohort: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacx.data.near_duplicates._BLOCK", 7)
    images = np.concatenate([np.asarray(cohort.images[:20]), np.asarray(cohort.images[:20])[:, :, ::-1]])
    path = make(tmp_path / "x", images, name="x", patients=[str(i) for i in range(40)], splits=["train"] * 40)
    found = list(find_copies(fingerprints(Store.open(path), np.arange(40))))
    assert sorted((one.first, one.second) for one in found) == [(i, i + 20) for i in range(20)]
    assert all(one.mirrored and one.correlation > 0.99 for one in found)


def test_what_cannot_be_audited_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="Several stores are called a"):
        audit([pair[0], pair[0]], out=tmp_path / "audit")
    with pytest.raises(PacxError, match="is no correlation to ask for"):
        audit([*pair], out=tmp_path / "audit", similarity=1.5)
    (tmp_path / "list.csv").write_text("patient\n1\n")
    table = tmp_path / "t.csv"
    table.write_text("path,patient_id\nx.png,1\n")
    with pytest.raises(PacxError, match=r"list\.csv has no column namespace, patient_id, store, image_id"):
        prepare("table", table, exclude=[tmp_path / "list.csv"], out=tmp_path / "store")
    (tmp_path / "list.csv").write_text("namespace,patient_id,store,image_id\n,1,,\n")
    with pytest.raises(PacxError, match="All 1 rows of t are on the lists"):
        prepare("table", table, exclude=[tmp_path / "list.csv"], out=tmp_path / "store")
    assert not (tmp_path / "audit").exists() and not (tmp_path / "store").exists()
