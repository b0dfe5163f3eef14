"""Time several things in turns, and say what the times mean.

A machine has good and bad minutes. Whoever measures A ten times and then B ten times measures the minutes; here the
sides take turns (A B C A B C ...), so a slow minute falls on all of them. Figures are medians; a ratio is the ratio of
two medians, and its spread the lowest and highest ratio within one round.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["interleave", "peak_rss_mib", "ratio", "say", "spread"]


def interleave(
    sides: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 1, label: str = "timing"
) -> dict[str, list[float]]:
    """Call every side once per round and return its seconds, round by round.

    Args:
        sides: what to time, by name.
        rounds: how often each is timed.
        warmup: rounds before that, which do not count.
        label: what the progress lines call it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warmup, rounds):
        say(f"{label}: {'warm-up' if number < 0 else f'round {number + 1} of {rounds}'}")
        for name, call in sides.items():
            gc.collect()
            start = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    say(f"{label}: done")
    return seconds


def spread(values: Sequence[float], *, digits: int = 4) -> dict[str, float]:
    """Return the median with the lowest and highest value."""
    figures = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the ratio of medians, and the extremes of the rounds' own ratios; of seconds: how many times faster."""
    rounds = [theirs / mine for theirs, mine in zip(above, below, strict=True)]
    figures = {
        "ratio": statistics.median(above) / statistics.median(below),
        "lowest": min(rounds),
        "highest": max(rounds),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def peak_rss_mib() -> float:
    """Return the most memory that this process has ever held, MiB (VmHWM of Linux)."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def say(line: str) -> None:
    """Report progress; the results go to standard output, this does not."""
    print(line, file=sys.stderr, flush=True)
