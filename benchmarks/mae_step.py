"""One training step of a masked autoencoder: ours against transformers' `ViTMAEForPreTraining`.

    python -m benchmarks.mae_step [--quick]

A step is zero_grad, forward, backward and AdamW. ViT-B/16, 224 px, 90 % hidden, batch 16, fp32, two threads.

* Before anything is timed, ours takes the peer's weights and both the same mask: the losses must agree within 1e-5.
* `standard_speed_ratio` and `cross_speed_ratio`: the peer's seconds over ours, in turns in one process.
* `standard_memory_ratio`: our peak over the peer's. Each side does three steps in a fresh process of its own, three
  times, and the peak is the most that this process ever held (VmHWM), libraries included.
* Extra figures: the peer with fused AdamW (which ours has by default), and either side with compiled layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.mae_sides import (
    BASE,
    QUICK,
    Sizes,
    compile_ours,
    make_ours,
    make_peer,
    our_optimizer,
    peer_optimizer,
    same_weights,
)
from benchmarks.measure import interleave, peak_rss_mib, ratio, say, spread
from benchmarks.results import Row, finish

Step = Callable[[], None]
MAIN = ("peer", "standard", "cross")
EXTRA = ("peer_compiled", "standard_compiled")
MEMORY_STEPS, MEMORY_RUNS = 3, 3
TOLERANCE = 1e-5


def main() -> None:
    """Run the benchmark, or one side of it for its memory."""
    options = _options()
    torch.set_num_threads(options.threads)
    sizes = replace(QUICK if options.quick else BASE, channels=options.channels)
    if options.memory_of:
        print(measure_memory(options.memory_of, sizes))
        return
    memory: dict[str, list[float]] = {side: [] for side in options.sides}
    for _ in range(0 if options.no_memory else 1 if options.quick else MEMORY_RUNS):
        for side in options.sides:
            memory[side].append(_in_fresh_process(side))
    results = measure(sizes, sides=options.sides, extra=options.extra, rounds=options.rounds)
    finish("mae_step", summarise(results, memory, sizes), quick=options.quick or options.partial)


def measure(sizes: Sizes, *, sides: tuple[str, ...], extra: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Check that both sides compute the same, then time them in turns.

    Returns:
        `loss_difference`, and the seconds of every step by side: `seconds` for `sides` and the peer with fused AdamW,
        `extra` for the peer and the compiled ones, which have rounds of their own.
    """
    images = torch.randn(sizes.batch, sizes.channels, sizes.image, sizes.image)
    peer, standard = make_peer(sizes), make_ours(sizes)
    difference = check_equal(peer, standard, images, sizes)
    steps = {
        "peer": _plain_step("peer", peer, images),
        "peer_fused": _step(peer, peer_optimizer(peer, fused=True), images),
        "standard": _plain_step("standard", standard, images),
    }
    if "cross" in sides:
        steps["cross"] = _plain_step("cross", make_ours(sizes, decoder="cross"), images)
    seconds = interleave({name: step for name, step in steps.items() if name.partition("_")[0] in sides}, rounds=rounds)
    more: dict[str, Step] = {"peer": steps["peer"]}
    if "peer_compiled" in extra:
        more["peer_compiled"] = _plain_step("peer", _compiled_peer(sizes), images)
    if "standard_compiled" in extra:
        compile_ours(standard)  # in place: the plain step is no more
        more["standard_compiled"] = steps["standard"]
    steps.clear()
    return {
        "loss_difference": difference,
        "seconds": seconds,
        "extra": interleave(more, rounds=max(2, rounds // 2), warmup=2, label="extra figures") if extra else {},
    }


def check_equal(peer: nn.Module, ours: nn.Module, images: torch.Tensor, sizes: Sizes) -> float:
    """Give both the same weights and the same mask, and compare the losses.

    Raises:
        SystemExit: the losses differ by more than 1e-5, so there is nothing to compare.
    """
    ours.load_state_dict(same_weights(peer, sizes), strict=True)
    noise = torch.rand(len(images), (sizes.image // 16) ** 2)
    with torch.no_grad():
        difference = abs(float(peer(images, noise=noise).loss) - float(ours(images, noise).loss))
    if not difference <= TOLERANCE:
        raise SystemExit(f"With equal weights and masks the losses differ by {difference:.2g}; allowed: {TOLERANCE}.")
    say(f"equal weights and masks: losses differ by {difference:.1e}")
    return difference


def measure_memory(side: str, sizes: Sizes) -> float:
    """Do three steps of one side in this process and say how much memory it held at most, MiB."""
    model = make_peer(sizes) if side == "peer" else make_ours(sizes, decoder=side)
    images = torch.randn(sizes.batch, sizes.channels, sizes.image, sizes.image)
    step = _plain_step(side, model, images)
    for _ in range(MEMORY_STEPS):
        step()
    return peak_rss_mib()


def summarise(results: dict[str, Any], memory: dict[str, list[float]], sizes: Sizes) -> dict[str, Any]:
    """Turn seconds and peaks into the keys that are promised and the figures behind them."""
    seconds, extra = results["seconds"], results["extra"]
    speed = {
        f"{name}_speed_ratio": ratio(times["peer"], times[name])
        for times in (seconds, extra)
        if "peer" in times
        for name in times
        if name != "peer"
    }
    if "peer" in seconds and "standard" in seconds:
        speed["standard_over_fused_speed_ratio"] = ratio(seconds["peer_fused"], seconds["standard"])
    content: dict[str, Any] = {name: figures["ratio"] for name, figures in speed.items()}
    peaks = {name: peaks for name, peaks in memory.items() if peaks}
    space = {
        f"{name}_memory_ratio": ratio(peaks[name], peaks["peer"])
        for name in peaks
        if name != "peer" and "peer" in peaks
    }
    content |= {name: figures["ratio"] for name, figures in space.items()}
    times = {**extra, **seconds}
    sides = {
        name: {
            "seconds": spread(times[name]),
            "images_per_second": round(sizes.batch / spread(times[name])["median"], 3),
            **({"peak_rss_mib": spread(peaks[name], digits=1)} if name in peaks else {}),
        }
        for name in times
    }
    return {
        **content,
        "rounds": len(next(iter(seconds.values()))),
        "loss_difference": results["loss_difference"],
        "speed_ratios": speed,
        "memory_ratios": space,
        "sides": sides,
        "sizes": asdict(sizes),
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    ratios, sides = results["speed_ratios"], results["sides"]
    table = [
        Row("speed, standard decoder, times the peer's", ratios["standard_speed_ratio"], at_least=1.1),
        Row(
            "peak memory, standard decoder, share of the peer's",
            results["memory_ratios"]["standard_memory_ratio"],
            at_most=0.85,
        ),
        Row("speed, cross decoder, times the peer's", ratios["cross_speed_ratio"], at_least=2.0),
    ]
    table += [
        Row("speed, standard decoder, times the peer's with fused AdamW", ratios["standard_over_fused_speed_ratio"]),
        *(
            Row(f"speed, {name.replace('_', ' ')}, times the peer's", ratios[f"{name}_speed_ratio"])
            for name in ("peer_fused", *EXTRA)
            if f"{name}_speed_ratio" in ratios
        ),
    ]
    for name in MAIN:
        table += [
            Row(f"seconds per step, {name}", sides[name]["seconds"]),
            Row(f"images/s, {name}", sides[name]["images_per_second"]),
            Row(f"peak memory, {name}, MiB", sides[name]["peak_rss_mib"]),
        ]
    return table


def _plain_step(side: str, model: nn.Module, images: torch.Tensor) -> Step:
    optimizer = peer_optimizer(model) if side == "peer" else our_optimizer(model)
    return _step(model, optimizer, images)


def _compiled_peer(sizes: Sizes) -> nn.Module:
    """Compile the peer's transformer layers; the whole of it in one graph takes minutes to compile."""
    peer = make_peer(sizes)
    for module in peer.modules():
        if type(module).__name__ == "ViTMAELayer":
            module.compile()
    return peer


def _step(model: Callable[..., Any], optimizer: torch.optim.Optimizer, images: torch.Tensor) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        model(images).loss.backward()
        optimizer.step()

    return step


def _in_fresh_process(side: str) -> float:
    say(f"memory of {side}")
    given = [*sys.argv[1:], "--memory-of", side]
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.mae_step", *given], cwd=root, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"Measuring the memory of {side} failed:\n{run.stderr}")
    return float(run.stdout.splitlines()[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mae_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks and two rounds: shows that it runs")
    parser.add_argument("--channels", type=int, default=1, help="of both sides; the results are kept for 1 only")
    parser.add_argument("--threads", type=int, default=2, help="the results are kept for 2 only")
    parser.add_argument(
        "--rounds", type=int, default=None, help="timed steps per side [7; quick: 2]; fewer are not kept"
    )
    parser.add_argument("--sides", nargs="+", choices=MAIN, default=None, help="only these; the results are not kept")
    parser.add_argument("--extra", nargs="*", choices=EXTRA, default=None, help="further figures [all; quick: none]")
    parser.add_argument("--no-memory", action="store_true", help="time only; the results are not kept")
    parser.add_argument("--memory-of", choices=MAIN, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.partial = (
        options.sides is not None
        or options.no_memory
        or (options.channels, options.threads) != (1, 2)
        or (options.rounds or 7) < 7
    )
    options.sides = tuple(options.sides or MAIN)
    options.rounds = options.rounds or (2 if options.quick else 7)
    every = () if options.quick or options.partial else EXTRA
    options.extra = every if options.extra is None else tuple(options.extra)
    return options


if __name__ == "__main__":
    main()
