"""What a probe is asked and what it answers: features by row, problems (one label, one training subset), attempts.

Every protocol takes the same problems and gives the same kind of attempt, so that one table of predictions and one set
of scores serve them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.manifest import SPLITS, Task, subset_rows
from pacx.data.store import Store

__all__ = [
    "Attempt",
    "LinearMap",
    "ProbeData",
    "Problem",
    "Scores",
    "by_rows",
    "give_up",
    "make_problems",
    "predictions_table",
    "scores_of",
    "undefined_in_test",
]


@dataclass(frozen=True)
class ProbeData:
    """Features of the rows with an image, and where each store row is in them."""

    store: Store
    features: NDArray[np.float32]
    """(n, D)"""
    position: NDArray[np.int64]
    """(N,) row of `features` for each store row, -1 without an image"""
    rows: dict[str, NDArray[np.int64]]
    """store rows with an image, by split"""
    mean: NDArray[np.float64]
    """(D,) what was taken off the features as the encoder makes them"""
    scale: NDArray[np.float64]
    """(D,) what they were then multiplied by"""

    @classmethod
    def raw(cls, store: Store, rows: NDArray[np.int64], features: NDArray[np.float32]) -> ProbeData:
        """Take the features (n, D) of store rows (n,) as they are."""
        position = np.full(len(store), -1)
        position[rows] = np.arange(len(rows))
        width = features.shape[1]
        by_split = {split: store.rows(split, needs=("image",)) for split in SPLITS}
        return cls(store, features, position, by_split, np.zeros(width), np.ones(width))

    @classmethod
    def standardised(cls, store: Store, rows: NDArray[np.int64], features: NDArray[np.float32]) -> ProbeData:
        """Standardise features (n, D) of store rows (n,): zero mean and unit variance over the training images."""
        data = cls.raw(store, rows, features)
        training = data.of(data.rows["train"])
        mean, sd = training.mean(axis=0, dtype=np.float64), training.std(axis=0, dtype=np.float64)
        # A feature that is constant up to float32 rounding carries nothing; scaling would blow the rounding up.
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6 * np.maximum(np.abs(mean), 1.0))
        return cls(store, ((features - mean) * scale).astype(np.float32), data.position, data.rows, mean, scale)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of store rows."""
        return self.features[self.position[rows]]

    def label(self, column: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a label of store rows, NaN = unknown."""
        return self.store.manifest[column].to_numpy(dtype=np.float64)[rows]

    def known(self, column: str, split: str) -> NDArray[np.int64]:
        """Return the store rows of a split whose label is known."""
        rows = self.rows[split]
        return rows[~np.isnan(self.label(column, rows))]


@dataclass(frozen=True)
class Problem:
    """One label, learnt from one training subset."""

    task: Task
    label: str
    fraction: float
    seed: int
    rows: NDArray[np.int64]
    """training rows of the store, all with a known label"""

    def outputs(self, data: ProbeData) -> dict[str, int]:
        """Name and value of each class that is set against the rest."""
        if self.task.kind != "multiclass":
            return {self.label: 1}
        names = self.task.classes or tuple(
            str(number) for number in range(int(np.nanmax(data.store.manifest[self.label])) + 1)
        )
        return {name: number for number, name in enumerate(names)}

    def learnable(self, data: ProbeData) -> dict[str, int]:
        """Keep the outputs of which the training subset holds both sides."""
        label = data.label(self.label, self.rows)
        return {
            output: value
            for output, value in self.outputs(data).items()
            if 0 < np.count_nonzero(label == value) < len(label)
        }

    def num_positives(self, data: ProbeData) -> int:
        """Count the training rows of the rarest output."""
        label = data.label(self.label, self.rows)
        return min(int((label == value).sum()) for value in self.outputs(data).values())


class Scores(NamedTuple):
    """What a probe says of rows whose label is known."""

    rows: NDArray[np.int64]
    """(n,) store rows"""
    target: NDArray[np.bool_]
    """(n, outputs)"""
    score: NDArray[np.float32]
    """(n, outputs) log-odds"""


_NOTHING = Scores(np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=bool), np.empty((0, 0), dtype=np.float32))


class LinearMap(NamedTuple):
    """log-odds = features @ weight + bias, for features as the encoder makes them."""

    weight: NDArray[np.float64]
    """(D, outputs)"""
    bias: NDArray[np.float64]
    """(outputs,)"""


@dataclass(frozen=True)
class Attempt:
    """What came of a problem."""

    problem: Problem
    num_positives: int
    """training rows of the rarest output"""
    chosen: Mapping[str, Any]
    """what was chosen on the validation rows, e.g. C; NaN if nothing could be fitted"""
    notes: tuple[str, ...]
    """why a score is undefined, or how a choice was made if not on the validation rows"""
    outputs: tuple[str, ...] = ()
    """what was learnt; a class without training rows is missing here"""
    val_auroc: float = float("nan")
    """of what was chosen, the mean over outputs"""
    val: Scores = _NOTHING
    test: Scores = _NOTHING
    head: LinearMap | None = None
    """what was fitted, where it is a linear map"""


def make_problems(data: ProbeData, tasks: Sequence[Task], *, fractions: Sequence[float], seeds: int) -> list[Problem]:
    """List every label of every task with every training subset; at fraction 1 there is only one subset."""
    table, train = data.store.manifest, data.rows["train"]
    drawn: dict[tuple[str, float, int], NDArray[np.int64]] = {}
    problems = []
    for task in tasks:
        for label in task.labels:
            for fraction in fractions:
                for seed in range(1 if fraction == 1.0 else seeds):
                    key = (label, fraction, seed)  # a label of two tasks is drawn once
                    if key not in drawn:
                        drawn[key] = subset_rows(table, train, fraction=fraction, seed=seed, label=label)
                    problems.append(Problem(task, label, fraction, seed, drawn[key]))
    return problems


def by_rows(problems: Sequence[Problem]) -> list[list[int]]:
    """Group the numbers of problems that have the same training rows."""
    groups: dict[bytes, list[int]] = {}
    for number, problem in enumerate(problems):
        groups.setdefault(problem.rows.tobytes(), []).append(number)
    return list(groups.values())


def scores_of(
    data: ProbeData, problem: Problem, outputs: Mapping[str, int], rows: NDArray[np.int64], score: NDArray[Any]
) -> Scores:
    """Set scores (n, outputs) of store rows (n,) with a known label beside what is true."""
    target = data.label(problem.label, rows)[:, None] == np.array(list(outputs.values()))
    return Scores(rows, target, score.astype(np.float32))


def undefined_in_test(test: Scores) -> tuple[str, ...]:
    """Say why a test score is undefined, if it is."""
    if (test.target.any(axis=0) & ~test.target.all(axis=0)).any():
        return ()
    return ("one class in the test split" if len(test.rows) else "no labelled test image",)


def give_up(data: ProbeData, problem: Problem, chosen: Mapping[str, Any]) -> Attempt:
    """Say why nothing can be learnt from a training subset."""
    note = "one class in the training subset" if len(problem.rows) else "no labelled training image"
    return Attempt(problem, problem.num_positives(data), chosen, (note,))


def predictions_table(
    store: Store, attempts: Sequence[Attempt], *, split: Literal["val", "test"] = "test"
) -> pd.DataFrame:
    """Write all scores of a split as one table, in the form that `pacx.scoring` describes."""
    found = [attempt.test if split == "test" else attempt.val for attempt in attempts]
    sizes = [scores.score.size for scores in found]
    rows = np.concatenate([np.tile(s.rows, len(a.outputs)) for a, s in zip(attempts, found, strict=True)])

    def spread(values: Sequence[Any]) -> NDArray[Any]:
        return np.repeat(np.asarray(values), sizes)

    outputs = [output for a in attempts for output in a.outputs]
    lengths = [len(s.rows) for a, s in zip(attempts, found, strict=True) for _ in a.outputs]
    table = pd.DataFrame(
        {
            "task": pd.Categorical(spread([a.problem.task.name for a in attempts])),
            "label": pd.Categorical(spread([a.problem.label for a in attempts])),
            "output": pd.Categorical(np.repeat(np.asarray(outputs, dtype=str), lengths)),
            "fraction": spread([a.problem.fraction for a in attempts]).astype(np.float64),
            "seed": spread([a.problem.seed for a in attempts]).astype(np.int64),
            "target": np.concatenate([s.target.T.ravel() for s in found]).astype(np.int8),
            "score": np.concatenate([s.score.T.ravel() for s in found]).astype(np.float32),
        }
    )
    for position, column in ((5, "image_id"), (6, "patient_id")):
        table.insert(position, column, store.manifest[column].astype(str).astype("category").iloc[rows].to_numpy())
        table[column] = table[column].astype("category")
    return table
