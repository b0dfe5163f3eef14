"""Every recipe that ships runs from its first step to its report, made tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lightning")

from pacx.recipe import read_recipe, run
from pacx.runs import read_result

RECIPES = Path(__file__).parents[2] / "recipes"
SHARED = Path(__file__).parents[2].parent / "shared" / "data"

TINY: dict[str, dict[str, Any]] = {
    "simulate": {"patients": 60, "size": 32},
    "prepare": {"size": 36},
    "pretrain": {"width": 32, "depth": 2, "heads": 2, "patch_size": 8, "decoder_width": 16, "decoder_depth": 1,
                 "decoder_heads": 2, "epochs": 2, "warmup_epochs": 1, "batch_size": 16},
    "fit-ecg": {"epochs": 1, "warmup_epochs": 0},
    "fit-labs": {"epochs": 2, "warmup_steps": 1, "hidden": 32, "dim": 16},
    "distill": {"epochs": 2, "warmup_epochs": 1, "batch_size": 16},
    "probe": {"seeds": 1, "draws": 20, "fractions": [1.0]},
    "align": {"draws": 20},
    "segment": {"epochs": 3, "warmup_epochs": 1, "batch_size": 8, "train_images": 16},
    "explain": {"draws": 20, "num_images": 8, "num_figures": 2},
    "report": {},
    "bank": {},
}  # fmt: skip


def tiny(recipe: Path, folder: Path) -> Path:
    """Write a copy of a recipe that runs in seconds; the chain itself is untouched."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for step in content["steps"].values():
        step.update(TINY[step["command"]])
        if "image_size" in step:
            step["image_size"] = 32
    target = folder / recipe.name
    target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return target


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_step_of_a_shipped_recipe_fits_its_command(recipe: Path, tmp_path: Path) -> None:
    roots = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("roots") or {}
    plan = read_recipe(recipe, out=tmp_path, roots=dict.fromkeys(roots, tmp_path))
    assert plan.steps[-1].command == "report"


def test_the_demo_runs_to_its_report_and_a_second_time_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny(RECIPES / "demo.yaml", tmp_path)
    out = tmp_path / "out"
    done = run(recipe, out=out)
    report = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    html = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert {"random", "mae", "pacx"} <= {score["encoder"] for part in report["probes"] for score in part["scores"]}
    assert "PaCX" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert str(tmp_path) not in html
    shuffled, true = read_result(out / "pacx-shuffled")["results"], read_result(out / "pacx")["results"]
    assert shuffled["shuffled_teachers"] and not true["shuffled_teachers"]
    assert set(true["teachers"]) == {"ecg", "labs"}
    stamps = {step: (out / step / "result.json").stat().st_mtime_ns for step in done["steps"]}
    run(recipe, out=out)
    assert {step: (out / step / "result.json").stat().st_mtime_ns for step in done["steps"]} == stamps


@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_the_open_sample_recipe_runs_to_its_report(tmp_path: Path) -> None:
    recipe = tiny(RECIPES / "open-sample.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"data={SHARED}"])
    xrays = read_result(tmp_path / "out" / "xrays")["results"]
    bank = read_result(tmp_path / "out" / "labs-bank")["results"]
    assert xrays["num_images"] == 1140
    assert 0 < bank["num_present"] < bank["num_rows"] == 1140  # NIH images have no labs: holes, not zeros
    html = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "Hannover" in html
