"""Mean AUROC of encoders over a group of tasks, and differences between two, from one set of draws.

The tasks of a group share their patients: one set of draws over the patients of all its tasks keeps the tasks' errors
together, which independent draws would take for independent evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.evaluation.reporting.collect import Record
from pacx.scoring import QuestionScores, Scorer, on_shared_subsets, questions
from pacx.statistics import difference_of, interval_of

__all__ = ["GroupScores"]

_DRAWS = 1000


class _Mean(NamedTuple):
    value: float
    draws: NDArray[np.float64]
    """(draws,)"""
    of_runs: pd.Series
    """the same for each pooled run, by its number"""


class GroupScores:
    """Scores each encoder once for each question, however often it is then averaged and compared.

    Args:
        tables: predictions by encoder.
        draws: number of bootstrap draws.
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame], *, draws: int = _DRAWS) -> None:
        self.scorer = Scorer(draws=draws)
        self.questions = {label: dict(questions(table)) for label, table in tables.items()}

    def score(self, label: str, tasks: Mapping[str, str], *, fraction: float, among: Iterable[str]) -> Record:
        """Average an encoder's AUROC over tasks.

        Args:
            label: the encoder.
            tasks: the tasks to average over, with the label that stands for each.
            fraction: share of the training labels.
            among: encoders that it is set beside; training subsets that one of them lacks are left out
                (`pacx.scoring.on_shared_subsets`).

        Returns:
            value, low, high, sd_over_runs (NaN where no seeds are pooled).
        """
        found = self._mean(label, tasks, fraction=fraction, among=among)
        return {**interval_of(found.value, found.draws)._asdict(), "sd_over_runs": float(found.of_runs.std(ddof=1))}

    def difference(self, label: str, baseline: str, tasks: Mapping[str, str], *, fraction: float) -> Record:
        """Average a paired difference over tasks; both encoders were tested on the same images.

        Returns:
            tasks, value_a, value_b, difference (a minus b), low, high, p_value.
        """
        sides = {label, baseline}
        a, b = (self._mean(one, tasks, fraction=fraction, among=sides) for one in (label, baseline))
        difference = difference_of(a.value - b.value, a.draws - b.draws)
        return {
            "tasks": list(tasks),
            "value_a": a.value,
            "value_b": b.value,
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p_value": difference.p_value,
        }

    def _mean(self, label: str, tasks: Mapping[str, str], *, fraction: float, among: Iterable[str]) -> _Mean:
        own = {task: self._question(label, task, tasks[task], fraction) for task in tasks}
        patients = np.unique(np.concatenate([scores.patient for scores in own.values()]).astype(str))
        found = []
        for task, scores in own.items():
            sides = [self._question(one, task, tasks[task], fraction) for one in {label, *among}]
            kept = on_shared_subsets([scores, *sides], fraction=fraction)[0]
            found.append(self._score(kept, patients))
        of_runs = pd.concat([one.of_runs for one in found], axis=1).mean(axis=1)
        return _Mean(
            float(np.mean([one.value for one in found])), np.stack([one.draws for one in found]).mean(0), of_runs
        )

    def _score(self, scores: QuestionScores, patients: NDArray[np.str_]) -> _Mean:
        if not scores.seeds:  # no training subset in common
            return _Mean(np.nan, np.full(self.scorer.draws, np.nan), pd.Series(dtype=np.float64))
        found = self.scorer.score(scores, patients=patients)
        of_runs = pd.Series(found.value).groupby(np.asarray(scores.runs)).mean()
        return _Mean(float(found.value.mean()), found.draws.mean(axis=0), of_runs)

    def _question(self, label: str, task: str, stands: str, fraction: float) -> QuestionScores:
        return self.questions[label][task, stands, fraction]
