"""The paper from its first recipe to the last table, and the same as the authors' code ran it, on miniatures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("lightning")
import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Outside
from test_recipes import RECIPES, tiny

from pacx.data.store import Store
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


@pytest.fixture(scope="module", params=["paper", "reference"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, outside: Outside
) -> tuple[str, Path]:
    """Run a whole chain once; return which, and its folder."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    recipes = make_tiny(kind, folder)
    members = [recipes / f"{name}.yaml" for name in recipes_of(kind)]
    run(recipes / "all.yaml", out=folder / "out", root=roots_for(members, outside))
    return kind, folder / "out"


def test_every_recipe_of_a_folder_is_part_of_its_chain_or_known_to_stand_alone() -> None:
    for kind in ("paper", "reference"):
        there = {path.stem for path in (RECIPES / kind).glob("*.yaml")} - {"all"}
        assert there - set(ALONE) == set(recipes_of(kind))
        assert set(NINE) <= there


def test_the_whole_chain_ends_with_a_page_of_the_published_numbers_beside_ours(whole: tuple[str, Path]) -> None:
    kind, out = whole
    report = json.loads((out / "tables" / "report" / "report.json").read_text(encoding="utf-8"))
    sets = {part["data_set"] for part in report["published"]} if "published" in report else set()
    print(kind, sorted(report), sets)
