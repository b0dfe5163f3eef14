"""The benchmark of a distillation step compares like with like; how fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
from benchmarks import distill_step, table
from benchmarks.distill_sides import QUICK, SIDES, make_batch, make_side, make_step, rows_of
from peft.tuners.lora.layer import Linear

from pacx.models.lora import LoraLinear

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
TINY = replace(QUICK, image=32, width=24, large=5, published=6, ecg=8, labs=6)
KEYS = {
    "lora_speed_ratio", "lora_memory_ratio", "peft_speed_ratio", "peft_memory_ratio", "layers_speed_ratio",
    "cached_speed_ratio", "cached_memory_ratio",
}  # fmt: skip


def layers(side: str) -> set[type]:
    return {type(part) for part in make_side(side, TINY).modules() if isinstance(part, Linear)}


def test_each_side_has_the_layers_that_it_is_called_after() -> None:
    assert {side: layers(side) for side in SIDES} == {
        "lora": {LoraLinear}, "full": set(), "peft": {Linear}, "layers": {Linear}, "whole": {LoraLinear},
        "cached": {LoraLinear}, "published": {LoraLinear},
    }  # fmt: skip
    chunks = {side: getattr(make_side(side, TINY), "chunk_size", None) for side in SIDES}
    assert {side for side, size in chunks.items() if size == TINY.chunk} == {"cached", "published"}
    assert [rows_of(side, TINY) for side in ("lora", "cached", "published")] == [4, 5, 6]


def test_lora_and_stock_peft_train_the_same_parameters() -> None:
    counts = {
        side: sum(part.numel() for part in make_side(side, TINY).parameters() if part.requires_grad)
        for side in ("lora", "peft", "layers", "full")
    }
    assert counts["lora"] == counts["peft"] == counts["layers"] < counts["full"]


def test_sides_that_compute_different_losses_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distill_step.check_equal(TINY) <= 1e-5
    made = distill_step.make_side

    def spoiled(side: str, sizes: distill_step.Sizes) -> torch.nn.Module:
        model = made(side, sizes)
        if side == "peft":
            for part in model.modules():
                if isinstance(part, Linear):
                    part.scaling["default"] = 4.0
        return model

    monkeypatch.setattr(distill_step, "make_side", spoiled)
    with pytest.raises(SystemExit, match="losses differ"):
        distill_step.check_equal(TINY)


@pytest.mark.parametrize("side", SIDES)
def test_each_step_moves_what_its_side_trains_and_nothing_else(side: str) -> None:
    model = make_side(side, TINY)
    before = {name: (value.requires_grad, value.detach().clone()) for name, value in model.named_parameters()}
    step = make_step(side, model, make_batch(rows_of(side, TINY), TINY))
    step()
    step()  # LoRA's A has no gradient as long as B is zero
    for name, value in model.named_parameters():
        learned, old = before[name]
        if "bias" not in name:  # of query and key, a bias may have no gradient
            assert torch.equal(value, old) != learned, name


def test_the_table_has_every_promised_ratio_and_the_size_of_the_batch() -> None:
    measured = distill_step.measure(TINY, rounds=2)
    memory = {side: [100.0, 90.0] for side in distill_step.MEMORY_RUNS}
    content = distill_step.summarise(measured, memory, TINY)
    assert content.keys() >= KEYS
    assert content["lora_memory_ratio"] == 1.0 and content["sides"]["published"] == {
        "rows": 6, "peak_rss_mib": {"median": 95.0, "lowest": 90.0, "highest": 100.0},
    }  # fmt: skip
    words = [row.what for row in distill_step.rows(content)]
    assert "speed, batch of 5 in chunks of 2, times the whole's" in words
    assert "peak memory, published, 6 rows, MiB" in words
    assert "distill_step" in table.NAMES


@pytest.mark.slow
def test_a_quick_run_ends_with_one_object_that_has_the_promised_keys() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.distill_step", "--quick"], cwd=ROOT, capture_output=True, text=True,
        check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = json.loads(run.stdout.splitlines()[-1])
    assert set(last) >= KEYS and last["quick"] is True
