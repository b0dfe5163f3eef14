"""The report's tables: the same rows on the page, in Markdown and in LaTeX; measures and cautions in all of them."""

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
from report_runs import probe

from pacx.evaluation.pool import pool
from pacx.evaluation.report import describe, report
from pacx.evaluation.reporting.all_tables import all_tables
from pacx.evaluation.reporting.collect import collect
from pacx.evaluation.reporting.latex import escape_latex, latex_table
from pacx.evaluation.reporting.markdown import markdown_table
from pacx.evaluation.reporting.tables import ABSENT, Cell, Table, difference_cell, value_cell
from pacx.statistics import holm

SPLIT_A = {**report_runs.STORE, "split_hash": "aaaaaaaaaaaa"}
SPLIT_B = {"name": "phantom", "hash": "hash-of-another-store", "split_hash": "bbbbbbbbbbbb"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = report_runs.make_runs(tmp_path_factory.mktemp("tables") / "demo", num_test=80, draws=20)
    report(runs=[root], out=root / "report", title="50 % of_patients & {more}")
    return root / "report"


@pytest.fixture(scope="module")
def numbers(made: Path) -> dict[str, Any]:
    return read(made)


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_every_table_is_in_the_markdown_and_in_the_latex(made: Path, numbers: dict[str, Any]) -> None:
    tables = all_tables(numbers)
    kinds = [table.name for table in tables]
    assert kinds == [
        "arms-phantom", "groups-phantom", "probes-phantom", "measures-phantom", "subgroups-phantom",
        "alignment-phantom", "attention-phantom", "faithfulness-phantom", "segmentation-lung-phantom",
    ]  # fmt: skip
    markdown, latex = text(made, "report.md"), text(made, "report.tex")
    for table in tables:
        assert markdown_table(table) in markdown
        assert latex_table(table) in latex
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_numbers_on_the_page_are_those_of_the_tables(made: Path, numbers: dict[str, Any]) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", "\n", text(made, "report.html")))
    lines = set(map(str.strip, page.split("\n")))
    for table in all_tables(numbers):
        if not table.name.startswith("arms"):  # the page has it with heads over several columns
            missing = {cell.text for row in table.rows for cell in row} - lines
            assert not missing


def test_latex_is_balanced_escaped_and_rectangular(made: Path) -> None:
    latex = text(made, "report.tex")
    for name, number in (("table", 9), ("tabular", 10)):  # one of which is a command for cells of two lines
        assert latex.count(rf"\begin{{{name}}}") == latex.count(rf"\end{{{name}}}") == number
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.startswith("% 50 % of_patients & {more}\n")
    body = "\n".join(line for line in latex.splitlines() if not line.startswith(("%", r"\providecommand")))
    assert re.search(r"(?<!\\)%(?!$)", body, flags=re.MULTILINE) is None  # only after {!} at the end of a line
    assert re.search(r"(?<!\\)_", body) is None
    assert all(ord(sign) < 128 for sign in body)
    for tabular in re.findall(r"\\begin\{tabular\}\{(l+r*)\}(.*?)\\end\{tabular\}", body, flags=re.DOTALL):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(tabular[0])}


def test_latex_prints_what_was_written() -> None:
    assert escape_latex("a_b & 5 % of $x {y} #1 <z>") == r"a\_b \& 5 \% of \$x \{y\} \#1 \textless{}z\textgreater{}"
    assert escape_latex("x^2 ~ \\") == r"x\textasciicircum{}2 \textasciitilde{} \textbackslash{}"
    assert escape_latex("−0.1 [0.2]") == "$-$0.1 {[}0.2{]}"


def test_a_very_wide_table_has_its_intervals_below_and_names_its_rows_once() -> None:
    row = [Cell("a"), *[Cell("1", "[0, 2]; +1 [0, 2]", clear=True)] * 7]
    wide = latex_table(Table("t", "T", "", [*"abcdefgh"], [row, row], num_names=1)).splitlines()
    stacked = r"\pacxstack{1\\\scriptsize {[}0, 2{]}\\\scriptsize +1 {[}0, 2{]} $\bullet$}"
    assert wide[wide.index(r"\midrule") + 1] == " & ".join(["a", *[stacked] * 7]) + r" \\"
    named = latex_table(Table("t", "T", "", ["a", "b", "n"], [row[:3], row[:3]], num_names=2)).splitlines()
    first = named.index(r"\midrule") + 1
    assert (named[first][0], named[first + 1][:3]) == ("a", " & ")


def test_markdown_keeps_bars_and_tags_inside_their_cells() -> None:
    table = Table("t", "T", "About.", ["a|b", "n"], [[Cell("<b>x|y</b>\nz"), Cell("1", "[0, 2]", clear=True)]])
    assert markdown_table(table).splitlines() == [
        r"| a\|b | n |",
        "| :--- | ---: |",
        r"| &lt;b>x\|y&lt;/b> z | 1 [0, 2] ● |",
    ]


def test_a_name_that_repeats_stands_for_all_its_rows() -> None:
    rows = [[Cell(name), Cell("e"), Cell("1")] for name in "aabca"]
    assert Table("t", "T", "", ["x", "y", "n"], rows, num_names=2).spans == [2, 0, 1, 1, 1]
    assert Table("t", "T", "", ["x", "y", "n"], rows, num_names=1).spans == [1] * 5


def test_cells_say_what_is_known() -> None:
    assert value_cell({"value": 0.8, "low": 0.7, "high": 0.9}) == Cell("0.800", "[0.700, 0.900]")
    assert value_cell({"value": None, "low": None, "high": None}) == value_cell(None) == Cell(ABSENT)
    clear = {"difference": 0.02, "low": 0.01, "high": 0.03, "p_holm": 0.0004}
    assert difference_cell(clear) == Cell("+0.020", "[+0.010, +0.030], p < .001", clear=True)
    unclear = {"difference": 0.02, "low": -0.01, "high": 0.05}
    assert difference_cell(unclear, 1, factor=100) == Cell("+2.0", "[−1.0, +5.0]", clear=False)


def test_measures_of_the_probes_are_shown(made: Path, numbers: dict[str, Any]) -> None:
    probe = json.loads(text(made.parent / "probe-pacx", "result.json"))
    wanted = {"task": "copd", "fraction": 1.0, "subgroup_kind": "", "metric": "f1", "rule": "val_f1"}
    row = next(one for one in probe["results"]["measures"] if all(one[key] == item for key, item in wanted.items()))
    table = next(one for one in all_tables(numbers) if one.name == "measures-phantom")
    place = list(table.columns).index("F1 at validation threshold")
    shown = next(cells for cells in table.rows if (cells[0].text, cells[1].text) == ("COPD", "PaCX"))
    assert shown[place] == value_cell(row)
    assert shown[2].text == f"{row['positives']} of 80"
    page = text(made, "report.html")
    assert "F1 at validation threshold" in page
    assert "Share of positives at each predicted probability, COPD" in page


def test_the_family_of_the_adjusted_p_values_is_named(numbers: dict[str, Any]) -> None:
    table = next(one for one in all_tables(numbers) if one.name == "probes-phantom")
    assert "(Holm) over all questions of an encoder's column (17 of random init, 17 of PaCX" in table.notes[-1]
    rows = [row for row in numbers["probes"][0]["differences"] if row["encoder"] == "pacx"]
    assert len(rows) == 17
    assert all(row["p_value"] <= row["p_holm"] <= 1 for row in rows)


def test_an_undefined_task_is_a_dash_with_its_reason(numbers: dict[str, Any]) -> None:
    table = next(one for one in all_tables(numbers) if one.name == "probes-phantom")
    row = next(cells for cells in table.rows if (cells[0].text, cells[1].text) == ("Device", "1 %"))
    assert [cell.text for cell in row[2:]] == [ABSENT] * 7
    assert "Device, 1 %: no positive label in the training subset." in table.notes


def test_a_test_split_of_one_class_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", num_test=40, draws=10)
    path = tmp_path / "probe-mae" / "result.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for row in content["results"]["measures"]:
        if row["task"] == "copd":
            row |= {"value": None, "low": None, "high": None, "note": "one class in the test split"}
    path.write_text(json.dumps(content), encoding="utf-8")
    report(runs=[tmp_path], out=tmp_path / "report")
    table = next(one for one in all_tables(read(tmp_path / "report")) if one.name == "measures-phantom")
    row = next(cells for cells in table.rows if cells[0].text == "COPD")
    assert {cell.text for cell in row[3:]} == {ABSENT}
    assert "COPD, MAE: one class in the test split." in table.notes
    assert "COPD, MAE: one class in the test split." in text(tmp_path / "report", "report.html")


def test_runs_without_measures_have_no_table_of_them(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", num_test=40, draws=10, measured=False)
    report(runs=[tmp_path], out=tmp_path / "report")
    assert [one.name for one in all_tables(read(tmp_path / "report"))] == ["probes-phantom"]
    assert "All measures" not in text(tmp_path / "report", "report.html")


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("splits")
    report_runs.probe(root, "mae", num_test=40, draws=10, store=SPLIT_A)
    report_runs.probe(root, "pacx", num_test=40, draws=10, store=SPLIT_B)
    report(runs=[root], out=root / "report")
    return root / "report"


def test_runs_on_different_splits_of_a_data_set_are_not_compared_and_marked_everywhere(two_splits: Path) -> None:
    numbers = read(two_splits)
    assert [part["store"] for part in numbers["probes"]] == ["phantom (split aaaaaa)", "phantom (split bbbbbb)"]
    assert [part["differences"] for part in numbers["probes"]] == [[], []]
    assert numbers["findings"] == []
    caution = numbers["cautions"][0]["text"]
    assert caution.startswith("Runs on phantom used different splits of it: aaaaaa by probe-mae; bbbbbb by probe-pacx.")
    assert all(caution in part["notes"] for part in numbers["probes"])
    assert text(two_splits, "report.html").count("not compared: a test patient of one") == 5  # on top, and by section
    assert f"> **Caution.** {caution}" in text(two_splits, "report.md")
    assert "% CAUTION: Runs on phantom used different splits" in text(two_splits, "report.tex")


def test_the_same_content_with_another_split_is_another_store(tmp_path: Path) -> None:
    other = {**SPLIT_A, "split_hash": "cccccc"}
    for name, store in (("mae", SPLIT_A), ("pacx", other)):
        report_runs.probe(tmp_path, name, num_test=40, draws=10, store=store, measured=False)
    report(runs=[tmp_path], out=tmp_path / "report")
    assert [part["differences"] for part in read(tmp_path / "report")["probes"]] == [[], []]


def test_runs_on_one_split_raise_no_caution(numbers: dict[str, Any]) -> None:
    assert numbers["cautions"] == []
    assert {one["caution"] for one in numbers["findings"]} == {""}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seen")
    found = {"num_patients": 7, "num_test_patients": 20, "allowed": True, "checked": True, "unknown": []}
    report_runs.probe(root, "mae", num_test=40, draws=10, more={"seen_patients": {**found, "num_patients": 0}})
    report_runs.probe(root, "pacx", num_test=40, draws=10, more={"seen_patients": found})
    report(runs=[root], out=root / "report")
    return root / "report"


def test_an_encoder_that_knew_test_patients_is_marked_in_all_tables_charts_and_findings(seen: Path) -> None:
    numbers = read(seen)
    assert [(one["label"], one["name"]) for one in numbers["encoders"]] == [("mae", "MAE"), ("pacx", "PaCX †")]
    caution = numbers["cautions"][0]
    assert caution["kind"] == "seen_patients"
    assert caution["text"].startswith(
        "PaCX † was judged by probe-pacx on patients that it had been trained on: 7 of 20"
    )
    assert numbers["findings"]
    assert {one["caution"] for one in numbers["findings"]} == {caution["text"]}
    page = text(seen, "report.html")
    assert 'class="caution"' in page
    assert page.count(caution["text"]) == 1 + len(numbers["findings"])
    tables = all_tables(numbers)
    for table in tables:
        words = [*table.columns, *(cell.text for row in table.rows for cell in row)]
        assert any("PaCX †" in word for word in words)
        assert "PaCX" not in words
        assert "trained on: 7 of 20" in text(seen, "report.tex").partition(f"tab:{table.name}")[0]


def test_members_of_a_pool_that_knew_test_patients_mark_it(tmp_path: Path) -> None:
    report_runs.make_arms(tmp_path, ["pacx"], num_test=40, draws=10)
    path = tmp_path / "probe-pacx-1" / "result.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["results"]["seen_patients"] = {"num_patients": 3, "allowed": True}
    path.write_text(json.dumps(content), encoding="utf-8")
    report(runs=[tmp_path], out=tmp_path / "report")
    assert [one["name"] for one in read(tmp_path / "report")["encoders"]] == ["random init", "MAE", "PaCX †"]


def test_a_pool_of_encoders_that_knew_test_patients_is_marked_once_with_its_runs_and_without(tmp_path: Path) -> None:
    for name in ("mae", "pacx-0", "pacx-1"):
        seen = {"num_patients": int(name[-1]) * 7 if name != "mae" else 0, "num_test_patients": 20}
        more = {"seen_patients": {**seen, "allowed": True, "checked": True, "unknown": []}}
        report_runs.probe(tmp_path, name, num_test=40, draws=10, measured=False, more=more)
    pool(runs=[tmp_path / f"probe-pacx-{seed}" for seed in range(2)], out=tmp_path / "pool-pacx", draws=10)
    pooled, others = [tmp_path / "probe-mae", tmp_path / "pool-pacx"], [tmp_path / f"probe-pacx-{s}" for s in range(2)]
    for number, runs in enumerate((pooled, [*pooled, *others])):
        report(runs=runs, out=tmp_path / f"report-{number}")
        numbers = read(tmp_path / f"report-{number}")
        assert [one["name"] for one in numbers["encoders"]] == ["MAE", "PaCX †"]
        (caution,) = numbers["cautions"]
        assert (caution["kind"], caution["encoders"]) == ("seen_patients", ["pacx"])
        assert caution["text"].startswith("PaCX † was judged by pool-pacx on patients")
        assert "7 of 20" in caution["text"]


def test_cautions_and_published_numbers_follow_the_schema(seen: Path, two_splits: Path) -> None:
    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    for folder in (seen, two_splits):
        jsonschema.validate(read(folder), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**read(seen), "cautions": [{"kind": "rumour", "text": ""}]}, schema)


def test_group_differences_are_adjusted_over_the_rows_of_an_encoder(numbers: dict[str, Any]) -> None:
    rows = [row for row in numbers["probes"][0]["group_differences"] if row["encoder"] == "pacx"]
    assert [row["p_holm"] for row in rows] == pytest.approx(holm([row["p_value"] for row in rows]))
    assert len(rows) == 6


def test_what_deletion_says_is_shown_with_the_difference_of_its_gain(numbers: dict[str, Any]) -> None:
    table = next(one for one in all_tables(numbers) if one.name == "faithfulness-phantom")
    cells = {row[0].text: row[1:] for row in table.rows}
    assert list(table.columns) == ["", "MAE", "PaCX", "PaCX: difference"]
    assert "Heart failure" in table.caption
    mae, pacx, difference = (float(cell.text.replace("−", "-")) for cell in cells["deletion: gain over random"])
    assert difference == pytest.approx(pacx - mae, abs=0.0011) and difference > 0
    assert cells["deletion: gain over random"][2].clear


def test_the_protocol_of_alignment_is_told(numbers: dict[str, Any]) -> None:
    table = next(one for one in all_tables(numbers) if one.name == "alignment-phantom")
    assert "honest: fitted on validation rows" in table.caption


def test_the_papers_protocol_and_the_honest_one_are_not_mixed(tmp_path: Path) -> None:
    for name in ("mae", "pacx"):
        probe(tmp_path / "honest", name, num_test=60, draws=20, measured=False)
        more = {"protocol": {"name": "paper"}}
        probe(tmp_path / "paper", name, num_test=60, draws=20, measured=False, more=more)
    found = describe(collect([tmp_path], out=tmp_path / "report"), title="Two protocols")
    assert [part["store"] for part in found["probes"]] == ["phantom", "phantom (paper protocol)"]
    assert all({row["encoder"] for row in part["scores"]} == {"mae", "pacx"} for part in found["probes"])
    alone = describe(collect([tmp_path / "paper"], out=tmp_path / "report"), title="One protocol")
    assert [part["store"] for part in alone["probes"]] == ["phantom"]


def test_a_split_with_patients_in_several_parts_is_a_caution(tmp_path: Path) -> None:
    leaking = {**report_runs.STORE, "crossing_patients": 7}
    for name in ("mae", "pacx"):
        probe(tmp_path, name, num_test=60, draws=20, measured=False, store=leaking)
    found = describe(collect([tmp_path], out=tmp_path / "report"), title="Leaking")
    (caution,) = found["cautions"]
    assert caution["kind"] == "leaking_split" and "phantom has 7 patients in several parts" in caution["text"]
    assert found["probes"][0]["notes"] == [caution["text"]]
