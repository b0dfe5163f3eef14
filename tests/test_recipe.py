"""Recipes: checked before they run, skipped when done, resumed when interrupted."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pacx.commands import COMMANDS, Command
from pacx.errors import PacxError
from pacx.recipe import run
from pacx.runs import open_run, read_result

CALLS: list[str] = []
FAIL: set[str] = set()


def note(
    *,
    out: Path,
    text: str = "",
    source: Path | None = None,
    sources: list[Path] | None = None,
    workers: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Note a text.

    Args:
        out: the folder.
        text: what is noted.
        source: a folder to read.
        sources: folders to read.
        workers: how many.
        overwrite: replace.
    """
    with open_run(out, command="note", config={"text": text}, overwrite=overwrite) as opened:
        CALLS.append(out.name)
        if out.name in FAIL:
            raise KeyboardInterrupt
        return opened.finish({"text": text})


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pacx_test_commands")
    module.note = note  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pacx_test_commands", module)
    monkeypatch.setitem(COMMANDS, "note", Command("pacx_test_commands:note", "note", "test"))
    CALLS.clear()
    FAIL.clear()


def recipe(folder: Path, steps: str, head: str = "") -> Path:
    path = folder / "chain.yaml"
    path.write_text(f"title: a chain\n{head}\nsteps:\n{steps}", encoding="utf-8")
    return path


CHAIN = """
  a: {command: note, text: one}
  b: {command: note, text: two, source: "{a}/part"}
  c: {command: note, text: three}
  end: {command: note, sources: "{*}"}
"""


def test_a_chain_runs_in_order_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    path = recipe(tmp_path, CHAIN)
    run(path, out=tmp_path / "out")
    assert CALLS == ["a", "b", "c", "end"]
    assert read_result(tmp_path / "out" / "b")["results"] == {"text": "two"}
    run(path, out=tmp_path / "out")
    assert CALLS == ["a", "b", "c", "end"]


def test_a_process_that_a_step_started_runs_that_step_and_leaves_the_ledger_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, CHAIN)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("PACX_STEP", "b")
    run(path, out=tmp_path / "out")
    assert CALLS == ["b"]
    assert not (tmp_path / "out" / "steps.json").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_recipe_is_not_run_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    path = recipe(tmp_path, CHAIN)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PacxError, match="run by one process"):
        run(path, out=tmp_path / "out")
    assert CALLS == []


def test_a_step_tells_its_name_to_the_processes_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("pacx.recipe.load", lambda _: lambda **_: seen.append(os.environ.get("PACX_STEP")))
    monkeypatch.setattr("pacx.recipe_file.check_arguments", lambda _, __, arguments: arguments)
    run(recipe(tmp_path, "  a: {command: note}\n  b: {command: note}\n"), out=tmp_path / "out")
    assert seen == ["a", "b"]
    assert "PACX_STEP" not in os.environ


def test_a_changed_step_runs_again_with_just_what_reads_it(tmp_path: Path) -> None:
    run(recipe(tmp_path, CHAIN), out=tmp_path / "out")
    CALLS.clear()
    run(recipe(tmp_path, CHAIN.replace("text: one", "text: other")), out=tmp_path / "out")
    assert CALLS == ["a", "b", "end"]


def test_redo_runs_a_done_step_again_with_all_that_read_it(tmp_path: Path) -> None:
    path = recipe(tmp_path, CHAIN)
    run(path, out=tmp_path / "out")
    CALLS.clear()
    run(path, out=tmp_path / "out", redo=["c"])
    assert CALLS == ["c", "end"]
    CALLS.clear()
    run(path, out=tmp_path / "out", redo=["a"])
    assert CALLS == ["a", "b", "end"]
    with pytest.raises(PacxError, match=r"no step.*: d\. Known: a, b, c, end"):
        run(path, out=tmp_path / "out", redo=["d"])


def test_arguments_that_only_change_speed_do_not_start_a_step_again(tmp_path: Path) -> None:
    run(recipe(tmp_path, CHAIN), out=tmp_path / "out")
    CALLS.clear()
    run(recipe(tmp_path, CHAIN.replace("text: one", "text: one, workers: 2")), out=tmp_path / "out")
    assert CALLS == []


def test_an_interrupted_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    path = recipe(tmp_path, CHAIN)
    FAIL.add("b")
    with pytest.raises(KeyboardInterrupt):
        run(path, out=tmp_path / "out")
    kept = tmp_path / "out" / "b" / "checkpoint"
    kept.write_text("half", encoding="utf-8")
    FAIL.clear()
    CALLS.clear()
    run(path, out=tmp_path / "out")
    assert CALLS == ["b", "c", "end"]
    assert kept.exists()  # the same configuration: the step may resume from what it left


def test_an_interrupted_step_with_another_configuration_starts_afresh(tmp_path: Path) -> None:
    FAIL.add("b")
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path, CHAIN), out=tmp_path / "out")
    (tmp_path / "out" / "b" / "checkpoint").write_text("half", encoding="utf-8")
    FAIL.clear()
    run(recipe(tmp_path, CHAIN.replace("text: two", "text: new")), out=tmp_path / "out")
    assert not (tmp_path / "out" / "b" / "checkpoint").exists()


def test_a_root_outside_is_asked_for_and_a_change_in_it_is_noticed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.csv").write_text("1", encoding="utf-8")
    path = recipe(tmp_path, '  a: {command: note, source: "{root:data}"}\n', "roots: {data: nowhere}")
    with pytest.raises(PacxError, match=r"nowhere, which is not there.*--root"):
        run(path, out=tmp_path / "out")
    run(path, out=tmp_path / "out", root=[f"data={data}"])
    run(path, out=tmp_path / "out", root=[f"data={data}"])
    assert CALLS == ["a"]
    (data / "x.csv").write_text("12", encoding="utf-8")
    run(path, out=tmp_path / "out", root=[f"data={data}"])
    assert CALLS == ["a", "a"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("  a: {command: nought}\n", "Step 'a': There is no command 'nought'"),
        ("  a: {command: note, tezt: x}\n", "Step 'a': `note` has no argument tezt"),
        ('  a: {command: note, source: "{b}"}\n', "refers to {b}, which is no earlier step"),
        ('  a: {command: note, source: "{root:x}"}\n', "declares no root 'x'"),
        ("  a: {text: x}\n", "names no command"),
        ("  A b: {command: note}\n", "cannot be a folder name"),
        ("  a: {command: note, out: x}\n", "cannot set `out`"),
        ("  a: {command: note, workers: many}\n", "workers"),
        ("  []\n", "needs a mapping `steps`"),
        ("  a: {\n", "not a YAML file"),
    ],
)
def test_a_mistake_in_a_recipe_is_found_before_anything_runs(tmp_path: Path, steps: str, message: str) -> None:
    with pytest.raises(PacxError, match=message):
        run(
            recipe(tmp_path, "  first: {command: note}\n" + steps if steps.startswith("  a") else steps),
            out=tmp_path / "out",
        )
    assert CALLS == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("roots", ["roots: {data: }", "roots: [a]", "roots: {data: 3}"])
def test_roots_that_are_no_folders_are_refused(tmp_path: Path, roots: str) -> None:
    with pytest.raises(PacxError, match="`roots` must name folders"):
        run(recipe(tmp_path, "  a: {command: note}\n", roots), out=tmp_path / "out")


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious", encoding="utf-8")
    with pytest.raises(PacxError, match="is a file"):
        run(recipe(tmp_path, "  a: {command: note}\n"), out=tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "precious"


def test_a_failing_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, out: Path) -> None:
        """Break."""
        raise PacxError("no labels")

    monkeypatch.setattr(sys.modules["pacx_test_commands"], "note", broken)
    with pytest.raises(PacxError, match=r"Step 'a' \(note\): no labels"):
        run(recipe(tmp_path, "  a: {command: note}\n"), out=tmp_path / "out")


def test_a_dry_run_prints_the_plan_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(recipe(tmp_path, CHAIN), out=tmp_path / "out", dry_run=True)
    assert "reads a, b, c" in capsys.readouterr().out
    assert CALLS == []


def test_a_dry_run_shows_what_is_given_and_what_is_not_there_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, '  a: {command: note, source: "{root:data}/x", text: hello}\n', "roots: {data: nowhere}")
    run(path, out=tmp_path / "out", dry_run=True)
    said = capsys.readouterr().out
    assert "reads nowhere/x  (NOT THERE: say where with --root NAME=PATH)" in said
    assert "source=nowhere/x text=hello" in said
    assert "overwrite" not in said  # a default
    with pytest.raises(PacxError, match="which is not there"):
        run(path, out=tmp_path / "out")


def test_skipped_steps_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = recipe(tmp_path, CHAIN)
    run(path, out=tmp_path / "out")
    with caplog.at_level(logging.INFO, logger="pacx"):
        run(path, out=tmp_path / "out")
    assert "[1/4] a (note): done before, skipped" in caplog.text


def test_an_unknown_recipe_name_says_what_ships(tmp_path: Path) -> None:
    shipped = r"There is no recipe nought.*demo.*open-sample,.*paper/pretrain,.*phantom/study,.*reference/.*studies/"
    with pytest.raises(PacxError, match=shipped):
        run(Path("nought"), out=tmp_path)


def test_recipes_in_subfolders_have_outputs_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("paper/pretrain", "reference/pretrain"):
        run(Path(name), dry_run=True)
        assert f"output: runs/{name}\n" in capsys.readouterr().out


SIDE_BY_SIDE = """
  a: {command: simulate, patients: 4, size: 32, ecg: false}
  b: {command: simulate, patients: 4, size: 32, ecg: false, seed: 1}
  c: {command: prepare, source: table, root: "{a}/latents.csv"}
"""


def test_steps_run_side_by_side_give_what_they_give_one_by_one(tmp_path: Path) -> None:
    chain = "\n".join(SIDE_BY_SIDE.splitlines()[:3])
    run(recipe(tmp_path, chain), out=tmp_path / "one")
    run(recipe(tmp_path, chain), out=tmp_path / "two", jobs=2)
    assert set(json.loads((tmp_path / "two" / "steps.json").read_text())) == {"a", "b"}
    for step in ("a", "b"):
        images = [(tmp_path / how / step / "images.npy").read_bytes() for how in ("one", "two")]
        assert images[0] == images[1]


def test_a_step_that_fails_beside_others_is_named_and_the_others_stay_done(tmp_path: Path) -> None:
    path = recipe(tmp_path, SIDE_BY_SIDE)
    with pytest.raises(PacxError, match=r"Step 'c' \(prepare\): .*latents\.csv"):
        run(path, out=tmp_path / "out", jobs=2)
    assert read_result(tmp_path / "out" / "a") and read_result(tmp_path / "out" / "b")
    assert not (tmp_path / "out" / "c" / "result.json").exists()


def test_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="--jobs 0 can run nothing"):
        run(recipe(tmp_path, CHAIN), out=tmp_path / "out", jobs=0)
