"""Kill `pacx pretrain` again and again with signal 9, and compare the end with an uninterrupted run's.

    python tests/stages/kill_runs.py --kills 20 --out /tmp/kills

Every start is a process of its own, killed after a random number of steps and, by turns, a random time more or as soon
as a half-written checkpoint is seen. It writes one after each optimiser step, of two batches, read ahead by a second
process. After each kill all checkpoints are read. The last line is a JSON object.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from resuming import differences, what_is_left

from pacx.stages.progress import MEASURED

FLAGS = {
    "width": 32, "depth": 2, "heads": 2, "patch_size": 4, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
    "batch_size": 5, "accumulate": 2, "workers": 1, "keep_checkpoints": 2, "checkpoint_minutes": 0,
    "accelerator": "cpu", "learning_rate": 3e-3, "warmup_epochs": 1,
}  # fmt: skip


def pretrain(store: Path, out: Path, epochs: int) -> list[str]:
    """Return the command line after `pacx`."""
    flags = {"store": store, "out": out, "epochs": epochs, **FLAGS}
    return ["pretrain", *(f"--{name}={value}" for name, value in flags.items())]


def start(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Start `pacx` in a process group of its own; return when it has read its arguments and opened the run folder."""
    config = out / "config.yaml"
    before = config.stat().st_mtime_ns if config.is_file() else 0
    pacx = Path(sys.executable).with_name("pacx")
    with (out.parent / "stderr").open("ab") as errors:
        process = subprocess.Popen([pacx, *arguments], stderr=errors, start_new_session=True)
    while process.poll() is None and not (config.is_file() and config.stat().st_mtime_ns > before):
        time.sleep(0.005)
    return process


def wait_for(out: Path, checkpoints: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many checkpoints have been written since now."""
    newest = out / "checkpoints" / "last.ckpt"
    seen = written = 0
    while written < checkpoints and process.poll() is None:
        now = newest.stat().st_mtime_ns if newest.is_file() else seen
        written += bool(seen) and now != seen
        seen = now
        time.sleep(0.001)


def wait_for_writing(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a checkpoint is being written."""
    while process.poll() is None and not any((out / "checkpoints").glob(".*.ckpt.*")):
        pass


def read_all(out: Path) -> int:
    """Read every checkpoint; raise if one cannot be read."""
    paths = list((out / "checkpoints").glob("*.ckpt"))
    for path in paths:
        torch.load(path, weights_only=True)
    return len(paths)


def place(out: Path) -> list[int]:
    """Return [epoch, batches done in it, optimiser steps] of the newest checkpoint."""
    newest = out / "checkpoints" / "last.ckpt"
    if not newest.is_file():
        return [0, 0, 0]
    content = torch.load(newest, weights_only=True)
    return [content["epoch"], content["pacx"]["batches_done"], content["global_step"]]


def outcome(out: Path) -> dict[str, Any]:
    """Collect what has to be equal: checkpoints, table, results and the weights' files."""
    results = json.loads((out / "result.json").read_text())["results"]
    found = {f"result/{key}": value for key, value in results.items() if key not in MEASURED}
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}
    return {**what_is_left(out), **found, **files}


def main() -> None:
    from conftest import make_store

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    store = make_store(arguments.out / "toy").path
    whole, parts = arguments.out / "whole", arguments.out / "parts"

    begun = time.monotonic()
    assert start(pretrain(store, whole, arguments.epochs), whole).wait() == 0, (arguments.out / "stderr").read_text()
    steps = place(whole)[2]
    print(f"uninterrupted: {steps} steps, {time.monotonic() - begun:.0f} s", flush=True)

    places, checked, writing = [], 0, 0
    while len(places) < arguments.kills:
        process = start(pretrain(store, parts, arguments.epochs), parts)
        wait_for(parts, draw.randint(0, round(1.5 * steps / arguments.kills)), process)
        if len(places) % 2:
            wait_for_writing(parts, process)
        else:
            time.sleep(draw.uniform(0, 0.2))
        assert process.poll() is None, f"it ended before it was killed: {(arguments.out / 'stderr').read_text()}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        writing += bool(list((parts / "checkpoints").glob(".*.ckpt.*")))
        checked += read_all(parts)
        places.append(place(parts))
        epoch, batches, step = places[-1]
        print(f"kill {len(places)}: epoch {epoch}, {batches} batches into it, {step} steps", flush=True)
    assert start(pretrain(store, parts, arguments.epochs), parts).wait() == 0, (arguments.out / "stderr").read_text()
    checked += read_all(parts)

    different = differences(outcome(whole), outcome(parts))
    report = {
        "kills": len(places),
        "kills_that_moved_on": sum(b[2] > a[2] for a, b in zip([[0, 0, 0], *places], places, strict=False)),
        "newest_checkpoint_inside_an_epoch": sum(batches > 0 for _, batches, _ in places),
        "killed_while_writing": writing,
        "checkpoints_read": checked,
        "steps": place(parts)[2],
        "values_compared": len(outcome(whole)),
        "different": different,
    }
    print(json.dumps(report))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
