from pathlib import Path

import numpy as np
import pytest

from pacx.errors import PacxError
from pacx.frozen.cache import KeptRows, keep, row_bytes

VALUES = np.random.default_rng(0).standard_normal((40, 3, 2)).astype(np.float32)
REFERENCE = np.arange(8)


def kept(cache: Path, rows, compute=lambda rows: {"x": VALUES[rows]}, *, facts: dict | None = None) -> KeptRows:
    return keep(
        cache, "things", facts=facts or {"of": 1}, shapes={"x": (3, 2)}, num_rows=40, reference=REFERENCE,
        rows=np.asarray(rows), compute=compute, batch_size=4,
    )  # fmt: skip


def test_what_is_kept_does_not_depend_on_the_order_in_which_it_is_asked_for(tmp_path: Path):
    kept(tmp_path / "a", [30, 12])
    forwards = kept(tmp_path / "a", np.arange(40)).read("x", np.arange(40))
    assert np.array_equal(kept(tmp_path / "b", np.arange(40)).read("x", np.arange(40)), forwards)
    np.testing.assert_allclose(forwards, VALUES, atol=2e-3)


def test_two_processes_that_make_the_same_folder_agree_on_one(tmp_path: Path):
    """While one computes the reference rows, another does the same and is first; its scales hold for both."""
    others = []

    def slow(rows):
        if not others:
            others.append(None)
            others[0] = kept(tmp_path, [20], lambda rows: {"x": VALUES[rows] + np.float32(1e-3)})
        return {"x": VALUES[rows]}

    ours = kept(tmp_path, [20, 21], slow)
    assert ours.folder == others[0].folder
    assert np.array_equal(ours.read("x", REFERENCE), others[0].read("x", REFERENCE))  # the first one's, kept
    np.testing.assert_allclose(ours.read("x", [21]), VALUES[[21]], atol=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == [ours.folder.name]


def test_other_facts_are_another_folder(tmp_path: Path):
    assert kept(tmp_path, [0]).folder != kept(tmp_path, [0], facts={"of": 2}).folder


def test_a_failure_while_the_folder_is_made_leaves_none(tmp_path: Path):
    def broken(rows):
        return {"x": np.full_like(VALUES[rows], np.nan)}

    with pytest.raises(PacxError, match="diverged"):
        kept(tmp_path, [0], broken)
    assert list(tmp_path.iterdir()) == []


def test_a_row_takes_two_bytes_per_number():
    assert row_bytes({"cls": (768,), "patches": (196, 768)}) == 2 * 768 * 197
