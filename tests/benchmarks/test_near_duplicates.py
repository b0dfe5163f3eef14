"""The benchmark of copies runs, finds mirrored images, and has a row for all it measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks import near_duplicates


def test_all_that_is_measured_is_shown(tmp_path: Path) -> None:
    found = near_duplicates.measure(tmp_path, quick=True, data=None)
    own = found["sets"]["simulated"]
    assert own["patients"] == 60 and own["pairs"] == 60 * 59 // 2
    assert own["found"]["mirrored"] == own["found"]["less contrast"] == 1.0
    assert set(own["found"]) == set(near_duplicates.CHANGES)
    assert len(near_duplicates.rows(found)) == 2 + len(near_duplicates.CHANGES)
