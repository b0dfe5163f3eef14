"""Embedding a store with frozen teachers: ours against the loop that people write, records/s and memory.

    python -m benchmarks.teachers [--quick]

* ECG: a network of ECGFounder's size with random weights over records of 12 leads, 10 s, 500 Hz. Ours is what
  `pacx bank` does: records read through a memory map, filtered in processes, embedded in threads of one core each,
  written batch by batch. The peer loads the whole array, filters record by record with SciPy (`iirnotch`, `butter`,
  `filtfilt`, `medfilt` per lead), and embeds batches of 64 with PyTorch's threads. `peer_fast_median` is the same with
  SciPy's faster running median (`ndimage.median_filter`), which few know.
* Before anything is timed, all sides' embeddings must agree within 1e-4 of their size.
* Where the time goes: seconds per record of one core, for the filters, the network as written, and our way through it.
* Memory is the most that a side held in a fresh process, its worker processes included, pages that they share counted
  once (PSS of Linux, looked at twenty times a second). Its growth from N to 2N records stands beside the array's own
  growth: 1 = one copy of the array in memory, 0 = none.
* Labs: 50 labs to 256 numbers, rows/s of `pacx bank`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import interleave, ratio, say

if TYPE_CHECKING:
    from benchmarks.results import Row
    from benchmarks.teacher_sides import Sizes

# PyTorch is imported where it is needed: see `benchmarks.teacher_sides`.

SIDES = ("ours", "peer", "peer_fast_median")


def main() -> None:
    """Run the benchmark, or the peer alone for its memory."""
    from benchmarks.results import finish
    from benchmarks.teacher_sides import QUICK, Sizes, embed_peer, fast_median, make_net

    parser = argparse.ArgumentParser(prog="python -m benchmarks.teachers", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few records, a small network: shows that it runs")
    parser.add_argument(
        "--rounds", type=int, default=None, help="timed rounds per side [5; quick: 2]; fewer are not kept"
    )
    parser.add_argument("--peer-over", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", default="small", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("pacx").setLevel(logging.ERROR)
    sizes = QUICK if options.quick else Sizes()
    if options.peer_over:
        embed_peer(options.peer_over / "ecg.npy", make_net(options.size), sizes.peer_records, median=fast_median)
        return
    rounds = options.rounds or (2 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="pacx-benchmark-") as folder:
        results = measure(Path(folder), sizes, rounds=rounds)
        results["memory"] = compare_memory(Path(folder), sizes, quick=options.quick)
    finish("teachers", results, quick=options.quick or rounds < 5)


def measure(folder: Path, sizes: Sizes, *, rounds: int) -> dict[str, Any]:
    """Check that all sides agree, then time them in turns.

    Args:
        folder: an empty folder for stores and banks.
        sizes: how much.
        rounds: timed rounds per side.
    """
    from benchmarks import teacher_sides as side

    say("writing records")
    store = side.write_ecgs(folder / "ecg", sizes.records)
    net = side.make_net(sizes.size)
    difference = side.check_equal(folder, store, net, num=min(sizes.peer_records, 4))
    numbers = itertools.count()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: side.embed_ours(store, net, folder / f"bank-{next(numbers)}"),
        "peer": lambda: side.embed_peer(store.path / "ecg.npy", net, sizes.peer_records),
        "peer_fast_median": lambda: side.embed_peer(
            store.path / "ecg.npy", net, sizes.peer_records, median=side.fast_median
        ),
    }
    seconds = interleave(sides, rounds=rounds, label="embedding ECGs")
    counts = {name: sizes.records if name == "ours" else sizes.peer_records for name in sides}
    each = {name: [second / counts[name] for second in times] for name, times in seconds.items()}
    ratios = {name: ratio(each[name], each["ours"]) for name in SIDES[1:]}
    return {
        "ecg_speed_ratio": ratios["peer"]["ratio"],
        "ecg_speed_ratio_fast_median": ratios["peer_fast_median"]["ratio"],
        "rounds": rounds,
        "ratios": ratios,
        "records_per_second": {name: side.rate(times) for name, times in each.items()},
        "milliseconds_of_one_core": side.time_parts(store, net, sizes, rounds=rounds),
        "labs_rows_per_second": side.time_labs(folder, sizes, rounds=rounds),
        "embeddings_differ_by": difference,
        "scipy": version("scipy"),
        "sizes": vars(sizes),
    }


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table."""
    from benchmarks.results import Row

    speed, parts, memory = results["records_per_second"], results["milliseconds_of_one_core"], results["memory"]
    return [
        Row("ECG embedding, records/s, times the plain loop's", results["ratios"]["peer"]),
        Row("ECG embedding, records/s, times the loop's with a fast median", results["ratios"]["peer_fast_median"]),
        *(Row(f"ECG records/s, {name.replace('_', ' ')}", speed[name]) for name in SIDES),
        *(Row(f"ms of one core per record, {name}", value) for name, value in parts.items()),
        *(
            Row(f"peak memory, {name}, {results['sizes']['records']} records, MiB", memory["peak_mib"][name])
            for name in SIDES[:2]
        ),
        *(
            Row(f"growth of the peak from N to 2N records, {name}, share of the array's", memory["growth_share"][name])
            for name in SIDES[:2]
        ),
        Row("labs rows/s, 50 labs to 256 numbers", results["labs_rows_per_second"]),
    ]


def compare_memory(folder: Path, sizes: Sizes, *, quick: bool) -> dict[str, Any]:
    """Measure the memory of both sides, each in a process of its own.

    Ours is the command `pacx bank`. The peer embeds its first records only, for it is slow; what it holds is decided
    when it loads the array. The growth from N to 2N records is measured with a small network, whose own memory does
    not hide it.
    """
    from benchmarks.teacher_sides import save_teacher, write_ecgs

    few, many, full = sizes.memory_records, 2 * sizes.memory_records, sizes.records
    teachers = {name: save_teacher(folder / f"teacher-{name}", name) for name in dict.fromkeys(("small", sizes.size))}
    peaks: dict[str, list[float]] = {name: [] for name in SIDES[:2]}
    for number, (size, count) in enumerate((("small", few), ("small", many), (sizes.size, full))):
        store = write_ecgs(folder / f"memory-{number}", count).path
        bank = ["--store", store, "--teacher", teachers[size], "--device", "cpu", "--out", folder / f"out-{number}"]
        peer = ["benchmarks.teachers", "--peer-over", store, "--size", size, *(["--quick"] if quick else [])]
        for name, words in (("ours", ["pacx.cli", "bank", *bank]), ("peer", peer)):
            say(f"memory of {name}, {size} network, {count} records")
            peaks[name].append(peak_of([sys.executable, "-m", *map(str, words)]))
    array_mib = few * 12 * 5000 * 2 / 2**20
    return {
        "array_growth_mib": round(array_mib, 1),
        "growth_records": [few, many],
        "growth_share": {name: round((of[1] - of[0]) / array_mib, 3) for name, of in peaks.items()},
        "peak_mib": {name: round(of[2]) for name, of in peaks.items()},
        "peak_mib_small": {name: [round(peak) for peak in of[:2]] for name, of in peaks.items()},
    }


def peak_of(command: list[str]) -> float:
    """Run a command; return the most memory that it and its children held together, MiB, looked at 20 times a second.

    Pages that several of them share count once (PSS of Linux).
    """
    peak = 0.0
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        while process.poll() is None:
            peak = max(peak, _tree_pss_mib(process.pid))
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command} failed: {said.read().decode()[-2000:]}")
    return peak


def _tree_pss_mib(root: int) -> float:
    children: list[int] = [root]
    for process in children:  # grows while it is read: the children's children
        for tasks in Path(f"/proc/{process}/task").glob("*/children"):
            with _may_be_gone():
                children += [int(child) for child in tasks.read_text().split()]
    total = 0
    for process in children:
        with _may_be_gone():
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@contextmanager
def _may_be_gone() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        return


if __name__ == "__main__":
    main()
