"""The benchmark of the bootstrap compares like with like and says what it promises."""

from __future__ import annotations

import warnings

import pytest
from benchmarks import bootstrap

SIZES = bootstrap.Sizes(patients=400, labels=2, draws=40, peer_draws=2, rounds=1)


def test_it_names_its_aim_and_says_what_is_extrapolated() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a draw of the peer may hold one class
        content = bootstrap.measure(SIZES)
    rows = bootstrap.rows(content)
    assert [row.at_most for row in rows] == [20.0, None, None, None]
    assert rows[0].what == "AUROC intervals, 400 patients x 2 labels x 40 resamples, s"
    assert "extrapolated from 2 resamples" in rows[1].what
    assert content["speed_ratio"]["ratio"] > 0


def test_aurocs_that_differ_from_scikit_learns_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = bootstrap.make_cohort(SIZES)
    bootstrap.check(SIZES, *cohort)
    assert bootstrap.ours(SIZES, *cohort).shape == (40, 2)
    true = bootstrap.auroc_draws
    monkeypatch.setattr(bootstrap, "auroc_draws", lambda *given: true(*given) + 1e-6)
    with pytest.raises(SystemExit, match="label 0: AUROCs differ"):
        bootstrap.check(SIZES, *cohort)
