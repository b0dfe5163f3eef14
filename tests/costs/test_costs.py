"""What plans say that steps take: parameters and bytes of real networks and stores, arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
import torch

from pacx.costs.gpus import GPUS, gpu_hours
from pacx.costs.known import Known
from pacx.costs.networks import decoder_parameters, encoder_parameters, lora_parameters
from pacx.costs.steps import Need, need
from pacx.costs.table import cost_table
from pacx.costs.volumes import Volume, prepared, simulated, stored
from pacx.data.phantom.cohort import simulate
from pacx.data.sources import SOURCES, source_module
from pacx.errors import PacxError
from pacx.models.config import EncoderConfig
from pacx.models.encoder import Encoder
from pacx.models.flops import MaskedShape, encoder_flops, lora_step_flops
from pacx.models.mae import MaskedAutoencoder
from pacx.preprocess import Preprocess
from pacx.recipe import read_recipe
from pacx.recipe_file import Step
from pacx.runs import read_result
from pacx.stages.pretrain import pretrain

torch.set_num_threads(1)

RECIPES = Path(__file__).parents[2] / "recipes"
FULL: dict[str, Any] = {"part": None, "redraw_split": False, "folds": None, "split_fractions": (0.7, 0.1, 0.2)}


def config(**sizes: Any) -> EncoderConfig:
    return EncoderConfig.named("tiny", preprocess=Preprocess(image_size=32), patch_size=8, **sizes)


def steps_of(name: str, tmp_path: Path) -> dict[str, Step]:
    plan = read_recipe(RECIPES / f"{name}.yaml", out=tmp_path, roots={}, planned_only=True)
    return {step.name: step for step in plan.steps}


def needs_of(name: str, tmp_path: Path) -> dict[str, Need | None]:
    known = Known()
    return {label: need(step, known) for label, step in steps_of(name, tmp_path).items()}


@pytest.mark.parametrize("shape", [MaskedShape(4), MaskedShape(4, 0.25, True, width=32, depth=3)])
def test_parameters_are_counted_as_the_networks_have_them(shape: MaskedShape) -> None:
    encoder = Encoder(config(width=24, depth=2, heads=2))
    decoder = "cross" if shape.cross else "standard"
    model = MaskedAutoencoder(encoder, decoder=decoder, decoder_width=shape.width, decoder_depth=shape.depth)
    assert encoder_parameters(encoder.config) == sum(part.numel() for part in encoder.parameters())
    whole = sum(part.numel() for part in model.parameters())
    assert decoder_parameters(encoder.config, shape) == whole - encoder_parameters(encoder.config)


def test_lora_on_a_vit_b_trains_a_million_parameters() -> None:
    assert lora_parameters(EncoderConfig.named("base", preprocess=Preprocess()), rank=8) == 1_032_192


def test_rows_and_bytes_of_a_release_are_those_of_its_card() -> None:
    chexpert = prepared({"source": "chexpert", "size": 256, **FULL})
    assert chexpert is not None
    assert (chexpert.of("train"), chexpert.of("val"), chexpert.disk) == (223_414, 234, 223_648 * 256**2)
    frontal = prepared({"source": "chexpert", "size": 256, **FULL, "part": "frontal"})
    assert frontal is not None and frontal.rows == 191_229
    pairs = prepared({"source": "symile-mimic", "size": 320, **FULL})
    assert pairs is not None and pairs.disk == 11_214 * (320**2 + 12 * 5000 * 2 + 50 * 8)
    lungs = prepared({"source": "covid-qu-ex", "size": 224, **FULL})
    assert lungs is not None and lungs.disk == 33_920 * 224**2 * 2
    assert prepared({"source": "folder", "size": 256, **FULL}) is None
    drawn = prepared({"source": "nih", "size": 256, **FULL, "redraw_split": True})
    assert drawn is not None and drawn.splits == {"train": 78_484, "val": 11_212, "test": 22_424}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_parts_of_a_release_are_all_of_it(name: str) -> None:
    card = getattr(source_module(name), "CARD", None)
    if card is None or not card.usual_splits:
        pytest.skip("no public data set, or its parts are not known")
    assert sum(card.usual_splits.values()) == (card.expected.rows or 11_214)


def test_a_store_and_a_training_take_what_the_plan_says(tmp_path: Path) -> None:
    simulate(out=tmp_path / "cohort", patients=12, size=32, images_per_patient=1.0, workers=1)
    found = stored(tmp_path / "cohort")
    arguments = {"patients": 12, "images_per_patient": 1.0, "size": 32, "ecg": True, "labs": True}
    assert found is not None and simulated(arguments).disk == found.disk
    files = sum((tmp_path / "cohort" / name).stat().st_size for name in ("images.npy", "masks.npy", "ecg.npy"))
    assert files == pytest.approx(found.disk - 12 * 50 * 8, abs=3 * 256)  # the files' headers
    sizes: dict[str, Any] = {"width": 96, "depth": 2, "heads": 2, "patch_size": 8, "decoder_width": 48}
    common: dict[str, Any] = {"decoder_depth": 1, "decoder_heads": 2, "epochs": 1, "warmup_epochs": 0}
    pretrain(store=tmp_path / "cohort", out=tmp_path / "mae", **sizes, **common)
    recipe = tmp_path / "plan.yaml"
    listed = ", ".join(f"{key}: {value}" for key, value in {**sizes, **common}.items())
    recipe.write_text(
        f"steps: {{mae: {{command: pretrain, store: {tmp_path / 'cohort'}, {listed}}}}}", encoding="utf-8"
    )
    step = read_recipe(recipe, out=tmp_path, roots={}).steps[0]
    planned = need(step, Known())
    result = read_result(tmp_path / "mae")["results"]
    assert planned is not None
    forward_of_val = planned.flops - found.of("train") * result["gflop_per_image"] * 1e9
    assert 0 < forward_of_val < planned.flops / 2
    checkpoint = (tmp_path / "mae" / "checkpoints" / "last.ckpt").stat().st_size
    assert checkpoint == pytest.approx(12 * result["num_parameters_with_decoder"], rel=0.15)
    left = sum(file.stat().st_size for file in (tmp_path / "mae").rglob("*.ckpt"))
    left += sum(file.stat().st_size for file in (tmp_path / "mae").rglob("*.safetensors"))
    assert left < planned.disk < 2.5 * left


def test_the_published_trainings_take_images_times_epochs_times_a_step(tmp_path: Path) -> None:
    mae = needs_of("paper/pretrain", tmp_path)["mae"]
    assert mae is not None
    assert (mae.rows, mae.epochs, mae.memory) == (223_414, 400, 223_648 * 256**2)
    assert mae.flops == pytest.approx(400 * 223_414 * 42.3e9, rel=5e-3)  # a step of ViT-B/16, one channel
    pacx = needs_of("paper/distill", tmp_path)["pacx"]
    base = EncoderConfig.named("base", preprocess=Preprocess())
    assert pacx is not None
    assert pacx.flops == 50 * (10_000 * lora_step_flops(base, rank=8) + 750 * encoder_flops(base))
    assert pacx.gpu_memory == pytest.approx(500 * 34 * 197 * 768 * 12, rel=0.02)  # activations are nearly all


def test_features_are_counted_once_for_probes_of_one_store_and_encoder(tmp_path: Path) -> None:
    probes = needs_of("paper/chexchonet", tmp_path)
    forward = encoder_flops(EncoderConfig.named("base", preprocess=Preprocess()))
    paper, honest = probes["paper-mae"], probes["honest-mae"]
    assert paper is not None and honest is not None
    assert paper.flops == forward * (71_589 + 51_543)  # training images mirrored too
    assert (honest.flops, honest.disk) == (0, 0)


def test_tokens_are_computed_in_every_epoch_where_the_cache_cannot_hold_them(tmp_path: Path) -> None:
    masks = steps_of("paper/qata-cov19", tmp_path)["masks-mae"]
    known = Known()
    known.stores[str(masks.arguments["store"])] = Volume({"train": 100, "val": 20, "test": 30}, 224, masks=True)
    read, turned = (
        need(Step("a", "segment", {**masks.arguments, "rotate": rotate}, ()), known) for rotate in (0.0, 10.0)
    )
    assert read is not None and turned is not None
    forward = encoder_flops(known.encoder(masks.arguments["encoder"]))
    assert turned.flops - read.flops == forward * (50 * 120 + 30 - 250)
    assert (read.disk, turned.disk) == (250 * 196 * 768 * 2, 0)


def test_hours_are_arithmetic_over_the_share_of_the_peak_that_is_reached() -> None:
    assert gpu_hours(312e12 * 3600, "A100", utilisation=1.0) == pytest.approx(1.0)
    assert gpu_hours(312e12 * 3600, "A100", utilisation=0.4) == pytest.approx(2.5)
    assert gpu_hours(1e18, "A5000", utilisation=0.4) == pytest.approx(1e18 / (0.4 * 111.1e12) / 3600)
    for utilisation in (0.0, -1.0, 1.1):
        with pytest.raises(PacxError, match="--utilisation"):
            gpu_hours(1.0, "A100", utilisation=utilisation)


def test_the_table_fits_a_terminal_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    plan = read_recipe(RECIPES / "paper" / "medmod.yaml", out=tmp_path, roots={}, planned_only=True)
    table = cost_table([plan], gpu="A100", utilisation=0.4)
    assert "in all, at least" in table and "?: how much the data set holds" in table
    assert max(map(len, table.splitlines())) <= 100


def test_a_step_that_does_not_fit_the_gpu_is_named(tmp_path: Path) -> None:
    plan = read_recipe(RECIPES / "paper" / "distill.yaml", out=tmp_path, roots={}, planned_only=True)
    small, large = (cost_table([plan], gpu=gpu, utilisation=0.4) for gpu in ("A5000", "A100"))
    assert "has: pacx. Use a smaller batch_size" in small.replace("\n  ", " ")
    assert "Use a smaller" not in large
    assert GPUS["A5000"].memory < 32e9 < GPUS["A100"].memory
