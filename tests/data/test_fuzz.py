"""Thousands of damaged files: each gives an image or an `ImageError`, soon, in bounded memory, without a crash.

The files are read in a process of its own. When that dies or says nothing for five seconds, the file that it was
reading is known, and `tests.data.mutations.mutate(NUMBER)` makes it again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.data.mutations import mutate
from tests.data.seed_files import CANARY

ROOT = Path(__file__).parents[2]
LONGEST = 5.0
"""seconds for one file"""
MOST_MEMORY = 1024
"""MiB for one process: the libraries take 70, and a damaged header may declare a picture of up to 100 million pixels"""


@dataclass
class Account:
    """What reading the files came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    longest: tuple[float, str] = (0.0, "")
    peak: tuple[float, str] = (0.0, "")
    said: dict[str, Any] = field(default_factory=dict)
    stderr: str = ""

    def __str__(self) -> str:
        return (
            f"{dict(self.outcomes)}; longest {self.longest[0]:.2f} s ({self.longest[1]}); peak {self.peak[0]:.0f} MiB "
            f"({self.peak[1]}); Python libraries said {self.said}; C libraries wrote {len(self.stderr):,} bytes"
        )


def read_files(first: int, stop: int, errors: Path, *words: str) -> Account:
    """Read mutated files in child processes; a new one goes on behind a file that ended one."""
    account = Account()
    while first < stop:
        first = _read_until_it_ends(account, first, stop, errors, words)
    account.stderr = errors.read_text(encoding="utf-8", errors="replace")
    return account


def _read_until_it_ends(account: Account, first: int, stop: int, errors: Path, words: tuple[str, ...]) -> int:
    """Run one child; return the number of the file that the next one should begin with."""
    command = [sys.executable, "-m", "tests.data.fuzz_child", str(first), str(stop), *words]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        errors.open("a", encoding="utf-8") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as child,
    ):
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in child.stdout] + [lines.put("")]).start()
        current, name, patience = first, "before the first file", 120.0  # imports take their time on a busy machine
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                child.kill()
                account.faults.append(f"file {current} ({name}): no answer within {patience} s")
                return current + 1
            if not line:
                break
            facts, patience = json.loads(line), LONGEST
            if "said" in facts:
                account.said = facts
            elif "outcome" in facts:
                _enter(account, facts)
            elif "number" in facts:
                current, name = facts["number"], facts["name"]
    if child.returncode:
        account.faults.append(f"file {current} ({name}): the process ended with {child.returncode}")
        return current + 1
    return stop


def _enter(account: Account, facts: dict[str, Any]) -> None:
    which = f"{facts['number']}: {facts['name']}"
    good = facts["outcome"] in {"read", "refused"}
    account.outcomes[facts["outcome"] if good else "fault"] += 1
    if not good:
        account.faults.append(f"{which}: {facts['outcome']}")
    account.longest = max(account.longest, (facts["seconds"], which))
    if facts["peak"] > account.peak[0]:
        account.peak = (facts["peak"], which)


def all_is_well(account: Account, num: int) -> bool:
    """Want nothing but images and refusals, of both a good share, in time and memory."""
    assert not account.faults, "\n".join(account.faults[:20])
    assert sum(account.outcomes.values()) == num
    assert min(account.outcomes["read"], account.outcomes["refused"]) > num / 10  # neither all harmless nor all noise
    assert account.longest[0] < LONGEST, account.longest
    assert account.peak[0] < MOST_MEMORY, account.peak
    assert account.said["said"] == {}  # nothing gets past `quiet_decoders`
    assert CANARY.partition("^")[0] not in account.stderr
    return True


def test_a_number_always_gives_the_same_damage() -> None:
    assert [mutate(number) for number in range(50)] == [mutate(number) for number in range(50)]
    assert len({mutate(number)[1] for number in range(50)}) > 45


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    assert all_is_well(read_files(0, 1000, tmp_path / "stderr"), 1000)


def test_decoders_that_are_not_quieted_repeat_what_is_in_the_header(tmp_path: Path) -> None:
    account = read_files(0, 1000, tmp_path / "stderr", "loud")
    assert sum(account.said["said"].values()) > 100  # why the programs call `quiet_decoders`


@pytest.mark.slow
def test_twenty_thousand_damaged_files_are_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    account = read_files(0, 20_000, tmp_path / "stderr")
    with capsys.disabled():
        print(f"\n{account}; {time.perf_counter() - start:.0f} s in all")
    assert all_is_well(account, 20_000)
