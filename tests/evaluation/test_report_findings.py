"""What the report's findings claim: of validation images that they are such, of negative controls that they are."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import report_runs

from pacx.evaluation.pool import pool
from pacx.evaluation.report import describe, report
from pacx.evaluation.reporting.collect import collect
from pacx.evaluation.reporting.lineage import control_runs

CHOSE = "validation images, which also chose the epoch"
QUICK = {"num_test": 40, "draws": 10}


def described(root: Path) -> dict[str, Any]:
    return describe(collect([root], out=root / "report"), title="A study")


def plain(path: Path) -> str:
    """The text of a page, or of LaTeX, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))).split())


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders probed on test images and segmented on validation images."""
    root = tmp_path_factory.mktemp("validated")
    report_runs.simulate(root)
    for name in ("mae", "pacx"):
        report_runs.probe(root, name, **QUICK, measured=False)
        report_runs.segment(root, name, split="val")
    report(runs=[root], out=root / "report")
    return root / "report"


def test_masks_scored_on_validation_images_are_nowhere_called_unseen(validated: Path) -> None:
    page, markdown, latex = (plain(validated / name) for name in ("report.html", "report.md", "report.tex"))
    for text in (page, markdown, latex):
        assert CHOSE in text
        assert "unseen images" not in text
    assert f"on 100 {CHOSE}." in page and f"on 100 {CHOSE}." in markdown  # the finding
    assert f"true lung masks on {CHOSE}; per image" in page  # the chart
    assert all(f"true lung masks on {CHOSE}; per image: overlap" in text for text in (page, markdown, latex))
    assert f"do not see; but masks of phantom were scored on {CHOSE}" in page


def test_masks_scored_on_validation_images_are_a_caution_where_they_are_shown(validated: Path) -> None:
    numbers = json.loads((validated / "report.json").read_text(encoding="utf-8"))
    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    jsonschema.validate(numbers, schema)
    (caution,) = numbers["cautions"]
    assert (caution["kind"], caution["stores"]) == ("validation_split", ["phantom"])
    assert caution["text"].startswith("Masks of phantom (lung) were scored on its validation images")
    assert numbers["segmentation"][0]["notes"] == [caution["text"]]
    assert numbers["probes"][0]["notes"] == []  # these were on test images
    warned = {one["topic"] for one in numbers["findings"] if one["caution"]}
    assert warned == {"Segmentation, lung"}
    assert f"> **Caution.** {caution['text']}" in (validated / "report.md").read_text(encoding="utf-8")
    assert f"% CAUTION: {caution['text']}" in (validated / "report.tex").read_text(encoding="utf-8")


def test_masks_scored_on_test_images_are_unseen_and_no_caution(tmp_path: Path) -> None:
    for name in ("mae", "pacx"):
        report_runs.segment(tmp_path, name)
    report(runs=[tmp_path], out=tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert numbers["cautions"] == []
    assert numbers["findings"][0]["statement"].endswith("on 100 unseen images.")
    assert "validation images" not in plain(tmp_path / "report" / "report.html")


def test_attention_on_other_than_test_images_is_a_caution_where_it_is_shown(tmp_path: Path) -> None:
    for name in ("mae", "pacx"):
        report_runs.explain(tmp_path, name, split="val")
        report_runs.segment(tmp_path, name)
    report(runs=[tmp_path], out=tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    jsonschema.validate(numbers, schema)
    (caution,) = numbers["cautions"]
    assert caution["kind"] == "explained_split" and "MAE on val images, PaCX on val images" in caution["text"]
    assert numbers["attention"][0]["notes"] == [caution["text"]]
    assert numbers["segmentation"][0]["notes"] == []
    assert {one["topic"]: one["caution"] for one in numbers["findings"]} == {
        "Attention on the heart": caution["text"], "Segmentation, lung": "",
    }  # fmt: skip
    assert caution["text"] in plain(tmp_path / "report" / "report.html")


def study(root: Path, *, encoders: tuple[str, ...] = ("ctrl",)) -> Path:
    """MAE beside a negative control whose name does not say so, in a folder of its own."""
    report_runs.probe(root, "mae", **QUICK, measured=False)
    report_runs.segment(root, "mae")
    report_runs.explain(root, "mae")
    for name in encoders:
        report_runs.distill(root / "study", name, shuffled=name == "ctrl")
        report_runs.probe(root / "study", name, **QUICK, measured=False)
        report_runs.segment(root / "study", name)
        report_runs.explain(root / "study", name)
    return root


def test_a_negative_control_in_a_folder_below_is_no_main_result(tmp_path: Path) -> None:
    found = described(study(tmp_path))
    assert found["distillation"][0]["run"] == "study/ctrl"
    assert found["arms"] == []
    about = [one for one in found["findings"] if "ctrl" in one["encoders"]]
    assert [one["topic"] for one in about] == ["Shuffled teachers, physiology tasks, 100 % of the labels"]
    assert "Ctrl (negative control: distilled from shuffled pairs) against MAE" in about[0]["statement"]


def test_a_control_and_a_true_encoder_of_one_label_are_told_apart(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", **QUICK, measured=False)
    for folder, shuffled in (("one", True), ("two", False)):
        report_runs.distill(tmp_path / folder, "pacx", shuffled=shuffled)
        report_runs.probe(tmp_path / folder, "pacx", **QUICK, measured=False)
    topics = {label: set() for label in ("pacx", "pacx (two/probe-pacx)")}
    for one in described(tmp_path)["findings"]:
        for label in topics.keys() & set(one["encoders"]):
            topics[label].add(one["topic"].partition(",")[0])
    assert topics["pacx"] == {"Shuffled teachers"}
    assert topics["pacx (two/probe-pacx)"] == {"Physiology tasks", "Control tasks"}


def test_a_fine_tuned_control_is_a_control_and_fresh_weights_of_its_architecture_are_not(tmp_path: Path) -> None:
    study(tmp_path, encoders=("ctrl", "pacx"))
    report_runs.finetune(tmp_path / "study", "ctrl", **QUICK)
    more = {"encoder_name": "fresh"}
    report_runs.probe(tmp_path, "random", **QUICK, measured=False, more=more)
    path = tmp_path / "probe-random" / "result.json"
    fresh = f"random:{tmp_path}/study/ctrl"
    path.write_text(path.read_text(encoding="utf-8").replace(f"random:{tmp_path}/mae/encoder:0", fresh))
    runs = collect([tmp_path], out=tmp_path / "report")
    assert control_runs(runs) - {"study/ctrl"} == {
        f"study/{run}" for run in ("probe-ctrl", "lungs-ctrl", "explain-ctrl", "finetune-ctrl")
    }


def test_a_pool_of_controls_is_a_control(tmp_path: Path) -> None:
    for name in ("ctrl-0", "ctrl-1"):
        report_runs.distill(tmp_path / "study", name, shuffled=True)
        report_runs.probe(tmp_path / "study", name, **QUICK, measured=False)
    pool(runs=[tmp_path / "study" / f"probe-ctrl-{seed}" for seed in (0, 1)], out=tmp_path / "pool-ctrl", draws=10)
    report_runs.probe(tmp_path, "mae", **QUICK, measured=False)
    about = [one["topic"] for one in described(tmp_path)["findings"] if "ctrl" in one["encoders"]]
    assert about == ["Shuffled teachers, physiology tasks, 100 % of the labels"]


def test_a_copied_control_counts_by_its_label(tmp_path: Path) -> None:
    study(tmp_path)
    path = tmp_path / "study" / "probe-ctrl" / "result.json"
    content = path.read_text(encoding="utf-8").replace(f"{tmp_path}/study/ctrl/encoder", "weights/best/encoder")
    path.write_text(content, encoding="utf-8")
    assert "study/probe-ctrl" in control_runs(collect([tmp_path], out=tmp_path / "report"))
