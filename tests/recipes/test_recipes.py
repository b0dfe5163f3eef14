"""Every recipe that ships runs from its first step to its report, made tiny."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parent))

from outside_roots import Outside

from pacx.data.phantom.cohort import SPLIT_FRACTIONS, num_visits, sample_patient, simulate
from pacx.data.sources import SOURCES, source_module
from pacx.data.splits import split_patients
from pacx.models.encoder import load_encoder
from pacx.recipe import run
from pacx.recipe_chain import read_recipes
from pacx.runs import read_result

RECIPES = Path(__file__).parents[2] / "recipes"
SHARED = Path(__file__).parents[2].parent / "shared" / "data"

TINY: dict[str, dict[str, Any]] = {
    "simulate": {"patients": 60, "size": 32},
    "prepare": {"size": 36, "workers": 1},
    "pretrain": {"width": 32, "depth": 2, "heads": 2, "patch_size": 8, "decoder_width": 16, "decoder_depth": 1,
                 "decoder_heads": 2, "epochs": 2, "warmup_epochs": 1, "batch_size": 16, "workers": 0},
    "fit-ecg": {"epochs": 1, "warmup_epochs": 0},
    "fit-labs": {"epochs": 2, "warmup_steps": 1, "hidden": 32, "dim": 16},
    "distill": {"epochs": 2, "warmup_epochs": 1, "batch_size": 16, "workers": 0},
    "probe": {"seeds": 1, "draws": 20, "fractions": [1.0]},
    "convert": {},
    "align": {"draws": 20},
    "segment": {"epochs": 3, "warmup_epochs": 1, "batch_size": 8, "train_images": 16, "workers": 0},
    "explain": {"draws": 20, "num_images": 8, "num_figures": 2, "steps": 2},
    "physiology": {"draws": 20},
    "pool": {"draws": 20},
    "report": {},
    "bank": {},
}  # fmt: skip


LATER_PARTS = {
    "ablations": {"mae", "pacx", "no-ecg", "no-labs", "contrastive-only", "regression-only", "final-norm",
                  "last-blocks", "full-tuning", "anchored", "complete", "incomplete", "complete-short",
                  "incomplete-short"},
    "judged": {"random", "mae", "pacx"},
    "pairs": {"mae", "pairs-100", "pairs-300", "pairs-1000", "pairs-2978"},
    "teachers": {"mae", "pacx", "noise-0.5", "noise-1", "noise-2", "contrastive", "regression-0", "regression-0.43",
                 "regression-0.8", "regression-0.95", "regression-centred"},
    "pretraining": {"mae", "mae-75", "mae-cross", "pacx", "pacx-75", "pacx-cross"},
}  # fmt: skip


def tiny(recipe: Path, folder: Path) -> Path:
    """Write a copy of a recipe that runs in seconds; the chain itself is untouched."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for step in content["steps"].values():
        fractions = step.get("fractions", ())
        step.update(TINY[step["command"]])
        if step.get("source") in SOURCES and hasattr(source_module(step["source"]), "CARD"):
            step["partial"] = True
        if step["command"] == "probe" and "epochs" in step:
            step["epochs"] = 2
        if step["command"] == "probe" and 0.01 in fractions:
            step["fractions"] = [0.1, 1.0]
        if "for" in step:
            step["for"] = {key: values[:2] if key == "seed" else values for key, values in step["for"].items()}
        if "image_size" in step:
            step["image_size"] = 32
        if "num_pairs" in step:
            step["num_pairs"] = 10
    target = folder / recipe.name
    target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    "recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).with_suffix("").as_posix()
)
def test_every_step_of_a_shipped_recipe_fits_its_command(recipe: Path, tmp_path: Path) -> None:
    roots = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("roots") or {}
    plans = read_recipes(recipe, out=tmp_path, roots=dict.fromkeys(roots, tmp_path), planned_only=True)
    assert {plan.steps[-1].command for plan in plans} == {"report"}


def test_the_study_of_pairs_asks_for_no_more_pairs_than_its_cohort_has() -> None:
    """The tiny copies below ask for ten pairs, so they would not notice."""
    study = yaml.safe_load((RECIPES / "phantom" / "study.yaml").read_text(encoding="utf-8"))
    pairs = yaml.safe_load((RECIPES / "phantom" / "pairs.yaml").read_text(encoding="utf-8"))
    num_patients, seed = study["steps"]["cohort"]["patients"], study["steps"]["cohort"]["seed"]
    names = [sample_patient(index, seed=seed).patient_id for index in range(num_patients)]
    visits = [num_visits(index, seed=seed) for index in range(num_patients)]
    splits = split_patients(
        pd.DataFrame({"patient_id": np.repeat(names, visits)}), fractions=SPLIT_FRACTIONS, seed=seed
    )
    num_train = int((splits == "train").sum())
    wanted = [step["num_pairs"] for step in pairs["steps"].values() if "num_pairs" in step]
    assert sorted(wanted) == [100, 300, 1000, num_train]


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


@pytest.mark.parametrize(("name", "visible", "channels"), [("paper", 1, 1), ("reference", 4, 3)])
def test_the_published_pre_training_runs_on_chexpert_as_it_is_downloaded(
    tmp_path: Path, name: str, visible: int, channels: int, outside: Outside
) -> None:
    recipe = tiny(RECIPES / name / "pretrain.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"chexpert={outside['chexpert']}"])
    xrays, mae = (read_result(tmp_path / "out" / step)["results"] for step in ("xrays", "mae"))
    assert xrays["num_images"] > 60 and xrays["splits"]["val"] >= 1 and xrays["splits"]["test"] == 0
    assert mae["visible_tokens"] == visible  # of 16
    assert load_encoder(tmp_path / "out" / "mae" / "encoder").config.preprocess.in_chans == channels
    assert (tmp_path / "out" / "report" / "report.html").is_file()


def test_the_study_of_the_cross_decoder_runs_to_its_report(tmp_path: Path) -> None:
    run(tiny(RECIPES / "studies" / "cross-decoder.yaml", tmp_path), out=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    judged = {score["encoder"] for part in report["probes"] for score in part["scores"]}
    assert len(judged) == 5
    assert read_result(tmp_path / "out" / "cross-0")["config"]["decoder"] == "cross"


def published(name: str) -> dict[str, Any]:
    content = yaml.safe_load((RECIPES / name / "pretrain.yaml").read_text(encoding="utf-8"))
    arguments: dict[str, Any] = content["steps"]["mae"]
    return arguments


def test_the_two_published_pre_trainings_differ_in_masking_and_channels_only() -> None:
    paper, reference = published("paper"), published("reference")
    assert {key for key in paper | reference if paper.get(key) != reference.get(key)} == {"mask_ratio", "channels"}
    assert (paper["mask_ratio"], reference["mask_ratio"]) == (0.9, 0.75)
    assert paper["batch_size"] * paper["accumulate"] * int(paper["devices"]) == 512
    assert (paper["learning_rate"], paper["weight_decay"], paper["warmup_epochs"], paper["epochs"]) == (
        1.5e-4,
        0.05,
        10,
        400,
    )


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


@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_the_study_of_real_pre_training_runs_to_its_report(tmp_path: Path) -> None:
    recipe = tiny(RECIPES / "studies" / "real-pretraining.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"data={SHARED}"])
    pooled = read_result(tmp_path / "out" / "pool-mae")["results"]
    assert {score["task"] for score in pooled["scores"]} == {"view", "sex", "pneumonia"}
    assert (pooled["protocol"]["pooled"], pooled["protocol"]["num_folds"]) == ("folds", 3)
    (sex,) = [row for row in pooled["summary"] if row["task"] == "sex"]
    assert sex["num_test"] == 1140  # everybody tests once
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert {score["encoder"] for score in report["probes"][0]["scores"]} == {"mae", "random"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first part of the simulated study, which the others start from."""
    folder = tmp_path_factory.mktemp("study")
    run(tiny(RECIPES / "phantom" / "study.yaml", folder), out=folder / "study", jobs=2)
    return folder / "study"


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted(LATER_PARTS))
def test_a_part_of_the_simulated_study_runs_to_one_table(study: Path, tmp_path: Path, part: str) -> None:
    out = tmp_path / part
    run(tiny(RECIPES / "phantom" / f"{part}.yaml", tmp_path), out=out, root=[f"study={study}"], jobs=2)
    content = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    if part == "judged":
        for kind in ("alignment", "attention", "segmentation"):
            assert {one["encoder"] for one in content[kind][0]["encoders"]} >= LATER_PARTS[part]
        return
    assert {arm["encoder"] for arm in content["arms"][0]["arms"]} == LATER_PARTS[part]
    assert (out / "report" / "arms.md").is_file()
    if part == "ablations":
        assert {one["encoder"] for one in content["segmentation"][0]["encoders"]} >= {"mae", "anchored-0"}
        known = [read_result(out / f"{arm}-0")["results"]["num_train"] for arm in ("complete", "incomplete", "no-ecg")]
        assert known == sorted(known) and known[0] < known[2]
    if part == "teachers":
        assert abs(read_result(out / "ecg-cosine-0.95")["results"]["mean_cosine"] - 0.95) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_the_study_of_hannover_labs_runs_to_its_report(tmp_path: Path) -> None:
    recipe = tiny(RECIPES / "studies" / "hannover-labs.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"data={SHARED}"])
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    (part,) = report["physiology"]
    labs = {one["encoder"]: {lab["lab"] for lab in one["labs"]} for one in part["encoders"]}
    assert set(labs) == {"random", "mae", "pacx", "pacx-own", "pacx (heads)", "pacx-own (heads)"}
    assert {"crp", "po2", "ldh"} <= labs["pacx"]
    assert labs["pacx (heads)"] == {"crp", "pco2", "po2"}
    assert {row["lab"] for row in part["differences"] if row["encoder"] == "pacx"} >= {"crp", "po2", "ldh"}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_the_study_of_the_ecg_teacher_runs_to_its_report(tmp_path: Path) -> None:
    recipe = tiny(RECIPES / "studies" / "ecg-teacher.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"data={SHARED}"])
    without, tuned = (read_result(tmp_path / "out" / step) for step in ("self-supervised", "tuned-0"))
    assert without["results"]["objective"] == "self-supervised"
    assert tuned["inputs"]["weights"]["hash"]  # it began with the others' weights
    assert (tmp_path / "out" / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_the_recipes_of_the_labs_teacher_run_on_a_release_in_miniature(kind: str, tmp_path: Path) -> None:
    simulate(out=tmp_path / "release", patients=40, size=32, format="symile-mimic")
    recipe = tiny(RECIPES / kind / "labs-teacher.yaml", tmp_path)
    run(recipe, out=tmp_path / "out", root=[f"symile={tmp_path / 'release'}"])
    meta = json.loads((tmp_path / "out" / "labs-bank" / "meta.json").read_text())
    assert meta["preprocessing"]["unobserved"] == {"paper": "zeros", "reference": "train-mean"}[kind]
    assert np.isfinite(np.load(tmp_path / "out" / "labs-bank" / "embeddings.npy")).all()
