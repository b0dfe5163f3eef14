"""What a benchmark leaves behind: `benchmarks/results/NAME.json`, and the same object as the last line printed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ["RESULTS", "Row", "finish", "machine"]

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("pacx", "torch", "torchvision", "transformers", "timm", "pillow", "numpy")


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, and what was aimed at."""

    what: str
    value: float | Mapping[str, float]
    """a number, or a median or ratio with its lowest and highest"""
    at_least: float | None = None
    at_most: float | None = None


def machine() -> dict[str, Any]:
    """Say what it ran on: the facts that decide a speed, and none that identify a machine or a person."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def finish(name: str, content: Mapping[str, Any], *, quick: bool) -> dict[str, Any]:
    """Keep the results and print them; a quick run's are printed only, for they say nothing about speed.

    Args:
        name: of the benchmark.
        content: figures and settings.
        quick: a small run that shows that all is well.
    """
    whole = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "quick": quick,
        **content,
        "threads": torch.get_num_threads(),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "commit": _commit(),
        "machine": machine(),
    }
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{name}.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
    print(json.dumps(whole), flush=True)
    return whole


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """Return the commit that was measured, with a + when files that are tracked had been changed since."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
        return found.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
