"""Recipes of recipes: roots handed on, resumed across recipes, mistakes found before anything runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pacx.commands import COMMANDS, Command
from pacx.errors import PacxError
from pacx.recipe import run
from pacx.recipe_chain import read_recipes
from pacx.runs import open_run, read_result

CALLS: list[str] = []


def note(*, out: Path, text: str = "", source: str = "", overwrite: bool = False) -> dict[str, Any]:
    """Note a text.

    Args:
        out: the folder.
        text: what is noted.
        source: a folder to read.
        overwrite: replace.
    """
    if text == "fail":
        raise PacxError("as asked")
    with open_run(out, command="note", config={"text": text}, overwrite=overwrite) as opened:
        CALLS.append(f"{out.parent.name}/{out.name}")
        return opened.finish({"text": text, "source": source})


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pacx_test_chains")
    module.note = note  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pacx_test_chains", module)
    monkeypatch.setitem(COMMANDS, "note", Command("pacx_test_chains:note", "note", "test"))
    CALLS.clear()


FIRST = 'roots: {data: nowhere}\nsteps:\n  a: {command: note, source: "{root:data}", text: one}\n'
SECOND = """
roots: {data: nowhere, made: runs/first/a}
steps:
  b: {command: note, source: "{root:made}"}
  c: {command: note, source: "{root:data}"}
"""


def write(folder: Path, *, chain: str = "recipes: [first, second]", first: str = FIRST, second: str = SECOND) -> Path:
    for name, content in (("first", first), ("second", second), ("all", f"title: both\n{chain}\n")):
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    (folder / "data").mkdir(exist_ok=True)
    return folder / "all.yaml"


def start(chain: Path, **options: Any) -> dict[str, Any]:
    return run(chain, out=chain.parent / "out", root=[f"data={chain.parent / 'data'}"], **options)


def test_a_chain_runs_its_recipes_in_order_and_hands_on_what_the_earlier_ones_made(tmp_path: Path) -> None:
    done = start(write(tmp_path))
    assert CALLS == ["first/a", "second/b", "second/c"]
    assert done["steps"] == CALLS
    assert read_result(tmp_path / "out" / "second" / "b")["results"]["source"] == str(tmp_path / "out" / "first" / "a")
    assert read_result(tmp_path / "out" / "second" / "c")["results"]["source"] == str(tmp_path / "data")


def test_a_second_run_of_a_chain_does_nothing_and_a_redone_step_reaches_the_recipes_behind_it(tmp_path: Path) -> None:
    chain = write(tmp_path)
    start(chain)
    CALLS.clear()
    start(chain)
    assert CALLS == []
    start(chain, redo=["first/a"])
    assert CALLS == ["first/a", "second/b"]
    with pytest.raises(PacxError, match=r"no step.*: a\. Known: first/a, second/b, second/c"):
        start(chain, redo=["a"])


def test_a_chain_that_failed_goes_on_with_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"Step 'second/b' \(note\): as asked"):
        start(write(tmp_path, second=SECOND.replace("b: {command: note,", "b: {command: note, text: fail,")))
    assert CALLS == ["first/a"]
    start(write(tmp_path))
    assert CALLS == ["first/a", "second/b", "second/c"]


def test_by_default_a_chain_writes_where_its_recipes_write_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chain, root = write(tmp_path), [f"data={tmp_path / 'data'}"]
    run(tmp_path / "first.yaml", root=root)
    run(chain, root=root)
    assert CALLS == ["first/a", "second/b", "second/c"]
    assert (tmp_path / "runs" / "second" / "b" / "result.json").is_file()


def test_a_given_root_comes_before_the_chains_own_and_that_before_a_recipes(tmp_path: Path) -> None:
    path = write(tmp_path, chain="recipes: [first, second]\nroots: {made: elsewhere, data: chains}")
    _, second = read_recipes(path, out=tmp_path / "out", roots={"data": Path("given")}, planned_only=True)
    assert [step.arguments["source"] for step in second.steps] == ["elsewhere", "given"]


def test_a_process_that_a_step_of_a_chain_started_finds_it_among_steps_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = write(tmp_path, second=SECOND.replace("  b:", "  a:"))
    (tmp_path / "out" / "first" / "a").mkdir(parents=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("PACX_STEP", "second/a")
    start(chain)
    assert CALLS == ["second/a"]
    assert os.environ.get("PACX_STEP") is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"chain": "recipes: []"}, "a list `recipes`"),
        ({"chain": "recipes: {a: b}"}, "a list `recipes`"),
        ({"chain": "recipes: [first]\nsteps: {a: {command: note}}"}, "both `steps` and `recipes`"),
        ({"chain": "recipes: [first, first]"}, "names first more than once"),
        ({"chain": "recipes: [second, first]"}, "second reads what first makes .root made.. Name first before second"),
        ({"chain": "recipes: [first, third]"}, "There is no recipe third"),
        ({"chain": "recipes: [first, all]"}, "names all, which is itself a chain"),
        ({"chain": "recipes: [first, second]\nroots: {dota: x}"}, "asks for a root named: dota. Known: data, made"),
        ({"second": SECOND.replace("  c: {command: note", "  c: {command: nought")}, "no command 'nought'"),
        ({"second": SECOND.replace("runs/first/a", "runs/third/a")}, "runs/third/a, which is not there"),
    ],
)
def test_a_mistake_in_a_chain_is_found_before_anything_runs(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(PacxError, match=message):
        start(write(tmp_path, **files))
    assert CALLS == []
    assert not (tmp_path / "out").exists()


def test_weights_with_a_name_in_place_of_a_file_are_a_root_too(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    roots = 'roots: {weights: {path: "timm:some_vit", from: anybody}}'
    path.write_text(roots + '\nsteps: {a: {command: note, source: "{root:weights}"}}', encoding="utf-8")
    run(path, out=tmp_path / "out")
    assert read_result(tmp_path / "out" / "a")["results"]["source"] == "timm:some_vit"
