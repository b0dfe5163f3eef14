"""Scores with intervals: what a scorer keeps is what the statistics module computes, and is computed once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pacx.scoring
from pacx.scoring import MACRO, Scorer, questions
from pacx.statistics import macro_auroc, macro_auroc_draws, resample_patients


def predictions(*, seeds: int = 3, images: int = 60, labels: tuple[str, ...] = ("edema", "copd")) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        [
            {
                "task": "t", "label": label, "output": label, "fraction": 1.0, "seed": seed,
                "image_id": f"i{image:03d}", "patient_id": f"p{image // 2}",
                "target": float((image + place) % 3 == 0), "score": rng.normal() + ((image + place) % 3 == 0),
            }
            for place, label in enumerate(labels)
            for seed in range(seeds)
            for image in range(images)
        ]
    )  # fmt: skip


def test_scores_equal_those_of_the_statistics_module() -> None:
    scorer = Scorer(draws=80, seed=4)
    for _, asked in questions(predictions()):
        found = scorer.score(asked)
        resamples = resample_patients(asked.patient, draws=80, seed=4)
        for score, value, draws in zip(asked.score, found.value, found.draws, strict=True):
            assert value == macro_auroc(asked.target, score)
            np.testing.assert_array_equal(draws, macro_auroc_draws(asked.target, score, resamples))


def test_a_column_is_scored_once_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    draws_of = pacx.scoring.auroc_draws
    monkeypatch.setattr(pacx.scoring, "auroc_draws", lambda *given: calls.append(1) or draws_of(*given))
    scorer, asked = Scorer(draws=20), dict(questions(predictions(seeds=3)))
    for _ in range(2):
        for one in asked.values():
            scorer.score(one)
    assert len(calls) == 2 * 3, "two labels, three trainings; their mean asks for the same columns"


def test_what_differs_is_not_taken_for_the_same() -> None:
    """Another target, another order of patients and another set of patients to draw from each give other draws."""
    scorer, table = Scorer(draws=50), predictions(seeds=1, labels=("edema",))
    ((_, asked),) = questions(table)
    ((_, other),) = questions(table.assign(target=1 - table["target"]))
    ((_, moved),) = questions(table.assign(patient_id=table["patient_id"].to_numpy()[::-1]))
    wider = np.unique([*asked.patient.astype(str), "q1", "q2"])
    drawn = [
        scorer.score(asked).draws,
        scorer.score(other).draws,
        scorer.score(moved).draws,
        scorer.score(asked, patients=wider).draws,
    ]
    for place, one in enumerate(drawn):
        assert all(not np.array_equal(one, another) for another in drawn[:place])
    np.testing.assert_array_equal(drawn[0], Scorer(draws=50).score(asked).draws)


def test_the_mean_over_labels_stands_beside_each_label() -> None:
    keys = [key for key, _ in questions(predictions())]
    assert keys == [("t", "edema", 1.0), ("t", "copd", 1.0), ("t", MACRO, 1.0)]
