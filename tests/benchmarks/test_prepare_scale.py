"""The benchmark of a large store kills, goes on, and counts every file once."""

from __future__ import annotations

from pathlib import Path

from benchmarks import prepare_scale


def test_a_killed_run_goes_on_and_all_files_are_there(tmp_path: Path) -> None:
    found = prepare_scale.measure(tmp_path, prepare_scale.QUICK)
    assert 0 < found["killed_after_rows"] < 400
    assert found["rows_done_again"] == 0
    assert found["images_per_second"]["ours"] > 0
    assert len(prepare_scale.rows(found)) == 6
