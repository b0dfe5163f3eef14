"""`pacx serve` under good and bad requests for minutes, then a signal to stop in the midst of it.

    python -m benchmarks.soak [--minutes 5] [--clients 32] [--model MODEL.onnx] [--quick]

One request in five is bad (`benchmarks.bad_requests`). What is wanted:

* Every good answer equals that for the same file before the load, within 1e-5; 429 and 503 with Retry-After are no
  failures (the client comes again then), and are counted.
* Every bad request gets a 4xx with a problem in JSON; a body without end may also be hung up on.
* No process of the server ends, and its memory (all processes, shared pages once) does not grow.
* After SIGTERM, every request that was sent whole before is answered, and the exit code is 0.

Writes `results/soak.json`, and `results/soak.png` with the memory over time where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import servers
from benchmarks.bad_requests import KINDS, BadRequests, make_bombs
from benchmarks.load import Answer, Client, Request, as_upload, percentile, problem_fault
from benchmarks.measure import say
from benchmarks.results import RESULTS, Row, finish
from benchmarks.serve_files import write_images

TOLERANCE = 1e-5
SHARE_BAD = 0.2
MINUTES, CLIENTS = 5.0, 32
_MAY_HANG_UP = {"endless, declared", "endless, undeclared"}


@dataclass
class Tally:
    """What was seen."""

    good: int = 0
    back_pressure: int = 0
    seconds: list[float] = field(default_factory=list)
    """of good answers"""
    largest_difference: float = 0.0
    bad: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """statuses by kind"""
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, MiB)"""
    late: list[Answer] = field(default_factory=list)
    """answers to what was under way when the signal came"""


class Soak:
    """The clients, the watch, and what they saw."""

    def __init__(self, url: str, server: subprocess.Popen[bytes], files: list[Path]) -> None:
        self.url, self.server, self.tally = url, server, Tally()
        self.requests = [as_upload("/v1/predict", file.read_bytes(), label=file.name) for file in files]
        self.bad = BadRequests(url, [file.read_bytes() for file in files], make_bombs())
        self.expected: dict[str, Any] = {}
        self.start = time.perf_counter()
        self.signalled: float | None = None

    async def run(self, seconds: float, clients: int) -> None:
        """Learn the right answers, keep the clients going, then tell the server to stop and see how it does."""
        client = Client(self.url)
        for request in [*self.requests, *self.requests]:  # the second time, everything is warm
            answer = await client.ask(request)
            if answer.status != 200:
                raise SystemExit(f"{request.label}: {answer.status} {answer.fault} {answer.body[:300]!r}")
            self.expected[request.label] = json.loads(answer.body)
        client.close()
        self.start = time.perf_counter()
        watch = asyncio.create_task(self._watch(servers.process_tree(self.server.pid), max(0.5, seconds / 300)))
        work = [asyncio.create_task(self._work(random.Random(f"soak {number}"))) for number in range(clients)]
        await asyncio.sleep(seconds)
        watch.cancel()
        say("soak: SIGTERM")
        self.signalled = time.perf_counter()
        self.server.send_signal(signal.SIGTERM)
        # A slow upload may go on for long after the server is gone; it was not sent whole, so nobody waits for it.
        _, pending = await asyncio.wait(work, timeout=90)
        for task in pending:
            task.cancel()
        for task in work:
            if task.done() and not task.cancelled() and task.exception():
                self.tally.faults.append(f"the client itself failed: {task.exception()!r}")

    async def _work(self, rng: random.Random) -> None:
        client = Client(self.url)
        while self.signalled is None:
            if rng.random() < SHARE_BAD:
                kind = rng.choice(KINDS)
                self._judge_bad(kind, await self.bad.send(kind, rng))
            else:
                await self._ask(client, rng.choice(self.requests))
        client.close()

    async def _ask(self, client: Client, request: Request) -> None:
        answer = await client.ask(request)
        while (wait := answer.retry_after) is not None and self.signalled is None:
            self.tally.back_pressure += 1
            await asyncio.sleep(wait)
            answer = await client.ask(request)
        if self.signalled is not None:
            self.tally.late.append(answer)
            if answer.status != 200:
                return
        self._judge_good(answer)

    def _judge_good(self, answer: Answer) -> None:
        name, tally = answer.request.label, self.tally
        if answer.status != 200:
            tally.faults.append(f"{name}: {answer.status} {answer.fault} {answer.body[:200]!r}")
            return
        difference = largest_difference(self.expected[name], json.loads(answer.body))
        tally.largest_difference = max(tally.largest_difference, difference)
        if not difference <= TOLERANCE:
            tally.faults.append(f"{name}: an answer that differs by {difference:g}")
        tally.good += 1
        tally.seconds.append(answer.seconds)

    def _judge_bad(self, kind: str, answer: Answer | None) -> None:
        if answer is None or self.signalled is not None:
            self.tally.bad[kind]["not judged"] += 1
            return
        self.tally.bad[kind][str(answer.status or answer.fault)] += 1
        if answer.retry_after is not None or (kind in _MAY_HANG_UP and answer.fault.startswith("hung up")):
            return
        if not 400 <= answer.status < 500:
            self.tally.faults.append(f"{kind}: {answer.status} {answer.fault} {answer.body[:200]!r}")
        elif fault := problem_fault(answer):
            self.tally.faults.append(f"{kind}: {fault}")

    async def _watch(self, born: set[int], interval: float) -> None:
        """Note memory, and every process of the beginning that is no more."""
        missing: set[int] = set()
        while True:
            now = servers.process_tree(self.server.pid)
            self.tally.faults += [f"process {pid} ended under load" for pid in born - now - missing]
            missing |= born - now
            self.tally.memory.append((time.perf_counter() - self.start, servers.memory_mib(now)))
            await asyncio.sleep(interval)


def largest_difference(expected: Any, found: Any) -> float:
    """Compare two JSON values; infinity where anything but a number differs."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return max((largest_difference(expected[key], found[key]) for key in expected), default=0.0)
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return max(map(largest_difference, expected, found), default=0.0)
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return abs(expected - found)
    return 0.0 if expected == found else float("inf")


def main() -> None:
    """Run it.

    Raises:
        SystemExit: something was not as wanted.
    """
    options = _options()
    port = servers.free_port()
    command = [sys.executable, "-m", "pacx.cli", "serve", *options.model, "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        content = measure(command, port, Path(folder), seconds=60 * options.minutes, clients=options.clients)
    quick = options.quick or options.minutes < MINUTES or options.clients < CLIENTS
    finish("soak", content, quick=quick)
    if not quick:
        draw(content["memory"]["samples"], RESULTS / "soak.png")
    if content["faults"]:
        raise SystemExit("\n".join([f"{content['num_faults']} faults, the first of them:", *content["faults"]]))


def measure(command: list[str], port: int, folder: Path, *, seconds: float, clients: int) -> dict[str, Any]:
    """Start the server, soak it, stop it; return what was seen."""
    files, source = write_images(folder / "images", num=8)
    url = f"http://127.0.0.1:{port}"
    server = servers.start(command, f"{url}/readyz", log=folder / "log")
    try:
        soak = Soak(url, server, files)
        asyncio.run(soak.run(seconds, clients))
        code = server.wait(60)
        stopped = time.perf_counter() - (soak.signalled or 0.0)
    except subprocess.TimeoutExpired:
        code, stopped = None, None
    finally:
        servers.stop(server, patience=1)
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return summarise(soak, code, stopped, clients=clients, images=source, log=log)


def summarise(
    soak: Soak, code: int | None, stopped: float | None, *, clients: int, images: str, log: str
) -> dict[str, Any]:
    """Put what was seen into figures."""
    tally, signalled = soak.tally, soak.signalled or 0.0
    # The server reads on for half a second, so what has left the client before the signal is accepted.
    accepted = [answer for answer in tally.late if answer.sent is not None and answer.sent < signalled]
    dropped = [answer for answer in accepted if not answer.status]
    faults = [*tally.faults, *(f"not answered after the signal: {answer.fault}" for answer in dropped)]
    if code != 0:
        faults.append(f"exit code {code} after SIGTERM; its last words: {log[-500:]}")
    if "Traceback" in log:
        faults.append(f"a traceback in the log: {log[log.index('Traceback') :][:1000]}")
    levels = [mib for _, mib in tally.memory] or [0.0]
    quarter = max(1, len(levels) // 4)
    return {
        "rounds": 1,
        "clients": clients,
        "images": images,
        "minutes": round((signalled - soak.start) / 60, 2),
        "good": tally.good,
        "bad": {kind: dict(statuses) for kind, statuses in sorted(tally.bad.items())},
        "num_bad": sum(sum(statuses.values()) for statuses in tally.bad.values()),
        "back_pressure": tally.back_pressure,
        "largest_difference": tally.largest_difference,
        "milliseconds": {
            name: round(1000 * percentile(tally.seconds or [0.0], share), 1)
            for name, share in (("p50", 0.5), ("p99", 0.99))
        },
        "memory": {
            "first_mib": round(levels[0], 1),
            "peak_mib": round(max(levels), 1),
            # From the second quarter on: caches and arenas fill during the first.
            "growth_mib": round(median(levels[-quarter:]) - median(levels[quarter : 2 * quarter] or levels), 1),
            "samples": [(round(second, 1), round(mib, 1)) for second, mib in tally.memory],
        },
        "shutdown": {
            "exit_code": code,
            "seconds": None if stopped is None else round(stopped, 2),
            "accepted": len(accepted),
            "answered_with": dict(Counter(str(answer.status) for answer in accepted)),
        },
        "num_faults": len(faults),
        "faults": faults[:20],
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    load = f"{results['minutes']:.0f} minutes, {results['clients']} clients"
    memory, shutdown = results["memory"], results["shutdown"]
    unanswered = shutdown["accepted"] - sum(n for status, n in shutdown["answered_with"].items() if status != "0")
    return [
        Row(f"faults in {load}", float(results["num_faults"]), at_most=0),
        Row("good answers", float(results["good"])),
        Row("bad requests", float(results["num_bad"])),
        Row("times told to come again later", float(results["back_pressure"])),
        Row("largest difference from the answer before, millionths", results["largest_difference"] * 1e6, at_most=10),
        Row("ms per good request, p50", results["milliseconds"]["p50"]),
        Row("ms per good request, p99", results["milliseconds"]["p99"]),
        Row("peak memory of all its processes, MiB", memory["peak_mib"]),
        Row("growth of that from the second quarter to the last, MiB", memory["growth_mib"]),
        Row("requests sent before SIGTERM and not answered", float(unanswered), at_most=0),
    ]


def draw(samples: list[tuple[float, float]], file: Path) -> None:
    """Draw memory over time, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([second / 60 for second, _ in samples], [mib for _, mib in samples], color="black", linewidth=1)
    axes.set(xlabel="minutes under load", ylabel="memory of the server, MiB", ylim=(0, None))
    figure.savefig(file, dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 seconds, 8 clients: shows that it runs")
    parser.add_argument("--minutes", type=float, default=None, help=f"[{MINUTES:g}]; fewer are not kept")
    parser.add_argument("--clients", type=int, default=None, help=f"[{CLIENTS}]; fewer are not kept")
    parser.add_argument("--model", nargs="*", default=[], help="what `pacx serve` serves [the model that it ships]")
    options = parser.parse_args()
    options.minutes = options.minutes or (1 / 3 if options.quick else MINUTES)
    options.clients = options.clients or (8 if options.quick else CLIENTS)
    return options


if __name__ == "__main__":
    main()
