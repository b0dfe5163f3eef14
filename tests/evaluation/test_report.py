"""The report: what it says, what it must not say, and what it does with awkward runs."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import report_runs
import yaml

import pacx.evaluation.report
from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_probes
from pacx.evaluation.report import report
from pacx.evaluation.reporting.charts import nice_scale, tight_scale
from pacx.evaluation.reporting.collect import without_machine_paths
from pacx.evaluation.reporting.encoders import describe_encoders, display_name
from pacx.evaluation.reporting.group_scores import GroupScores
from pacx.evaluation.reporting.wording import count, decimal, duration, signed, verdict
from pacx.runs import open_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs and a report over them."""
    root = report_runs.make_runs(tmp_path_factory.mktemp("secret-place") / "demo")
    report(runs=[root], out=root / "report", title="A <title> & more", about="Small data.\n<script>alert(1)</script>")
    return root


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    return (made / "report" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def numbers(made: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((made / "report" / "report.json").read_text(encoding="utf-8"))
    return content


def mean_difference(a: pd.DataFrame, b: pd.DataFrame, tasks: dict[str, str], *, fraction: float) -> dict[str, Any]:
    return GroupScores({"a": a, "b": b}).difference("a", "b", tasks, fraction=fraction)


def rows(table: list[dict[str, Any]], **wanted: object) -> list[dict[str, Any]]:
    return [row for row in table if all(row[key] == value for key, value in wanted.items())]


def test_report_json_follows_its_schema(numbers: dict[str, Any]) -> None:
    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(numbers, schema)
    broken = {**numbers, "baseline": 3}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_page_asks_nothing_from_the_network_and_needs_no_script(page: str) -> None:
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert sources
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    assert "<script" not in page
    assert "@import" not in page
    assert len(page.encode()) < 5_000_000


def test_text_of_users_and_runs_is_escaped(page: str) -> None:
    assert "A &lt;title&gt; &amp; more" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_no_path_of_the_machine_leaves_it(made: Path, page: str) -> None:
    for text in (page, (made / "report" / "report.json").read_text(encoding="utf-8")):
        assert "secret-place" not in text
        assert str(made) not in text


class _Outline(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.missing: list[str] = []
        self.ids: list[str] = []
        self.tables = self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in {"meta", "img", "br", "link", "input"}:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [str(given["id"])] if "id" in given else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag == "img" and not given.get("alt"):
            self.missing.append("alt")
        if (
            tag == "svg"
            and given.get("role") == "img"
            and not (given.get("aria-label") or given.get("aria-labelledby"))
        ):
            self.missing.append("label of a chart")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_accessible(page: str) -> None:
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.missing == []
    assert outline.headings.count(1) == 1
    steps = [after - before for before, after in zip(outline.headings, outline.headings[1:], strict=False)]
    assert max(steps) <= 1
    assert outline.tables == outline.captions > 5
    assert len(outline.ids) == len(set(outline.ids))
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(outline.ids)
    assert '<html lang="en">' in page


def test_encoders_are_named_after_the_steps_of_the_recipe(numbers: dict[str, Any]) -> None:
    assert [(one["label"], one["name"]) for one in numbers["encoders"]] == [
        ("random", "random init"),
        ("mae", "MAE"),
        ("pacx", "PaCX"),
        ("pacx-shuffled", "PaCX shuffled"),
    ]
    segmented = [one["encoder"] for one in numbers["segmentation"][0]["encoders"]]
    assert segmented == ["random", "mae", "pacx"]  # those runs say only where the encoder is
    assert numbers["baseline"] == "mae"


def test_differences_are_those_of_the_paired_comparison(made: Path, numbers: dict[str, Any]) -> None:
    expected = compare_probes(
        made / "probe-pacx" / "predictions.parquet", made / "probe-mae" / "predictions.parquet"
    ).set_index(["task", "fraction"])
    found = rows(numbers["probes"][0]["differences"], encoder="pacx", baseline="mae")
    assert len(found) == len(expected) == 17  # 6 tasks x 3 fractions, one of which has no positive label
    for row in found:
        for key in ("difference", "low", "high"):
            assert row[key] == pytest.approx(expected.loc[(row["task"], row["fraction"]), key])


def test_the_mean_difference_of_one_task_equals_the_difference_of_that_task() -> None:
    a, b = (report_runs.predictions(name, num_test=80) for name in ("pacx", "mae"))
    one = compare_probes(a, b).query("task == 'copd' and fraction == 0.1").iloc[0]
    mean = mean_difference(a, b, {"copd": "copd"}, fraction=0.1)
    for key in ("value_a", "value_b", "difference", "low", "high", "p_value"):
        assert mean[key] == pytest.approx(one[key], abs=1e-12)


def test_the_mean_difference_keeps_tasks_of_the_same_patients_together() -> None:
    a, b = (report_runs.predictions(name, num_test=80) for name in ("pacx", "mae"))
    twin = [pd.concat([table, table.assign(task="twin")]) for table in (a, b)]
    alone = mean_difference(a, b, {"copd": "copd"}, fraction=1.0)
    twins = [table[table["task"].isin(["copd", "twin"])].assign(label="copd") for table in twin]
    twins = [
        pd.concat([table[table["task"] == "copd"], table[table["task"] == "copd"].assign(task="twin")])
        for table in twins
    ]
    both = mean_difference(*twins, {"copd": "copd", "twin": "copd"}, fraction=1.0)
    # A copy of a task adds no information: independent draws would have narrowed the interval by a factor of 1.4.
    assert (both["low"], both["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_findings_name_the_direction_also_when_it_is_unwelcome(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", num_test=160, draws=50)
    report_runs.probe(tmp_path, "pacx", num_test=160, draws=50)
    report(runs=[tmp_path], out=tmp_path / "turned", baseline="pacx")
    found = json.loads((tmp_path / "turned" / "report.json").read_text(encoding="utf-8"))["findings"]
    first = next(one for one in found if one["topic"] == "Physiology tasks, 100 % of the labels")
    assert first["verdict"] == "lower"
    assert first["judgement"] == "lower"
    assert first["value"] < first["high"] < 0
    assert first["statement"].startswith("MAE against PaCX on 4 physiology tasks")
    controls = [one for one in found if one["topic"].startswith("Control tasks")]
    assert {one["verdict"] for one in controls} == {"unclear"}


def test_the_negative_control_is_set_beside_chance(numbers: dict[str, Any], page: str) -> None:
    shuffled = next(run for run in numbers["distillation"] if run["shuffled_teachers"])
    way = shuffled["teachers"]["ecg"]["image_to_teacher"]
    assert way["r10"]["low"] < way["chance"]["r10"] < way["r10"]["high"]
    found = next(one for one in numbers["findings"] if one["topic"] == "Retrieval of the ECG teacher")
    assert found["judgement"] == "above chance"
    assert "negative control, PaCX shuffled" in found["statement"]
    assert "chance is 5.0 %" in page


def test_an_undefined_score_is_shown_as_absent_with_its_reason(numbers: dict[str, Any], page: str) -> None:
    score = rows(numbers["probes"][0]["scores"], encoder="mae", task="device", fraction=0.01)[0]
    assert score["value"] is None
    assert score["notes"] == ["no positive label in the training subset"]
    assert "n/a: no positive label in the training subset" in page
    assert not rows(numbers["probes"][0]["differences"], task="device", fraction=0.01)


def test_sections_appear_only_for_the_runs_that_are_given(tmp_path: Path, page: str) -> None:
    report_runs.pretrain(tmp_path / "runs")
    report(runs=[tmp_path / "runs" / "mae"], out=tmp_path / "out")
    small = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for section in ("probes", "alignment", "teachers", "attention", "segmentation", "data"):
        assert f'id="{section}"' in page
        assert f'id="{section}"' not in small
    assert 'id="training"' in small
    assert "Loss of mae by epoch" in small


def test_other_reports_and_the_own_folder_are_left_out(made: Path, tmp_path: Path) -> None:
    result = report(runs=[made, made / "mae"], out=tmp_path / "again")
    assert result["results"]["num_runs"] == len(list(made.glob("*/result.json"))) - 1


def test_what_an_older_run_did_not_report_is_tolerated_but_another_schema_is_not(tmp_path: Path) -> None:
    with open_run(tmp_path / "old", command="distill", config={}) as run:
        run.finish({})
    with open_run(tmp_path / "probe", command="probe", config={"encoder": "x/pacx/encoder"}) as run:
        run.finish({"scores": []})
    report(runs=[tmp_path], out=tmp_path / "out")
    path = tmp_path / "old" / "result.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(PacxError, match="schema version 9"):
        report(runs=[tmp_path], out=tmp_path / "out2")


def test_probes_of_other_images_are_not_compared_and_the_page_says_so(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", num_test=80, draws=20)
    report_runs.probe(tmp_path, "pacx", num_test=60, draws=20)
    report(runs=[tmp_path], out=tmp_path / "out")
    assert "pacx could not be compared with mae" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_two_runs_of_one_label_are_told_apart(tmp_path: Path) -> None:
    for place in ("first", "second"):
        report_runs.probe(tmp_path / place, "mae", num_test=40, draws=20)
    result = report(runs=[tmp_path], out=tmp_path / "out")
    assert result["results"]["encoders"] == ["mae", "mae (second/probe-mae)"]


def test_a_figure_outside_of_its_run_is_not_shown(tmp_path: Path) -> None:
    report_runs.pretrain(tmp_path / "runs")
    secret = tmp_path / "secret.png"
    (tmp_path / "runs" / "mae" / "figures" / "reconstructions.png").rename(secret)
    path = tmp_path / "runs" / "mae" / "result.json"
    path.write_text(path.read_text(encoding="utf-8").replace("figures/reconstructions.png", "../../secret.png"))
    report(runs=[tmp_path / "runs"], out=tmp_path / "out")
    assert "<img" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="is no folder"):
        report(runs=[tmp_path / "absent"], out=tmp_path / "out")
    with pytest.raises(PacxError, match="no finished run"):
        report(runs=[tmp_path], out=tmp_path / "out")
    report_runs.segment(tmp_path, "mae")
    with pytest.raises(PacxError, match=r"'imagenet'.*Labels in these runs: mae"):
        report(runs=[tmp_path], out=tmp_path / "out", baseline="imagenet")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def recipe(page: str) -> Iterator[dict[str, Any]]:
    text = re.search(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)
    assert text
    yield yaml.safe_load(html.unescape(text[1]))


def test_the_recipe_on_the_page_refers_to_its_own_steps(recipe: dict[str, Any]) -> None:
    steps = recipe["steps"]
    assert steps["mae"]["store"] == "{cohort}"
    assert steps["pacx"] == {
        "command": "distill",
        "store": "{cohort}",
        "encoder": "{mae}/encoder",
        "shuffle_teachers": False,
        "banks": ["{ecg-bank}", "{labs-bank}"],
    }
    assert steps["probe-random"]["encoder"] == "random:{mae}/encoder:0"
    assert list(steps)[-1] == "report"


def test_numbers_are_written_as_people_read_them() -> None:
    assert decimal(-0.0312) == "−0.031"
    assert decimal(None) == decimal(np.nan) == "n/a"
    assert [signed(value) for value in (0.0316, -0.0004, -0.02)] == ["+0.032", "0.000", "−0.020"]
    assert [duration(value) for value in (3.21, 59.7, 134, 7384)] == ["3.2 s", "1 min 00 s", "2 min 14 s", "2 h 03 min"]
    assert count(1234567) == "1\u202f234\u202f567"
    assert display_name("pacx-labs_only (b/probe)") == "PaCX labs only (b/probe)"


def test_the_time_of_a_report_holds_the_comparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report_runs.segment(tmp_path, "mae")
    monkeypatch.setattr(pacx.evaluation.report, "time", SimpleNamespace(time=lambda: 1000.0))  # read before all else
    assert report(runs=[tmp_path], out=tmp_path / "report")["started"] == "1970-01-01T00:16:40+00:00"


def test_known_arms_come_first_and_numbers_in_names_count_by_their_value() -> None:
    labels = ["pairs-1000", "²", "pairs-300", "noise-1", "noise-0.5", "pacx", "pairs-100", "mae", "pairs-300-b"]
    shown = [one["label"] for one in describe_encoders(labels)]
    assert shown[:2] == ["mae", "pacx"]
    assert shown[2:] == ["noise-0.5", "noise-1", "pairs-100", "pairs-300", "pairs-300-b", "pairs-1000", "²"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "higher"),
        (-0.2, -0.01, "lower"),
        (-0.1, 0.1, "unclear"),
        (0.0, 0.1, "unclear"),
        (None, 1, "unknown"),
    ],
)
def test_an_interval_that_touches_zero_is_unclear(low: float | None, high: float, expected: str) -> None:
    assert verdict({"low": low, "high": high}) == expected


def test_scales_have_round_ticks_around_all_values() -> None:
    scale = nice_scale([0.52, 0.897, None, float("nan")], include=(0.5,))
    assert scale.ticks == (0.5, 0.6, 0.7, 0.8, 0.9)
    assert tight_scale([0.52, 0.897]).ticks == (0.6, 0.7, 0.8)
    assert scale.across(0.5) < scale.across(0.52) < scale.across(0.897) < scale.across(0.9)


def test_absolute_paths_are_cut_and_fractions_are_not() -> None:
    cut = without_machine_paths(
        {"a": "/home/me/data/x.csv", "b": ["mg/l, 3/4 and/or", "see /home/me/runs/log.txt"], "c": "C:\\Users\\me\\x"}
    )
    assert cut == {"a": "…/x.csv", "b": ["mg/l, 3/4 and/or", "see …/log.txt"], "c": "…/x"}
