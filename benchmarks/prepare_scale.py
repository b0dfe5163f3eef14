"""20,000 PNG files of 1024 px into a store: both cores, memory, kill -9 in the middle, beside a plain loop.

    python -m benchmarks.prepare_scale [--quick]

* The files are a few drawn X-rays under 20,000 names (hard links): what is read and decoded is the same, what lies on
  the disk is not.
* Ours is `pacx prepare folder`, as a user starts it. It is killed with SIGKILL when a third is done, with all its
  processes, and the same command is run again; `images_per_second` is of both runs together, start-up included.
* The peer is one process that opens, decodes, resizes and writes one file after another (Pillow, NumPy), on a tenth of
  the files.
* `peak_mib` adds up what all processes of ours hold at one time (proportional set size: shared pages are counted once).
  `busy_cores` is their CPU time over the wall time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import say
from benchmarks.results import Row, finish
from benchmarks.xray_files import Kind, draw_patients, write_files
from pacx.data.store import Store

STORED = 256
_LOOK = 0.5
"""seconds between looks at memory: summing up a process's pages takes time of the cores that are measured"""


@dataclass(frozen=True)
class Sizes:
    files: int
    drawn: int
    edge: int


FULL = Sizes(files=20_000, drawn=40, edge=1024)
QUICK = Sizes(files=400, drawn=3, edge=768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all is well")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), QUICK if quick else FULL)
    finish("prepare_scale", found, quick=quick)


def measure(folder: Path, sizes: Sizes) -> dict[str, Any]:
    files = _write(folder / "files", sizes)
    say(f"prepare_scale: {len(files)} files, killed at a third")
    first = _Run.until(folder, rows=len(files) // 3)
    second = _Run.until(folder, rows=None)
    store = Store.open(folder / "store")
    if len(store) != len(files):
        raise SystemExit(f"{len(store)} of {len(files)} files are in the store")
    say("prepare_scale: the plain loop")
    tenth = files[:: max(1, len(files) // 2000)]
    begun = time.perf_counter()
    _loop(tenth, folder / "loop.npy")
    plain = len(tenth) / (time.perf_counter() - begun)
    ours = len(files) / (first.seconds + second.seconds)
    return {
        "sizes": vars(sizes),
        "rounds": 1,
        "killed_after_rows": first.rows,
        "rows_done_again": first.rows + second.rows_to_do - len(files),
        "images_per_second": {"ours": round(ours, 1), "plain loop": round(plain, 1)},
        "speed_ratio": round(ours / plain, 2),
        "busy_cores": round((first.cpu + second.cpu) / (first.seconds + second.seconds), 2),
        "peak_mib": round(max(first.peak_mib, second.peak_mib)),
    }


def _write(folder: Path, sizes: Sizes) -> list[Path]:
    """Draw X-rays, and link them to as many names as are wanted, each a patient of its own."""
    folder.mkdir()
    kind = Kind(f"png_{sizes.edge}", sizes.edge, sizes.edge, "png", sizes.drawn)
    originals = write_files(folder.with_name("drawn"), kind, draw_patients(4, size=512), num=sizes.drawn)
    files = [folder / f"{number:05d}.png" for number in range(sizes.files)]
    for number, file in enumerate(files):
        os.link(originals[number % len(originals)], file)
    return files


@dataclass
class _Run:
    """One start of the command."""

    rows: int
    """done when it ended"""
    rows_to_do: int
    """when it began"""
    seconds: float
    cpu: float
    peak_mib: float

    @classmethod
    def until(cls, folder: Path, *, rows: int | None) -> _Run:
        """Run the command to its end, or kill it with all its processes when so many rows are done."""
        done_before = _done(folder / "store")
        command = ["prepare", "folder", str(folder / "files"), "--size", str(STORED), "--out", str(folder / "store")]
        begun, cpu, peak = time.perf_counter(), 0.0, 0.0
        process = subprocess.Popen(
            [sys.executable, "-m", "pacx.cli", *command], stderr=subprocess.DEVNULL, start_new_session=True
        )
        looked = begun
        while process.poll() is None:
            if time.perf_counter() - looked > _LOOK:
                own, looked = _usage(process.pid), time.perf_counter()
                cpu, peak = max(cpu, own[0]), max(peak, own[1])
            if rows is not None and _done(folder / "store") >= rows:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.02)
        if rows is None and process.returncode:
            raise SystemExit(f"pacx prepare ended with {process.returncode}")
        num_files = sum(1 for _ in (folder / "files").iterdir())
        return cls(
            _done(folder / "store"), num_files - done_before, time.perf_counter() - begun, cpu, peak / 1024
        )  # fmt: skip


def _done(store: Path) -> int:
    """Count the rows that are written; all of them once the store is finished."""
    state = store / ".partial" / "done.npy"
    try:
        return int((np.load(state, mmap_mode="r") == 1).sum())
    except (OSError, ValueError):
        return 0


def _usage(session: int) -> tuple[float, float]:
    """Add up CPU seconds and proportional memory (KiB) of the processes of a session."""
    ticks, kib = 0, 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            ticks += int(fields[11]) + int(fields[12])
            rollup = (entry / "smaps_rollup").read_text()
            kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, ValueError, StopIteration):
            continue  # it ended while it was looked at
    return ticks / os.sysconf("SC_CLK_TCK"), kib


def _loop(files: list[Path], target: Path) -> None:
    out = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(files), STORED, STORED))
    for row, file in enumerate(files):
        with Image.open(file) as image:
            out[row] = np.asarray(image.convert("L").resize((STORED, STORED), Image.Resampling.BILINEAR))
    out.flush()


def rows(results: dict[str, Any]) -> list[Row]:
    """Name what the table shows."""
    sizes, speed = results["sizes"], results["images_per_second"]
    what = f"{sizes['files']} PNG files of {sizes['edge']} px, killed once"
    return [
        Row(f"{what}: images/s", speed["ours"]),
        Row("a plain loop in one process: images/s", speed["plain loop"]),
        Row("ratio", results["speed_ratio"]),
        Row("busy cores, of 2", results["busy_cores"]),
        Row("peak memory of all processes, MiB", results["peak_mib"], at_most=2000),
        Row("rows done again after the kill", results["rows_done_again"]),
    ]


if __name__ == "__main__":
    main()
