"""The rows of a probe's `result.json`: what each question, fraction and seed came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pacx.data.manifest import Task
from pacx.evaluation.problems import Attempt
from pacx.scoring import MACRO, Scored

__all__ = ["score_rows", "summary_rows"]

_UNDEFINED = {"value": np.nan, "low": np.nan, "high": np.nan}
_UNTESTED = {"num_test": 0, "num_test_patients": 0, "positives": 0}


def score_rows(attempts: Sequence[Attempt], scored: Scored) -> list[dict[str, Any]]:
    """Make one entry per task, label, fraction and seed, also for what could not be fitted."""
    rows = []
    for attempt in attempts:
        problem = attempt.problem
        key = (problem.task.name, problem.label, problem.fraction)
        interval = scored.single.get((*key, 0, problem.seed))
        tested = scored.mean.get(key, _UNTESTED)
        rows.append(
            {
                **_name(problem.task, problem.label, problem.fraction),
                "seed": problem.seed,
                **(interval._asdict() if interval else _UNDEFINED),
                **attempt.chosen,
                "val_auroc": attempt.val_auroc,
                "num_train": len(problem.rows),
                "num_train_positives": attempt.num_positives,
                **{name: tested[name] for name in _UNTESTED},
                "notes": attempt.notes,
            }
        )
    return rows


def summary_rows(tasks: Sequence[Task], attempts: Sequence[Attempt], scored: Scored) -> list[dict[str, Any]]:
    """Make one entry per task, label and fraction: the mean over seeds; then the mean over the labels of each task."""
    by_name = {task.name: task for task in tasks}
    trained: dict[tuple[str, str, float], list[Attempt]] = {}
    for attempt in attempts:
        problem = attempt.problem
        trained.setdefault((problem.task.name, problem.label, problem.fraction), []).append(attempt)
    undefined = {**_UNDEFINED, "sd_over_seeds": np.nan, "sd_over_runs": np.nan, "num_seeds": 0, "num_runs": 0}
    untested = {**undefined, **_UNTESTED}
    rows = [
        {
            **_name(by_name[key[0]], key[1], key[2]),
            **scored.mean.get(key, untested),
            "num_train": float(np.mean([len(attempt.problem.rows) for attempt in own])),
            "num_train_positives": float(np.mean([attempt.num_positives for attempt in own])),
            "notes": sorted({note for attempt in own for note in attempt.notes}),
        }
        for key, own in trained.items()
    ]
    macro = [{**_name(by_name[key[0]], *key[1:]), **row} for key, row in scored.mean.items() if key[1] == MACRO]
    return rows + macro


def _name(task: Task, label: str, fraction: float) -> dict[str, Any]:
    return {"task": task.name, "label": label, "group": task.group, "fraction": fraction, "metric": "auroc"}
