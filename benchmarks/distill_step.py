"""One step of distillation: LoRA against full fine-tuning, against stock PEFT, and with gradient caching.

    python -m benchmarks.distill_step [--quick] [--published]

A step is zero_grad, forward, backward and AdamW, from images to both losses. ViT-B/16, 224 px, batch 16, fp32, two
threads; teachers of 1024 and 256 numbers. See `distill_sides` for the sides.

* Before anything is timed, ours and stock PEFT take the same weights, and the whole batch and the chunks too: without
  dropout the losses must agree within 1e-5.
* `lora_speed_ratio`: seconds of full fine-tuning over those of LoRA; `peft_speed_ratio`: those of stock PEFT;
  `layers_speed_ratio`: those of ours with PEFT's LoRA layers. All in turns in one process.
* `cached_speed_ratio`: seconds of a batch of 32 at once over those in chunks of 8.
* `lora_memory_ratio`, `peft_memory_ratio`, `cached_memory_ratio`: the peak of LoRA over that of full fine-tuning, of
  LoRA over stock PEFT, of chunks over the whole. Each side does its steps in a fresh process of its own, and the peak
  is the most that this process ever held (VmHWM), libraries included.
* Extra figure with `--published`, five minutes more: the peak of a step with the published 500 rows, in chunks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.distill_sides import BASE, QUICK, SIDES, Sizes, loss_of, make_batch, make_side, make_step, rows_of
from benchmarks.measure import interleave, peak_rss_mib, ratio, say, spread
from benchmarks.results import Row, finish

TIMED = ("lora", "full", "peft", "layers")
LARGE = ("whole", "cached")
TOLERANCE = 1e-5
ROUNDS = 5
MEMORY_RUNS = {"lora": 2, "full": 2, "peft": 2, "whole": 1, "cached": 1, "published": 1}
MEMORY_STEPS = 2  # the optimiser's own memory comes with the first step and is there in the second


def main() -> None:
    """Run the benchmark, or one side of it for its memory."""
    options = _options()
    torch.set_num_threads(options.threads)
    sizes = QUICK if options.quick else BASE
    if options.memory_of:
        print(measure_memory(options.memory_of, sizes))
        return
    memory = {
        side: [_in_fresh_process(side) for _ in range(1 if options.quick else runs)]
        for side, runs in MEMORY_RUNS.items()
        if side != "published" or options.published
    }
    content = summarise(measure(sizes, rounds=options.rounds), memory, sizes)
    finish("distill_step", content, quick=options.quick or options.threads != 2 or options.rounds < ROUNDS)


def measure(sizes: Sizes, *, rounds: int) -> dict[str, Any]:
    """Check that the sides compute the same, then time them in turns.

    Returns:
        `loss_difference`, and the seconds of every step by side.
    """
    difference = check_equal(sizes)
    seconds: dict[str, list[float]] = {}
    for sides, number in ((TIMED, rounds), (LARGE, max(2, rounds // 2))):
        batch = make_batch(rows_of(sides[0], sizes), sizes)
        steps = {side: make_step(side, make_side(side, sizes), batch) for side in sides}
        seconds |= interleave(steps, rounds=number, label=", ".join(sides))
    return {"loss_difference": difference, "seconds": seconds}


def check_equal(sizes: Sizes) -> float:
    """Give all LoRA sides the same weights and compare their losses, without dropout.

    Raises:
        SystemExit: the losses differ by more than 1e-5, so there is nothing to compare.
    """
    models: dict[str, Any] = {side: make_side(side, sizes).eval() for side in ("lora", "peft", "layers", "cached")}
    _move_weights(models["lora"])
    models["peft"].take(models["lora"])
    for side in ("layers", "cached"):
        models[side].load_state_dict(models["lora"].state_dict(), strict=True)
    batch = make_batch(sizes.chunk + 2, sizes)
    losses = {side: float(loss_of(model, batch).detach()) for side, model in models.items()}
    difference = max(abs(loss - losses["lora"]) for loss in losses.values())
    if not difference <= TOLERANCE:
        raise SystemExit(f"With equal weights the losses differ by {difference:.2g}; allowed: {TOLERANCE}. {losses}")
    say(f"equal weights: losses differ by {difference:.1e}")
    return difference


def _move_weights(model: nn.Module) -> None:
    """Move what trains: LoRA begins at zero, where no layer would show a mistake."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def measure_memory(side: str, sizes: Sizes) -> float:
    """Do steps of one side in this process and say how much memory it held at most, MiB."""
    step = make_step(side, make_side(side, sizes), make_batch(rows_of(side, sizes), sizes))
    for _ in range(1 if side == "published" else MEMORY_STEPS):
        step()
    return peak_rss_mib()


def summarise(results: dict[str, Any], memory: dict[str, list[float]], sizes: Sizes) -> dict[str, Any]:
    """Turn seconds and peaks into the keys that are promised and the figures behind them."""
    seconds = results["seconds"]
    speed = {
        "lora_speed_ratio": ratio(seconds["full"], seconds["lora"]),
        "peft_speed_ratio": ratio(seconds["peft"], seconds["lora"]),
        "layers_speed_ratio": ratio(seconds["layers"], seconds["lora"]),
        "cached_speed_ratio": ratio(seconds["whole"], seconds["cached"]),
    }
    space = {
        "lora_memory_ratio": ratio(memory["lora"], memory["full"]),
        "peft_memory_ratio": ratio(memory["lora"], memory["peft"]),
        "cached_memory_ratio": ratio(memory["cached"], memory["whole"]),
    }
    sides = {
        side: {
            "rows": rows_of(side, sizes),
            **({"seconds": spread(seconds[side])} if side in seconds else {}),
            **({"peak_rss_mib": spread(memory[side], digits=1)} if side in memory else {}),
        }
        for side in SIDES
        if side in seconds or side in memory
    }
    return {
        **{name: figures["ratio"] for name, figures in (speed | space).items()},
        "rounds": len(seconds["lora"]),
        "loss_difference": results["loss_difference"],
        "speed_ratios": speed,
        "memory_ratios": space,
        "sides": sides,
        "sizes": asdict(sizes),
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    speed, space, sides = results["speed_ratios"], results["memory_ratios"], results["sides"]
    sizes = results["sizes"]
    large = f"batch of {sizes['large']} in chunks of {sizes['chunk']}"
    table = [
        Row("speed, LoRA, times full fine-tuning's", speed["lora_speed_ratio"]),
        Row("peak memory, LoRA, share of full fine-tuning's", space["lora_memory_ratio"]),
        Row("speed, LoRA, times stock PEFT's", speed["peft_speed_ratio"]),
        Row("peak memory, LoRA, share of stock PEFT's", space["peft_memory_ratio"]),
        Row("the same speed, ours with PEFT's LoRA layers as the peer", speed["layers_speed_ratio"]),
        Row(f"speed, {large}, times the whole's", speed["cached_speed_ratio"]),
        Row(f"peak memory, {large}, share of the whole's", space["cached_memory_ratio"]),
    ]
    for side, figures in sides.items():
        of = f"{side}, {figures['rows']} rows"
        if "seconds" in figures:
            table.append(Row(f"seconds per step, {of}", figures["seconds"]))
        if "peak_rss_mib" in figures:
            table.append(Row(f"peak memory, {of}, MiB", figures["peak_rss_mib"]))
    return table


def _in_fresh_process(side: str) -> float:
    say(f"memory of {side}")
    given = [*sys.argv[1:], "--memory-of", side]
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.distill_step", *given], cwd=root, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"Measuring the memory of {side} failed:\n{run.stderr}")
    return float(run.stdout.splitlines()[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks and two rounds: shows that it runs")
    parser.add_argument("--threads", type=int, default=2, help="the results are kept for 2 only")
    parser.add_argument(
        "--rounds", type=int, default=None, help="timed steps per side [5; quick: 2]; fewer are not kept"
    )
    parser.add_argument("--published", action="store_true", help="also the memory of a step with 500 rows")
    parser.add_argument("--memory-of", choices=tuple(MEMORY_RUNS), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else ROUNDS)
    return options


if __name__ == "__main__":
    main()
