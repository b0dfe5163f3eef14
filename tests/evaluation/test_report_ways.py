"""Fine-tuned encoders in the report: what they are called alone, and beside linear probes."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import report_runs

from pacx.evaluation.pool import pool
from pacx.evaluation.report import report
from pacx.evaluation.reporting.encoders import display_name

QUICK = {"num_test": 40, "draws": 10}


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    report_runs.finetune(root, "mae", **QUICK)
    report_runs.finetune(root, "pacx", **QUICK, label="ours")
    report(runs=[root], out=root / "report", baseline="mae-finetuned")
    return root / "report"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    report_runs.finetune(root, "mae", **QUICK)  # first: the order of runs decides nothing
    report_runs.finetune(root, "pacx", **QUICK, label="ours")
    for name in ("mae", "pacx"):
        report_runs.probe(root, name, **QUICK)
    report(runs=[root], out=root / "report")
    return root / "report"


def test_a_page_of_fine_tuned_encoders_does_not_speak_of_probes(tuned: Path) -> None:
    page, markdown, latex = (text(tuned, name) for name in ("report.html", "report.md", "report.tex"))
    assert '<h2 id="h-probes">Fine-tuning</h2>' in page
    assert '<a href="#probes">Fine-tuning</a>' in page
    assert "AUROC of fine-tuned encoders, and the paired difference" in page
    assert "## Fine-tuning: phantom" in markdown and "## Fine-tuning by group of tasks: phantom" in markdown
    assert "Fine-tuning by group of tasks: phantom." in latex
    assert all("of linear probes" not in one and "Linear probes" not in one for one in (page, markdown, latex))
    assert "The encoder is frozen" not in page


def test_fine_tuned_encoders_beside_probes_are_marked(mixed: Path) -> None:
    page, markdown = text(mixed, "report.html"), text(mixed, "report.md")
    assert '<h2 id="h-probes">Linear probes and fine-tuning</h2>' in page
    assert "AUROC of linear probes and fine-tuned encoders, and the paired difference" in page
    heads = re.search(r"^\| task \| labels \|.*$", markdown, flags=re.MULTILINE)
    assert heads
    names = [name.strip() for name in heads[0].strip("|").split("|")]
    assert names[2:6] == ["MAE", "PaCX", "MAE fine-tuned", "ours (fine-tuned)"]
    probed = page[page.index('id="h-probes"') : page.index('id="reading"')]
    assert "ours (fine-tuned)" in probed
    assert not re.search(r">ours<", probed)


def test_fine_tuned_arms_say_so_and_probed_ones_do_not(mixed: Path) -> None:
    rows = {line.split(" | ")[0]: line for line in text(mixed, "arms.md").splitlines() if line.startswith("| ")}
    assert rows["| ours"].startswith("| ours | 1 run, fine-tuned |")
    assert rows["| PaCX"].startswith("| PaCX | 1 run |")
    assert "1 run, fine-tuned" in text(mixed, "report.html")
    arms = read(mixed)["arms"][0]["arms"]
    assert [one["encoder"] for one in arms if one["fine_tuned"]] == ["mae-finetuned", "ours"]


def test_the_protocol_is_kept_by_encoder(mixed: Path, tuned: Path) -> None:
    numbers = read(mixed)
    protocols = {label: one["name"] for label, one in numbers["probes"][0]["protocols"].items()}
    assert protocols == {"mae": "honest", "pacx": "honest", "mae-finetuned": "finetune", "ours": "finetune"}
    assert numbers["probes"][0]["protocol"] == {"name": "honest"}
    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    for folder in (mixed, tuned):
        jsonschema.validate(read(folder), schema)


def test_findings_say_which_encoder_was_fine_tuned(tuned: Path) -> None:
    statements = [one["statement"] for one in read(tuned)["findings"]]
    assert statements
    assert all(one.startswith("Ours (fine-tuned) against MAE fine-tuned on ") for one in statements)


def test_a_probe_and_a_fine_tuning_of_one_label_are_told_apart(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", **QUICK, measured=False)
    report_runs.finetune(tmp_path, "mae", **QUICK, label="mae")
    for folder, task in (("probe-mae", "copd"), ("finetune-mae", "nodule")):  # so no question is asked twice
        path = tmp_path / folder / "result.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["results"]["summary"] = [row for row in content["results"]["summary"] if row["task"] == task]
        path.write_text(json.dumps(content), encoding="utf-8")
        predictions = path.with_name("predictions.parquet")
        pd.read_parquet(predictions).query("task == @task").to_parquet(predictions)
    report(runs=[tmp_path], out=tmp_path / "report")
    protocols = read(tmp_path / "report")["probes"][0]["protocols"]
    assert sorted(one["name"] for one in protocols.values()) == ["finetune", "honest"]


def test_a_pool_of_fine_tunings_is_fine_tuned(tmp_path: Path) -> None:
    for seed in (0, 1):
        report_runs.finetune(tmp_path, f"pacx-{seed}", **QUICK, label=f"tuned-{seed}")
    pool(runs=[tmp_path / f"finetune-pacx-{seed}" for seed in (0, 1)], out=tmp_path / "pool", draws=10)
    report(runs=[tmp_path], out=tmp_path / "report")
    assert '<h2 id="h-probes">Fine-tuning</h2>' in text(tmp_path / "report", "report.html")


def test_names_say_fine_tuned_as_people_write_it() -> None:
    assert display_name("pacx-finetuned") == "PaCX fine-tuned"
