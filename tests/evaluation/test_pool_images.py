"""Pools of what was judged image by image: means over students, compared in the report like one encoder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_runs
from report_runs import SKILL

from pacx.errors import PacxError
from pacx.evaluation.members import read_member
from pacx.evaluation.pool import pool
from pacx.evaluation.pool_images import pool_attention
from pacx.evaluation.report import describe
from pacx.evaluation.reporting.collect import collect
from pacx.runs import read_result, write_json

STUDENTS = ("pacx-0", "pacx-1")


@pytest.fixture(autouse=True)
def _skill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SKILL, "pacx-0", 1.0)
    monkeypatch.setitem(SKILL, "pacx-1", 1.4)


def judge(root: Path, command: str, name: str) -> Path:
    make = {"align": report_runs.align, "explain": report_runs.explain, "segment": report_runs.segment}[command]
    make(root, name)
    run = root / f"{'lungs' if command == 'segment' else command}-{name}"
    content = read_result(run)
    content["inputs"]["encoder"] = {"path": f"{root}/{name}/encoder", "name": name, "hash": f"weights of {name}"}
    write_json(run / "result.json", content)
    return run


@pytest.mark.parametrize(
    ("command", "table", "column", "part"),
    [
        ("align", "alignment", "cosine_centred", "alignment"),
        ("explain", "mass", "mass", "attention"),
        ("segment", "scores", "dice", "segmentation"),
    ],
)
def test_an_image_counts_with_its_mean_over_students(
    tmp_path: Path, command: str, table: str, column: str, part: str
) -> None:
    judge(tmp_path, command, "mae")
    runs = [judge(tmp_path, command, name) for name in STUDENTS]
    content = pool(runs=runs, out=tmp_path / "pool", draws=50)
    assert (content["results"]["encoder_name"], content["results"]["of"]) == ("pacx", command)
    single = [pd.read_parquet(run / f"{table}.parquet") for run in runs]
    pooled = pd.read_parquet(tmp_path / "pool" / f"{table}.parquet")
    assert pooled[column].to_numpy() == pytest.approx((single[0][column] + single[1][column]).to_numpy() / 2)
    found = describe(collect([tmp_path], out=tmp_path / "report"), title="Pooled")[part]
    assert [one["encoder"] for one in found[0]["encoders"]] == ["mae", "pacx"]
    assert found[0]["differences"] and all(row["encoder"] == "pacx" for row in found[0]["differences"])


def test_numbers_of_pools_are_those_of_their_tables(tmp_path: Path) -> None:
    aligned = pool(runs=[judge(tmp_path, "align", name) for name in STUDENTS], out=tmp_path / "a", draws=50)
    table = pd.read_parquet(tmp_path / "a" / "alignment.parquet")
    ecg = aligned["results"]["teachers"]["ecg"]
    assert ecg["cosine_centred"]["value"] == pytest.approx(table[table["teacher"] == "ecg"]["cosine_centred"].mean())
    assert ecg["retrieval"]["image_to_teacher"]["chance"] == {"r10": 0.05}
    explained = pool(runs=[judge(tmp_path, "explain", name) for name in STUDENTS], out=tmp_path / "e", draws=50)
    single = [read_result(tmp_path / f"explain-{name}")["results"] for name in STUDENTS]
    for region in ("heart", "lung"):
        values = [one["mass"][region]["value"] for one in single]
        assert explained["results"]["mass"][region]["value"] == pytest.approx(np.mean(values))
        assert explained["results"]["sd_over_runs"][region] == pytest.approx(np.std(values, ddof=1))
    gains = [one["faithfulness"]["deletion_gain"]["value"] for one in single]
    assert explained["results"]["faithfulness"]["deletion_gain"]["value"] == pytest.approx(np.mean(gains))


def as_fold(run: Path, fold: int, *, num_images: int, table: str) -> Path:
    """Make of a run the fold of a cross-validation: other patients, fewer of them."""
    rows = pd.read_parquet(run / f"{table}.parquet")
    rows = rows[rows["image_id"].isin([f"i{i}" for i in range(num_images)])]
    rows = rows.assign(image_id=f"f{fold}-" + rows["image_id"], patient_id=f"f{fold}-" + rows["patient_id"])
    rows.to_parquet(run / f"{table}.parquet")
    content = read_result(run)
    content["inputs"]["store"] = {"name": "phantom", "hash": f"fold {fold}", "split_hash": f"fold {fold}"}
    content["results"]["num_images"] = num_images
    write_json(run / "result.json", content)
    return run


def test_images_of_pooled_explanations_are_counted_once(tmp_path: Path) -> None:
    """Not once per region, nor per run."""
    runs = [
        as_fold(judge(tmp_path / str(seed), "explain", name), fold, num_images=number, table="mass")
        for seed in range(2)
        for fold, (name, number) in enumerate(zip(STUDENTS, (30, 19), strict=True))
    ]
    for number, run in enumerate(runs):
        content = read_result(run)
        content["inputs"]["encoder"]["hash"] = f"weights {number}"
        write_json(run / "result.json", content)
    both = pool(runs=runs[:2], out=tmp_path / "folds", draws=20)["results"]
    assert both["num_images"] == 49 == pd.read_parquet(tmp_path / "folds" / "mass.parquet")["image_id"].nunique()
    assert pool(runs=runs, out=tmp_path / "all", draws=20)["results"]["num_images"] == 49
    assert pool(runs=runs[::2], out=tmp_path / "seeds", draws=20)["results"]["num_images"] == 30


def test_images_without_masks_are_counted_too(tmp_path: Path) -> None:
    members = []
    for fold, (name, number) in enumerate(zip(STUDENTS, (30, 19), strict=True)):
        run = as_fold(judge(tmp_path, "explain", name), fold, num_images=number, table="mass")
        pd.read_parquet(run / "mass.parquet").iloc[:0].to_parquet(run / "mass.parquet")
        content = read_result(run)
        content["results"].update(mass={}, area={})
        write_json(run / "result.json", content)
        members.append(replace(read_member(run, tables={"explain": "mass"}), fold=fold))
    assert pool_attention(members, 20)[0]["num_images"] == 49


def without_masks(run: Path) -> Path:
    pd.read_parquet(run / "mass.parquet").iloc[:0].to_parquet(run / "mass.parquet")
    content = read_result(run)
    content["results"].update(mass={}, area={}, excess={})
    write_json(run / "result.json", content)
    return run


def test_folds_without_masks_are_told_apart_by_the_images_of_their_curves(tmp_path: Path) -> None:
    runs = []
    for fold, (name, number) in enumerate(zip(STUDENTS, (30, 19), strict=True)):
        run = as_fold(judge(tmp_path, "explain", name), fold, num_images=number, table="curves")
        runs.append(without_masks(run))
    found = pool(runs=runs, out=tmp_path / "pool", draws=20)["results"]
    assert found["protocol"]["pooled"] == "folds" and found["num_images"] == 49 and found["mass"] == {}
    assert pd.read_parquet(tmp_path / "pool" / "curves.parquet")["image_id"].str[:2].nunique() == 2


def test_attention_that_measured_nothing_cannot_be_pooled(tmp_path: Path) -> None:
    runs = [without_masks(judge(tmp_path, "explain", name)) for name in STUDENTS]
    for run in runs:
        (run / "curves.parquet").unlink()
    with pytest.raises(PacxError, match="measured nothing that could be pooled: its store has no masks"):
        pool(runs=runs, out=tmp_path / "pool", draws=20)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"head": {"task": "copd"}}, "task (heart_failure and copd)"), ({"split": "val"}, "split (test and val)")],
)
def test_explanations_of_other_questions_or_images_are_not_pooled(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    runs = [judge(tmp_path, "explain", name) for name in STUDENTS]
    content = read_result(runs[1])
    content["results"].update(change)
    write_json(runs[1] / "result.json", content)
    with pytest.raises(PacxError, match=re.escape(named)):
        pool(runs=runs, out=tmp_path / "pool", draws=20)


def test_chance_of_pooled_retrieval_is_what_folds_at_chance_score(tmp_path: Path) -> None:
    sizes = dict(zip(STUDENTS, (150, 20), strict=True))
    runs = []
    for fold, (name, number) in enumerate(sizes.items()):
        run = as_fold(judge(tmp_path, "align", name), fold, num_images=number, table="alignment")
        levels = {f"r{k}": k / number for k in (1, 5, 10)}
        pd.read_parquet(run / "alignment.parquet").assign(**levels).to_parquet(run / "alignment.parquet")
        content = read_result(run)
        for teacher in content["results"]["teachers"].values():
            teacher["retrieval"] = {"image_to_teacher": {"chance": levels, "n": number}}
        write_json(run / "result.json", content)
        runs.append(run)
    for teacher in pool(runs=runs, out=tmp_path / "pool", draws=20)["results"]["teachers"].values():
        found = teacher["retrieval"]["image_to_teacher"]
        assert found["n"] == teacher["n_test"] == 170
        assert found["chance"] == pytest.approx({key: found[key]["value"] for key in ("r1", "r5", "r10")})
        assert found["chance"]["r10"] == pytest.approx(20 / 170)


def test_masks_of_two_organs_are_not_pooled(tmp_path: Path) -> None:
    runs = [judge(tmp_path, "segment", name) for name in STUDENTS]
    content = read_result(runs[1])
    content["results"]["mask"] = "heart"
    write_json(runs[1] / "result.json", content)
    with pytest.raises(PacxError, match=r"settings differ: mask \(lung and heart\)"):
        pool(runs=runs, out=tmp_path / "pool", draws=20)
