"""The two published distillations, on a simulated release in miniature, with stand-ins for what comes from outside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("lightning")
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_recipes import RECIPES, tiny

from pacx.data.bank import Bank
from pacx.data.phantom.cohort import simulate
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder, weights_hash
from pacx.preprocess import Preprocess
from pacx.recipe import run
from pacx.runs import read_result

torch.set_num_threads(1)


def steps(name: str) -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((RECIPES / name / "distill.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = content["steps"]
    return found


def changed(left: dict[str, Any], right: dict[str, Any]) -> set[str]:
    return {key for key in left | right if left.get(key) != right.get(key)}


def test_the_two_published_distillations_differ_in_the_norms_and_the_labs_input_only() -> None:
    paper, reference = steps("paper"), steps("reference")
    assert changed(paper["pacx"], reference["pacx"]) == {"train_norms"}
    assert changed(paper["labs-teacher"], reference["labs-teacher"]) == {"unobserved"}
    others = paper.keys() - {"pacx", "labs-teacher", "report"}
    assert {step for step in others if paper[step] != reference[step]} == set()
    arguments = paper["pacx"]
    assert arguments["batch_size"] * int(arguments["devices"]) == 500
    numbers = ("learning_rate", "weight_decay", "epochs", "warmup_epochs", "gradient_clip")
    assert [arguments[key] for key in numbers] == [1e-4, 0.05, 50, 5, 1.0]
    assert (arguments["contrastive_weight"], arguments["regression_weight"]) == (0.5, 1.0)
    assert (arguments["patient_aware"], arguments["complete_only"]) == (False, True)


@pytest.mark.parametrize("name", ["paper", "reference"])
def test_both_make_the_labs_teacher_of_their_own_recipe(name: str) -> None:
    alone = yaml.safe_load((RECIPES / name / "labs-teacher.yaml").read_text(encoding="utf-8"))["steps"]
    assert steps(name)["labs-teacher"] == alone["labs-teacher"]


def make_roots(folder: Path, *, channels: int) -> dict[str, Path]:
    """Make what a user brings: the release, an encoder pre-trained on X-rays, and an ECG teacher."""
    simulate(out=folder / "release", patients=24, size=32, format="symile-mimic", workers=1)
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    save_encoder(Encoder(EncoderConfig(preprocess, patch_size=8, width=32, depth=2, heads=2)), folder / "encoder")
    net = EcgNet(EcgNetConfig(2, stem_width=16, widths=(16, 32), blocks=(1, 1), batch_norm=True)).eval()
    save_ecg_net(
        net, folder / "ecg", labels=("a", "b"), preprocessing={"recipe": "ecgfounder-1", "rate": 500}, training={}
    )
    return {"symile": folder / "release", "mae": folder / "encoder", "ecgfounder": folder / "ecg"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels", "norms"), [("paper", 1, "all"), ("reference", 3, "final")])
def test_the_published_distillation_runs_on_a_release_in_miniature(
    tmp_path: Path, name: str, channels: int, norms: str
) -> None:
    roots = make_roots(tmp_path, channels=channels)
    out = tmp_path / "out"
    run(tiny(RECIPES / name / "distill.yaml", tmp_path), out=out, root=[f"{key}={path}" for key, path in roots.items()])
    pacx = read_result(out / "pacx")
    assert pacx["config"]["train_norms"] == norms
    assert pacx["results"]["num_train"] == pacx["results"]["num_complete"] > 0
    assert set(pacx["results"]["teachers"]) == {"ecg", "labs"}
    base, student = load_encoder(str(roots["mae"])), load_encoder(str(out / "pacx" / "encoder"))
    assert student.config.preprocess == base.config.preprocess
    assert weights_hash(student) != weights_hash(base)
    assert student.config.provenance["parent"]["hash"] == weights_hash(base)
    banks = {kind: Bank.open(out / f"{kind}-bank") for kind in ("ecg", "labs")}
    assert {kind: bank.dim for kind, bank in banks.items()} == {"ecg": 32, "labs": 16}
    assert all(bank.present.all() and np.isfinite(bank.embeddings).all() for bank in banks.values())
    aligned = [read_result(out / f"align-{step}")["results"]["encoder_name"] for step in ("mae", "pacx")]
    assert aligned == ["mae", "pacx"]
    assert (out / "report" / "report.html").is_file()
