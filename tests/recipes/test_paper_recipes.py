"""The paper from its first recipe to the last table, and the same as the authors' code ran it, on miniatures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("lightning")
import torch

sys.path.insert(0, str(Path(__file__).parent))

from outside_roots import Outside
from test_recipes import RECIPES, tiny

from pacx.data.store import Store
from pacx.evaluation.paper import DATA_SETS
from pacx.models.encoder import load_encoder
from pacx.recipe import run
from pacx.recipe_file import declared_roots, load_recipe
from pacx.runs import read_result

torch.set_num_threads(1)

NINE = ("tb-shenzhen", "chexchonet", "vindr", "nih", "medmod", "chestx6", "cxl-seg", "covid-qu-ex", "qata-cov19")
MASKED = ("cxl-seg", "covid-qu-ex", "qata-cov19")
ALONE = ("labs-teacher", "covidx", "kermany")
"""recipes that are part of no chain"""


def recipes_of(kind: str) -> list[str]:
    names: list[str] = load_recipe(RECIPES / kind / "all.yaml")["recipes"]
    return names


def make_tiny(kind: str, folder: Path) -> Path:
    """Copy a folder of recipes, each made tiny, with their chain."""
    target = folder / "recipes" / kind
    target.mkdir(parents=True)
    for recipe in (RECIPES / kind).glob("*.yaml"):
        if recipe.stem == "all":
            (target / recipe.name).write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
        else:
            tiny(recipe, target)
    return target


def roots_for(recipes: list[Path], outside: Outside, *, made: tuple[str, ...] = ("runs",)) -> list[str]:
    """Return `--root` for all that these recipes ask for and no recipe makes."""
    asked = {name: root.path for path in recipes for name, root in declared_roots(path, load_recipe(path)).items()}
    return [f"{name}={outside[name]}" for name, path in sorted(asked.items()) if path.parts[0] not in made]


class Whole(NamedTuple):
    """A chain that has run."""

    kind: str
    out: Path


@pytest.fixture(scope="module", params=["paper", pytest.param("reference", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, outside: Outside) -> Whole:
    """Run a whole chain once."""
    folder = tmp_path_factory.mktemp(request.param)
    recipes = make_tiny(request.param, folder)
    members = [recipes / f"{name}.yaml" for name in recipes_of(request.param)]
    run(recipes / "all.yaml", out=folder / "out", root=roots_for(members, outside))
    return Whole(request.param, folder / "out")


def test_every_recipe_of_a_folder_is_part_of_its_chain_or_known_to_stand_alone() -> None:
    for kind in ("paper", "reference"):
        there = {path.stem for path in (RECIPES / kind).glob("*.yaml")} - {"all"}
        assert there - set(ALONE) == set(recipes_of(kind))
        assert set(NINE) <= there


def test_the_whole_chain_ends_with_a_page_of_the_published_numbers_beside_ours(whole: Whole) -> None:
    report = json.loads((whole.out / "tables" / "report" / "report.json").read_text(encoding="utf-8"))
    beside = {(row["data_set"], row["source"]) for row in report["published"] if row["value"] is not None}
    doubled = {row["encoder"] for row in report["published"] if "(" in row["encoder"]}
    assert doubled <= {"mae (vindr/few-mae)", "pacx (vindr/few-pacx)"}
    main = set(DATA_SETS) - {"Symile-MIMIC"}
    assert {data_set for data_set, source in beside if source == "main results"} == main
    assert {source for _, source in beside} == {"main results", "label efficiency", "ablations", "alignment"}
    arms = {row["encoder"] for row in report["published"] if row["source"] == "ablations"}
    assert arms == {"no-labs", "no-ecg", "contrastive-only", "regression-only"}


def test_every_benchmark_is_read_from_its_release_and_judged_with_three_encoders(whole: Whole) -> None:
    for name in NINE:
        store = Store.open(whole.out / name / "xrays")
        assert store.name == name and len(store.rows("test")) > 5
        judged = [read_result(path.parent) for path in sorted((whole.out / name).glob("*/result.json"))]
        runs = [run for run in judged if run["command"] in {"probe", "segment"}]
        encoders = {run["results"].get("encoder_name", "") for run in runs if run["command"] == "probe"}
        assert name in MASKED or encoders == {"imagenet", "mae", "pacx"}
        protocols = {run["config"]["protocol"] for run in runs}
        assert protocols == ({"paper", "honest"} if whole.kind == "paper" and name not in MASKED else {"paper"})


def test_splits_are_by_patient_in_the_paper_and_as_published_in_the_reference(whole: Whole) -> None:
    tables = {name: Store.open(whole.out / name / "xrays").manifest for name in NINE}
    crossing = {name for name, table in tables.items() if table.groupby("patient_id")["split"].nunique().max() > 1}
    leaking = {"chexchonet", "nih", "medmod", "chestx6", "cxl-seg"}
    assert crossing <= (leaking if whole.kind == "reference" else set())
    assert whole.kind == "paper" or {"chexchonet", "nih"} <= crossing


def test_both_ways_of_pre_training_differ_in_masking_and_channels(whole: Whole) -> None:
    mae = read_result(whole.out / "pretrain" / "mae")["results"]
    assert mae["visible_tokens"] == {"paper": 1, "reference": 4}[whole.kind]  # of 16
    encoder = load_encoder(whole.out / "distill" / "pacx" / "encoder")
    assert encoder.config.preprocess.in_chans == {"paper": 1, "reference": 3}[whole.kind]


def test_arms_that_leave_something_out_learned_from_the_rest(whole: Whole) -> None:
    arms = {path.parent.name: read_result(path.parent) for path in (whole.out / "ablations").glob("*/result.json")}
    teachers = {name: set(arms[name]["results"]["teachers"]) for name in ("no-labs", "no-ecg", "contrastive-only")}
    assert teachers == {"no-labs": {"ecg"}, "no-ecg": {"labs"}, "contrastive-only": {"ecg", "labs"}}
    weights = {name: arms[name]["config"] for name in ("contrastive-only", "regression-only")}
    assert weights["contrastive-only"]["regression_weight"] == weights["regression-only"]["contrastive_weight"] == 0


@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_arms_are_distilled_as_the_whole_method_is(kind: str) -> None:
    whole = load_recipe(RECIPES / kind / "distill.yaml")["steps"]["pacx"]
    arms = load_recipe(RECIPES / kind / "ablations.yaml")["steps"]
    for arm, changed in {
        "no-labs": {"banks"},
        "no-ecg": {"banks"},
        "contrastive-only": {"banks", "regression_weight"},
        "regression-only": {"banks", "contrastive_weight"},
    }.items():
        differing = {key for key in whole | arms[arm] if whole.get(key) != arms[arm].get(key)}
        assert differing - {"store", "encoder"} == changed  # banks: the same ones, from outside


@pytest.mark.slow
@pytest.mark.parametrize("name", ["covidx", "kermany"])
def test_what_the_authors_code_can_do_beyond_the_paper_runs_too(name: str, tmp_path: Path, outside: Outside) -> None:
    recipe = make_tiny("reference", tmp_path) / f"{name}.yaml"
    roots = [f"{encoder}={outside['imagenet']}" for encoder in ("mae", "pacx")]
    run(recipe, out=tmp_path / "out", root=[*roots, *roots_for([recipe], outside)])
    probe = read_result(tmp_path / "out" / "probe-pacx")
    assert probe["results"]["summary"][0]["num_test"] > 5


@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_the_plan_of_a_whole_chain_says_what_it_takes_and_who_has_the_data(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(RECIPES / kind / "all.yaml", out=tmp_path, dry_run=True, gpu="A5000")
    said = capsys.readouterr().out
    assert "PhysioNet, doi:10.13026/3vvj-s428" in said and "ECGFounder, open" in said
    assert "NOT THERE" not in said and "runs/" not in said.split("Not there yet")[1]  # what recipes make is no root
    total = next(line for line in said.splitlines() if line.startswith("in all"))
    hours = float(total.split()[-2])
    assert total.endswith(" h") and 20 < hours < 200
    assert "doing 40% of 111.1 TFLOP/s" in said
    assert max(map(len, said.splitlines())) <= 110
