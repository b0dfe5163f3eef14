"""Braces in a recipe: `for`, several steps at once, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacx.errors import PacxError
from pacx.recipe import read_recipe
from pacx.references import Resolver, expand

EARLIER = {"probe-mae-0": "/out/probe-mae-0", "probe-mae-1": "/out/probe-mae-1", "mae-0": "/out/mae-0"}


def resolver(**earlier: str) -> Resolver:
    return Resolver("step", roots={"data": Path("/data")}, earlier=earlier or EARLIER, planned_only=True)


def test_a_step_without_for_stands_for_itself() -> None:
    body = {"command": "pool", "runs": "{probe-*}"}
    assert list(expand("pool", body)) == [("pool", body)]
    assert list(expand("broken", "no mapping")) == [("broken", "no mapping")]


def test_for_makes_one_step_for_each_combination_of_values() -> None:
    body = {
        "for": {"arm": ["pacx", "no-ecg"], "seed": [0, 1]},
        "command": "distill",
        "seed": "{seed}",
        "banks": ["{bank-{arm}}", "{labs}"],
        "nested": {"name": "{arm} {seed}"},
    }
    steps = dict(expand("{arm}-{seed}", body))
    assert list(steps) == ["pacx-0", "pacx-1", "no-ecg-0", "no-ecg-1"]
    assert steps["no-ecg-1"] == {
        "command": "distill", "seed": 1, "banks": ["{bank-no-ecg}", "{labs}"], "nested": {"name": "no-ecg 1"},
    }  # fmt: skip


def test_a_value_keeps_its_type_where_it_stands_alone() -> None:
    body = {"for": {"share": [0.5, True, None, [1, 2]]}, "alone": "{share}", "inside": "at {share}"}
    found = [step for _, step in expand("keep-{share}", body)]
    assert [step["alone"] for step in found] == [0.5, True, None, [1, 2]]
    assert found[0]["inside"] == "at 0.5"


def test_for_leaves_the_recipes_own_references_alone() -> None:
    body = {"for": {"seed": [3]}, "store": "{cohort}", "root": "{root:data}/x", "runs": "{*}"}
    assert next(expand("a-{seed}", body)) == ("a-3", {"store": "{cohort}", "root": "{root:data}/x", "runs": "{*}"})


@pytest.mark.parametrize("wrong", [[0, 1], {"seed": 3}, {"seed": []}, "seed", None])
def test_for_needs_lists_of_values(wrong: object) -> None:
    with pytest.raises(PacxError, match=r"`for` maps names to lists.*\{seed: \[0, 1, 2\]\}"):
        list(expand("a-{seed}", {"for": wrong}))


def test_for_needs_names_that_differ() -> None:
    with pytest.raises(PacxError, match=r"several values of fold, seed.*call it pacx-\{fold\}-\{seed\}"):
        list(expand("pacx", {"for": {"fold": [0], "seed": [1]}}))


def test_a_star_stands_for_all_earlier_steps_of_such_a_name() -> None:
    found = resolver()
    assert found("{probe-*}") == ["/out/probe-mae-0", "/out/probe-mae-1"]
    assert found.reads == ["probe-mae-0", "probe-mae-1"]
    assert resolver()("{*}") == list(EARLIER.values())


def test_inside_a_list_a_star_becomes_several_items() -> None:
    assert resolver()(["{mae-0}/encoder", "{probe-*}"]) == [
        "/out/mae-0/encoder", "/out/probe-mae-0", "/out/probe-mae-1",
    ]  # fmt: skip
    assert resolver()({"runs": ["{probe-mae-1}"], "epochs": 3}) == {"runs": ["/out/probe-mae-1"], "epochs": 3}


def test_what_is_in_braces_must_be_there() -> None:
    with pytest.raises(PacxError, match=r"\{probe-pacx-\*\}, and no earlier step is called so.*probe-mae-0"):
        resolver()("{probe-pacx-*}")
    with pytest.raises(PacxError, match="which is no earlier step"):
        resolver()("{later}/encoder")
    with pytest.raises(PacxError, match="declares no root 'images'"):
        resolver()("{root:images}")


def test_a_folder_outside_is_noted_and_missed_only_when_the_recipe_runs(tmp_path: Path) -> None:
    planned = Resolver("a", roots={"data": tmp_path}, earlier={}, planned_only=True)
    assert planned("{root:data}/absent") == f"{tmp_path}/absent"
    assert planned.outside == [tmp_path / "absent"]
    running = Resolver("a", roots={"data": tmp_path}, earlier={}, planned_only=False)
    with pytest.raises(PacxError, match="which is not there"):
        running("{root:data}/absent")


def test_fresh_weights_of_an_architecture_outside_read_its_folder(tmp_path: Path) -> None:
    for text in ("random:{root:mae}/encoder", "random:{root:mae}/encoder:3"):
        found = Resolver("probe", roots={"mae": tmp_path}, earlier={}, planned_only=False)
        with pytest.raises(PacxError, match="encoder, which is not there"):
            found(text)
    (tmp_path / "encoder").mkdir()
    assert found("random:{root:mae}/encoder:3") == f"random:{tmp_path}/encoder:3"
    assert found.outside == [tmp_path / "encoder"]


def test_a_recipe_reads_seeds_and_their_pool(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(
        """
title: seeds
steps:
  cohort: {command: simulate, patients: 40}
  mae-{seed}: {for: {seed: [0, 1]}, command: pretrain, store: "{cohort}", seed: "{seed}"}
  probe-mae-{seed}: {for: {seed: [0, 1]}, command: probe, store: "{cohort}", encoder: "{mae-{seed}}/encoder"}
  pool: {command: pool, runs: "{probe-mae-*}"}
""",
        encoding="utf-8",
    )
    recipe = read_recipe(path, out=tmp_path / "out", roots={}, planned_only=True)
    steps = {step.name: step for step in recipe.steps}
    assert list(steps) == ["cohort", "mae-0", "mae-1", "probe-mae-0", "probe-mae-1", "pool"]
    assert steps["mae-1"].arguments["seed"] == 1
    assert [str(run) for run in steps["pool"].arguments["runs"]] == [
        str(tmp_path / "out" / f"probe-mae-{seed}") for seed in (0, 1)
    ]
    twice = path.read_text(encoding="utf-8").replace("seed: [0, 1]", "seed: [0, 0]", 1)
    path.write_text(twice, encoding="utf-8")
    with pytest.raises(PacxError, match="two steps called 'mae-0'"):
        read_recipe(path, out=tmp_path / "out", roots={}, planned_only=True)
