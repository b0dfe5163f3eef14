"""`pacx serve` beside the server that is written first.

    python -m benchmarks.serve [--quick]

ViT-B/16 at 224 px with random weights and a head of 14 outputs, 20 files, 8 clients that each send the next file as
soon as the last is answered; server and clients share the machine's two cores.

* Ours is `pacx serve` on a file of `pacx export`: in 32 bits, 16 bits and 8.
* The peer is `benchmarks.naive_server`: FastAPI, one image per request, torch in eager mode, default threads.
* The sides take turns (naive, ours, naive, ours, ...); each turn starts its server anew and warms it up first.
* Before anything is timed, the probabilities of both sides must agree within 1e-4 (32 bits) on every file.
* `throughput_ratio`: images per second, ours in 32 bits over the peer's, medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import servers
from benchmarks.load import Answer, as_upload, keep_busy, percentile
from benchmarks.measure import ratio, say, spread
from benchmarks.results import Row, finish
from benchmarks.serve_files import export, make_model, write_images

TOLERANCE = 1e-4
ROUNDS = 5


@dataclass(frozen=True)
class Sizes:
    """What is served, and how much is asked."""

    image_size: int = 224
    width: int = 768
    depth: int = 12
    heads: int = 12
    files: int = 20
    requests: int = 80
    clients: int = 8
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")


BASE = Sizes()
QUICK = Sizes(image_size=32, width=32, depth=2, heads=2, files=4, requests=16, clients=4, precisions=("fp32",))


@dataclass(frozen=True)
class Side:
    """One server: how it is started and asked."""

    name: str
    command: Callable[[int], list[str]]
    """from its port"""
    ready: str
    path: str
    read: Callable[[bytes], list[float]]
    """the probabilities in its answer"""
    env: dict[str, str]


def main() -> None:
    """Run the benchmark."""
    options = _options()
    sizes = QUICK if options.quick else BASE
    with tempfile.TemporaryDirectory() as folder:
        content = measure(sizes, Path(folder), rounds=options.rounds)
    finish("serve", content, quick=options.quick or options.rounds < ROUNDS)


def measure(sizes: Sizes, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Time all sides in turns.

    Raises:
        SystemExit: a request failed, or the sides disagree.
    """
    files, source = write_images(folder / "images", num=sizes.files)
    model = make_model(
        folder / "model", image_size=sizes.image_size, width=sizes.width, depth=sizes.depth, heads=sizes.heads
    )
    sides = [naive_side(model)]
    sides += [our_side(export(model, folder / f"{name}.onnx", name), name) for name in sizes.precisions]
    turns: dict[str, list[list[Answer]]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            say(f"serve: round {number + 1} of {rounds}, {side.name}")
            turns[side.name].append(take_turn(side, files, sizes, folder))
    read = {side.name: side.read for side in sides}
    difference = disagreement(turns["naive"][0], turns["fp32"][0], read)
    if not difference <= TOLERANCE:
        raise SystemExit(f"Probabilities differ by {difference:.2g}; allowed: {TOLERANCE}.")
    return summarise(turns, difference, sizes, source)


def naive_side(model: Path) -> Side:
    """Say how the peer is started and asked."""
    uvicorn = [sys.executable, "-m", "uvicorn", "benchmarks.naive_server:app", "--log-level", "warning", "--port"]
    env = {"NAIVE_ENCODER": str(model / "encoder"), "NAIVE_HEAD": str(model / "head" / "head.safetensors")}
    return Side(
        name="naive",
        command=lambda port: [*uvicorn, str(port)],
        ready="/openapi.json",
        path="/predict",
        read=lambda body: json.loads(body)["probabilities"],
        env={**env, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )


def our_side(file: Path, name: str) -> Side:
    """Say how `pacx serve` is started and asked."""
    pacx = [sys.executable, "-m", "pacx.cli", "serve", str(file), "--port"]
    return Side(
        name=name,
        command=lambda port: [*pacx, str(port)],
        ready="/readyz",
        path="/v1/predict",
        read=lambda body: [output["probability"] for output in json.loads(body)["results"][0]["outputs"]],
        env={},
    )


def take_turn(side: Side, files: list[Path], sizes: Sizes, folder: Path) -> list[Answer]:
    """Start a server, warm it up with every file, then keep it busy; return the answers that count.

    Raises:
        SystemExit: a request was not answered with 200.
    """
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    requests = [as_upload(side.path, file.read_bytes(), label=file.name) for file in files]
    with servers.running(side.command(port), url + side.ready, log=folder / f"{side.name}.log", env=side.env):
        keep_busy(url, requests, clients=sizes.clients, total=max(len(requests), 2 * sizes.clients))
        answers = keep_busy(url, requests, clients=sizes.clients, total=sizes.requests)
    failed = [answer for answer in answers if answer.status != 200 and answer.retry_after is None]
    if failed:
        first = failed[0]
        raise SystemExit(f"{side.name}: {len(failed)} requests failed, the first: {first.status} {first.body[:300]!r}")
    return [answer for answer in answers if answer.status == 200]


def disagreement(theirs: list[Answer], ours: list[Answer], read: dict[str, Callable[[bytes], list[float]]]) -> float:
    """Return the largest difference of two sides' probabilities of one file."""

    def by_file(answers: list[Answer], name: str) -> dict[str, np.ndarray]:
        return {answer.request.label: np.array(read[name](answer.body)) for answer in answers}

    mine, other = by_file(ours, "fp32"), by_file(theirs, "naive")
    return max(float(np.abs(mine[file] - other[file]).max()) for file in mine.keys() & other.keys())


def rate(answers: list[Answer]) -> float:
    """Return images per second, from the first request to the last answer."""
    end = max(answer.start + answer.seconds for answer in answers)
    return len(answers) / (end - min(answer.start for answer in answers))


def summarise(turns: dict[str, list[list[Answer]]], difference: float, sizes: Sizes, source: str) -> dict[str, Any]:
    """Turn answers into the keys that are promised and the figures behind them."""
    rates = {name: [rate(answers) for answers in rounds] for name, rounds in turns.items()}
    ratios = {name: ratio(values, rates["naive"]) for name, values in rates.items() if name != "naive"}
    named = {
        "throughput_ratio" if name == "fp32" else f"{name}_throughput_ratio": found["ratio"]
        for name, found in ratios.items()
    }
    return {
        **named,
        "rounds": len(rates["naive"]),
        "probability_difference": difference,
        "ratios": ratios,
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "milliseconds": {name: _latency(rounds) for name, rounds in turns.items()},
        "images": source,
        "sizes": asdict(sizes),
    }


def _latency(rounds: list[list[Answer]]) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of each round's requests: median over the rounds, lowest and highest."""
    return {
        name: spread([1000 * percentile([answer.seconds for answer in answers], share) for answers in rounds], digits=1)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    clients = results["sizes"]["clients"]
    sides = results["images_per_second"]
    found = [
        Row(
            f"images/s, {clients} clients, ours in {name}, times the naive server's",
            values,
            at_least=1.5 if name == "fp32" else None,
        )
        for name, values in results["ratios"].items()
    ]
    found += [Row(f"images/s, {name}", values) for name, values in sides.items()]
    for share in ("p50", "p99"):
        found += [Row(f"ms per request, {share}, {name}", results["milliseconds"][name][share]) for name in sides]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny network: shows that it runs")
    parser.add_argument("--rounds", type=int, default=None, help=f"[{ROUNDS}; quick: 1]; fewer are not kept")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


if __name__ == "__main__":
    main()
