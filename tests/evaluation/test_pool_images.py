"""Pools of what was judged image by image: means over students, compared in the report like one encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_runs
from report_runs import SKILL

from pacx.errors import PacxError
from pacx.evaluation.pool import pool
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


def test_masks_of_two_organs_are_not_pooled(tmp_path: Path) -> None:
    runs = [judge(tmp_path, "segment", name) for name in STUDENTS]
    content = read_result(runs[1])
    content["results"]["mask"] = "heart"
    write_json(runs[1] / "result.json", content)
    with pytest.raises(PacxError, match=r"settings differ: mask \(lung and heart\)"):
        pool(runs=runs, out=tmp_path / "pool", draws=20)
