"""The benchmark of the teachers compares like with like; how fast anything is, is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import table, teacher_sides, teachers

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
TINY = teacher_sides.Sizes("small", records=3, peer_records=2, memory_records=4, lab_rows=20, single=1)


def test_both_sides_embed_the_same_records_and_every_figure_gets_a_row(tmp_path: Path) -> None:
    results = teachers.measure(tmp_path, TINY, rounds=1)
    assert results["embeddings_differ_by"] <= 1e-4
    sides = {"ours": 1, "peer": 2}
    results["memory"] = {"peak_mib": sides, "growth_share": sides}
    lines = teachers.rows(results)
    assert len({line.what for line in lines}) == len(lines) == 13
    machine = {"cpu": "x", "cores": 2, "python": "3", "versions": {}}
    more = {"benchmark": "teachers", "command": "c", "date": "d", "commit": "e", "threads": 1, "machine": machine}
    assert "times the plain loop's" in table.render({**results, **more})


def test_sides_that_embed_differently_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = teacher_sides.make_net("small")
    store = teacher_sides.write_ecgs(tmp_path / "ecg", 3)
    monkeypatch.setattr(teacher_sides, "fast_median", lambda lead: 0 * lead)
    with pytest.raises(SystemExit, match="they are not compared"):
        teacher_sides.check_equal(tmp_path, store, net, num=2)


def test_memory_is_that_of_the_process_and_its_children() -> None:
    child = "import time; kept = b'x' * (60 << 20); time.sleep(0.6)"
    parent = f"import subprocess, sys; kept = b'x' * (40 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    assert 100 < teachers.peak_of([sys.executable, "-c", parent]) < 160
    with pytest.raises(SystemExit, match=r"(?s)failed: .*ZeroDivisionError"):
        teachers.peak_of([sys.executable, "-c", "1 / 0"])


def test_worker_processes_need_not_load_torch_to_read_the_main_program_again() -> None:
    code = "import sys, benchmarks.teachers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_a_quick_run_ends_with_one_object_that_has_the_promised_keys() -> None:
    command = [sys.executable, "-m", "benchmarks.teachers", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = json.loads(run.stdout.splitlines()[-1])
    assert {"ecg_speed_ratio", "labs_rows_per_second", "memory"} <= set(last) and last["quick"] is True
