"""Every public data set: its miniature is prepared, half of it is refused, and a wrong root names the right one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pacx.data.manifest import SPLITS, validate
from pacx.data.prepare import prepare
from pacx.data.sources import SOURCES, Options, read_source, source_module
from pacx.data.sources.card import Card
from pacx.data.store import Store
from pacx.errors import PacxError

CARDS: dict[str, Card] = {name: source_module(name).CARD for name in SOURCES if hasattr(source_module(name), "CARD")}
PUBLIC = sorted(set(CARDS) - {"symile-mimic"})  # which has tests of its own
MASKED = {"covid-qu-ex": "lung", "cxl-seg": "lung", "qata-cov19": "infection"}


def more(name: str, root: Path) -> dict[str, Any]:
    """What a source needs beside its root."""
    return {"images": root / "mimic-cxr-jpg"} if name == "medmod" else {}


def options(name: str, root: Path, **given: Any) -> Options:
    return Options(partial=True, **more(name, root), **given)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_miniature_is_prepared_whole(miniature, tmp_path: Path, name: str) -> None:
    root = miniature(name)
    result = prepare(name, root, partial=True, size=32, workers=1, out=tmp_path / "store", **more(name, root))
    store = Store.open(tmp_path / "store")
    summary = result["results"]
    assert summary["rejects"] == 0
    assert summary["num_images"] == len(store) > 20
    filled = {split for split in SPLITS if summary["splits"][split]}
    assert filled == ({"train", "val"} if name == "chexpert" else set(SPLITS))  # it has no test split
    assert store.manifest.groupby("patient_id")["split"].nunique().max() == 1
    assert store.mask_names == ((MASKED[name],) if name in MASKED else ())
    assert (summary["num_masks"] == len(store)) == (name in MASKED)
    for task in store.tasks:
        labels = store.targets(task)
        assert np.nanmax(labels) >= 1 and np.nanmin(labels) == 0
    assert store.meta["license"] and store.meta["citation"]
    assert store.images.std(axis=(1, 2)).min() > 5


@pytest.mark.parametrize("name", [name for name in PUBLIC if CARDS[name].expected.rows])
def test_half_a_release_is_refused(miniature, name: str) -> None:
    root = miniature(name)
    wanted = CARDS[name].expected.rows
    with pytest.raises(PacxError, match=rf"not the full release of {name}: \d+ images in place of {wanted}.*--partial"):
        read_source(name, root, options=Options(**more(name, root)))


@pytest.mark.parametrize("name", [name for name in PUBLIC if CARDS[name].reference_split])
def test_the_published_split_differs_from_the_own_one(miniature, name: str) -> None:
    root = miniature(name)
    own, published = (read_source(name, root, options=options(name, root, split=one)) for one in ("own", "reference"))
    assert set(published.table["split"]) == set(SPLITS)
    both = own.table.merge(published.table, on="image_id", suffixes=("_own", "_published"))
    if name != "tb-shenzhen":
        assert (both["split_own"] != both["split_published"]).any()
    again = read_source(name, root, options=options(name, root, split="reference"))
    assert again.table["split"].tolist() == published.table["split"].tolist()


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("where", ["above", "below"])
def test_a_wrong_root_names_the_right_one(miniature, tmp_path: Path, name: str, where: str) -> None:
    root = tmp_path / "download" / "data"
    shutil.copytree(miniature(name), root)
    below = sorted(path for path in root.iterdir() if path.is_dir())[0]
    given = root.parent if where == "above" else below
    if (name, where) == ("covid-qu-ex", "below"):
        pytest.skip("its inner folder of the same name is a root as well")
    with pytest.raises(PacxError, match=f"is not the root of {name}.*Give {root} instead"):
        read_source(name, given, options=options(name, root))


@pytest.mark.parametrize("name", PUBLIC)
def test_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(PacxError, match=f"is not the root of {name}: .* not in it"):
        read_source(name, tmp_path, options=options(name, tmp_path))
    (tmp_path / "archive.zip").write_bytes(b"PK\x05\x06" + b"\0" * 18)
    with pytest.raises(PacxError, match=r"packed files in it \(archive\.zip\): unpack them"):
        read_source(name, tmp_path, options=options(name, tmp_path))
    with pytest.raises(PacxError, match=r"is a zip file\. Unpack it first"):
        read_source(name, tmp_path / "archive.zip", options=options(name, tmp_path))


@pytest.mark.parametrize("name", ["nih", "vindr", "cxl-seg", "mimic-cxr-jpg"])
def test_rows_whose_files_are_missing_are_left_out_and_counted(
    miniature, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    shutil.copytree(miniature(name), root)
    before = read_source(name, root, options=options(name, root))
    gone = before.table["path"].iloc[[0, 3]]
    for path in gone:
        (root / path).unlink()
    after = read_source(name, root, options=options(name, root))
    assert len(after.table) == len(before.table) - 2
    assert not set(gone) & set(after.table["path"])
    assert f"2 of {len(before.table)} images of {name} (or their masks) are not there" in caplog.text
    validate(after)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_what_is_known_of_a_data_set_is_complete_and_adds_up(name: str) -> None:
    card, module = CARDS[name], source_module(name)
    assert card.title and card.where and card.license and card.citation and card.use
    for heading in ("What:", "Labels:", "Who may get it:", "Known faults", "Citation:"):
        assert heading in module.__doc__
    for expected in (card.expected, *card.expected_of_part.values()):
        splits = sum(expected.splits.values())
        assert expected.rows is None or splits <= expected.rows
        if set(expected.splits) == set(SPLITS):
            assert splits == expected.rows
    assert bool(card.reference_split) == ("--split reference" in module.__doc__)


def test_options_that_a_source_does_not_have_are_refused(miniature) -> None:
    with pytest.raises(PacxError, match=r"'covid-qu-ex' has no use for --split\. It takes: --folds, --partial\."):
        read_source("covid-qu-ex", miniature("covid-qu-ex"), options=Options(split="reference"))
