"""The table of arms: what it averages, what it compares, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import report_runs

from pacx.evaluation.comparison import compare_probes
from pacx.evaluation.report import report
from pacx.evaluation.reporting.group_scores import GroupScores
from pacx.runs import read_result
from pacx.statistics import auroc

ARMS = ["random", "mae", "pacx", "pacx-contrastive-only", "pacx-no-ecg", "pacx-shuffled"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = report_runs.make_arms(tmp_path_factory.mktemp("arms") / "study", ARMS[2:], num_test=48, draws=10)
    report(runs=[root], out=root / "report", title="Arms | and legs")
    return root


@pytest.fixture(scope="module")
def numbers(made: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((made / "report" / "report.json").read_text(encoding="utf-8"))
    return content


def arm(numbers: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in numbers["arms"][0]["arms"] if one["encoder"] == name)
    return found


def score(numbers: dict[str, Any], name: str, group: str, fraction: float) -> dict[str, Any]:
    columns = numbers["arms"][0]["columns"]
    place = next(i for i, one in enumerate(columns) if (one["group"], one["fraction"]) == (group, fraction))
    found: dict[str, Any] = arm(numbers, name)["scores"][place]
    return found


def test_an_arm_is_a_pool_and_its_members_are_not_shown_beside_it(numbers: dict[str, Any]) -> None:
    assert [one["encoder"] for one in numbers["arms"][0]["arms"]] == ARMS
    assert [one["label"] for one in numbers["encoders"]] == ARMS
    assert {row["run"] for row in numbers["probes"][0]["scores"]} == {
        "probe-random", "probe-mae", *(f"pool-{name}" for name in ARMS[2:]),
    }  # fmt: skip
    designs = [tuple(arm(numbers, name)[key] for key in ("pooled", "num_runs", "num_folds")) for name in ARMS]
    assert designs == [(None, 1, 1)] * 2 + [("seeds", 2, 1)] * 4


def test_a_column_is_the_mean_over_tasks_and_runs(made: Path, numbers: dict[str, Any]) -> None:
    tables = [pd.read_parquet(made / f"probe-pacx-{seed}" / "predictions.parquet") for seed in (0, 1)]
    tasks = [task for task, group in report_runs.TASKS.items() if group == "physiology"]
    means = [
        np.mean(
            [
                np.mean([auroc(own["target"], own["score"]) for _, own in rows.groupby("seed")])
                for _, rows in table[table["task"].isin(tasks) & (table["fraction"] == 0.1)].groupby("task")
            ]
        )
        for table in tables
    ]
    found = score(numbers, "pacx", "physiology", 0.1)
    assert found["value"] == pytest.approx(np.mean(means))
    assert found["sd_over_runs"] == pytest.approx(np.std(means, ddof=1))
    assert found["low"] < found["value"] < found["high"]
    assert score(numbers, "mae", "physiology", 0.1)["sd_over_runs"] is None


def test_the_difference_is_the_paired_one_of_the_probes(made: Path, numbers: dict[str, Any]) -> None:
    rows = numbers["probes"][0]["group_differences"]
    for name in ("pacx", "pacx-no-ecg", "random"):
        row = next(row for row in rows if (row["encoder"], row["group"], row["fraction"]) == (name, "physiology", 1.0))
        found = score(numbers, name, "physiology", 1.0)
        assert (
            found["difference"].items() >= {key: row[key] for key in ("difference", "low", "high", "p_value")}.items()
        )
        assert found["value"] == pytest.approx(row["value_a"])
    compared = compare_probes(made / "pool-pacx" / "predictions.parquet", made / "probe-mae" / "predictions.parquet")
    physiology = compared["task"].map(report_runs.TASKS).eq("physiology") & compared["fraction"].eq(1.0)
    mean = compared.loc[physiology, "difference"].mean()
    assert score(numbers, "pacx", "physiology", 1.0)["difference"]["difference"] == pytest.approx(mean)
    assert score(numbers, "mae", "physiology", 1.0)["difference"] is None


def test_a_column_is_over_the_tasks_that_can_be_scored(numbers: dict[str, Any]) -> None:
    tasks = {(one["group"], one["fraction"]): one["tasks"] for one in numbers["arms"][0]["columns"]}
    assert tasks["control", 0.01] == ["nodule"]  # no positive of `device` among so few labels
    assert tasks["control", 0.1] == ["nodule", "device"]


def test_what_distillation_says_is_averaged_over_an_arms_runs(made: Path, numbers: dict[str, Any]) -> None:
    training = arm(numbers, "pacx")["training"]
    assert training["runs"] == ["pacx-0", "pacx-1"]
    assert training["images_per_second"] == 100.5
    results = [read_result(made / name)["results"]["teachers"]["ecg"] for name in ("pacx-0", "pacx-1")]
    tens = [one["image_to_teacher"]["r10"]["value"] for one in results]
    assert training["retrieval"]["ecg"]["value"] == pytest.approx(np.mean(tens))
    assert training["retrieval"]["ecg"]["sd_over_runs"] == pytest.approx(np.std(tens, ddof=1))
    assert training["retrieval"]["ecg"]["chance"] == 0.05
    assert arm(numbers, "pacx-shuffled")["training"]["shuffled_teachers"]
    assert arm(numbers, "mae")["training"] is None


def test_many_arms_do_not_flood_the_findings(numbers: dict[str, Any]) -> None:
    spoken = [one["statement"].partition(" against")[0].partition(":")[0] for one in numbers["findings"]]
    assert not [one for one in spoken if one.startswith(("PaCX no ECG", "PaCX contrastive only"))]
    assert sum(one.startswith("PaCX (mean of 2 runs") for one in spoken) == 2
    retrieval = next(one for one in numbers["findings"] if one["topic"] == "Retrieval of the ECG teacher")
    assert retrieval["value"] == pytest.approx(arm(numbers, "pacx")["training"]["retrieval"]["ecg"]["value"])
    assert retrieval["statement"].count("negative control") == 1


def test_the_page_and_the_markdown_hold_the_same_table(made: Path, numbers: dict[str, Any]) -> None:
    page = (made / "report" / "report.html").read_text(encoding="utf-8")
    text = (made / "report" / "arms.md").read_text(encoding="utf-8")
    assert 'id="arms"' in page
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ARMS)
    assert len({line.count("|") for line in table}) == 1
    assert table[0].index("physiology (4), 1 %") < table[0].index("physiology (4), 100 %") < table[0].index("control")
    assert page.index('scope="colgroup" colspan="3">Physiology') < page.index('scope="colgroup" colspan="3">Control')
    value = f"{score(numbers, 'pacx', 'physiology', 1.0)['value']:.3f}"
    assert value in next(line for line in table if line.startswith("| PaCX | 2 seeds"))
    assert value in page[page.index('id="arms"') : page.index('id="probes"')]
    assert read_result(made / "report")["artefacts"]["arms"] == "arms.md"


def test_an_encoder_without_a_task_has_no_value_in_its_column(tmp_path: Path) -> None:
    for name in ("random", "mae", "pacx"):
        report_runs.probe(tmp_path, name, num_test=60, draws=20)
    folder = tmp_path / "probe-pacx"
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    content["results"]["summary"] = [row for row in content["results"]["summary"] if row["task"] != "nodule"]
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    report(runs=[tmp_path], out=tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert score(numbers, "pacx", "control", 1.0) is None
    assert score(numbers, "pacx", "physiology", 1.0)["value"] > 0.5
    lines = (tmp_path / "report" / "arms.md").read_text(encoding="utf-8").splitlines()
    cells = next(line for line in lines if line.startswith("| PaCX |")).split(" | ")
    heads = next(line for line in lines if line.startswith("| arm |")).split(" | ")
    empty = [head.strip("| ") for head, cell in zip(heads, cells, strict=True) if cell.strip("| ") == "–"]
    assert empty == ["control (1), 1 %", "control (2), 10 %", "control (2), 100 %"]


def test_encoders_are_averaged_over_the_training_subsets_that_both_have() -> None:
    ours, theirs = (report_runs.predictions(name, num_test=60) for name in ("pacx", "mae"))
    task = {"copd": "copd"}
    found = GroupScores({"a": ours, "b": theirs[theirs["seed"] == 0]}, draws=20)
    alone = GroupScores({"a": ours[ours["seed"] == 0], "b": theirs}, draws=20)
    assert found.difference("a", "b", task, fraction=0.1) == alone.difference("a", "b", task, fraction=0.1)
    assert found.score("a", task, fraction=0.1, among=["b"]) != found.score("a", task, fraction=0.1, among=["a"])


def test_two_encoders_need_no_table(tmp_path: Path) -> None:
    for name in ("random", "mae"):
        report_runs.probe(tmp_path, name, num_test=40, draws=20)
    report(runs=[tmp_path], out=tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["arms"] == []
    assert not (tmp_path / "report" / "arms.md").exists()
    assert 'id="arms"' not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_arms_follow_the_schema(numbers: dict[str, Any]) -> None:
    from importlib import resources

    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    jsonschema.validate(numbers, schema)
    broken = {**numbers, "arms": [{**numbers["arms"][0], "baseline": 3}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
