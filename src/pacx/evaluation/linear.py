"""The work behind a linear probe: which rows, which problems, which C.

Problems with the same training rows (all labels of a task at 100 %, all outputs of a multiclass label) are fitted
together with all strengths, in one call of `fit_logistic`. See `pacx.evaluation.probe` for the protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.manifest import SPLITS, Task, subset_rows
from pacx.data.store import Store
from pacx.evaluation.logistic import fit_logistic
from pacx.statistics import macro_auroc

__all__ = ["STRENGTHS", "Attempt", "ProbeData", "Problem", "make_problems", "predictions_table", "run_probes"]

STRENGTHS = 10.0 ** np.arange(-6, 2)
"""Values of C that are tried; features are standardised, so one grid serves all encoders."""

log = logging.getLogger("pacx")


@dataclass(frozen=True)
class ProbeData:
    """Standardised features of the rows with an image, and where each store row is in them."""

    store: Store
    features: NDArray[np.float32]
    """(n, D), zero mean and unit variance over the training images"""
    position: NDArray[np.int64]
    """(N,) row of `features` for each store row, -1 without an image"""
    rows: dict[str, NDArray[np.int64]]
    """store rows with an image, by split"""

    @classmethod
    def standardised(cls, store: Store, rows: NDArray[np.int64], features: NDArray[np.float32]) -> ProbeData:
        """Standardise features (n, D) of store rows (n,) by the training split."""
        position = np.full(len(store), -1)
        position[rows] = np.arange(len(rows))
        splits = {split: store.rows(split, needs=("image",)) for split in SPLITS}
        training = features[position[splits["train"]]]
        mean, sd = training.mean(axis=0, dtype=np.float64), training.std(axis=0, dtype=np.float64)
        # A feature that is constant up to float32 rounding carries nothing; scaling would blow the rounding up.
        scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6 * np.maximum(np.abs(mean), 1.0))
        return cls(store, ((features - mean) * scale).astype(np.float32), position, splits)

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


class Attempt(NamedTuple):
    """What came of a problem."""

    problem: Problem
    strength: float
    """the C that was used; NaN if nothing could be fitted"""
    num_positives: int
    """training rows of the rarest output"""
    notes: tuple[str, ...]
    """why a score is undefined, or how C was chosen if not on the validation rows"""
    outputs: tuple[str, ...] = ()
    """what was learnt; a class without training rows is missing here"""
    test_rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    """(n,) store rows"""
    target: NDArray[np.bool_] = np.empty((0, 0), dtype=bool)
    """(n, outputs)"""
    score: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
    """(n, outputs) log-odds"""


def make_problems(data: ProbeData, tasks: Sequence[Task], *, fractions: Sequence[float], seeds: int) -> list[Problem]:
    """List every label of every task with every training subset; at fraction 1 there is only one subset."""
    table, train = data.store.manifest, data.rows["train"]
    return [
        Problem(task, label, fraction, seed, subset_rows(table, train, fraction=fraction, seed=seed, label=label))
        for task in tasks
        for label in task.labels
        for fraction in fractions
        for seed in range(1 if fraction == 1.0 else seeds)
    ]


def run_probes(data: ProbeData, problems: Sequence[Problem]) -> list[Attempt]:
    """Fit all problems, each with the best strength, and score the test rows; the order stays."""
    groups: dict[bytes, list[int]] = {}
    for number, problem in enumerate(problems):
        groups.setdefault(problem.rows.tobytes(), []).append(number)
    attempts: dict[int, Attempt] = {}
    for numbers in tqdm(groups.values(), desc="probes", unit="subset", leave=False, disable=None):
        attempts.update(zip(numbers, _fit_group(data, [problems[number] for number in numbers]), strict=True))
    return [attempts[number] for number in range(len(problems))]


def predictions_table(store: Store, attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Write all test scores as one table, in the form that `pacx.scoring` describes."""
    sizes = [attempt.score.size for attempt in attempts]
    rows = np.concatenate([np.tile(a.test_rows, len(a.outputs)) for a in attempts])

    def spread(values: Sequence[Any]) -> NDArray[Any]:
        return np.repeat(np.asarray(values), sizes)

    outputs = [output for a in attempts for output in a.outputs]
    lengths = [len(a.test_rows) for a in attempts for _ in a.outputs]
    table = pd.DataFrame(
        {
            "task": pd.Categorical(spread([a.problem.task.name for a in attempts])),
            "label": pd.Categorical(spread([a.problem.label for a in attempts])),
            "output": pd.Categorical(np.repeat(np.asarray(outputs, dtype=str), lengths)),
            "fraction": spread([a.problem.fraction for a in attempts]).astype(np.float64),
            "seed": spread([a.problem.seed for a in attempts]).astype(np.int64),
            "target": np.concatenate([a.target.T.ravel() for a in attempts]).astype(np.int8),
            "score": np.concatenate([a.score.T.ravel() for a in attempts]).astype(np.float32),
        }
    )
    for position, column in ((5, "image_id"), (6, "patient_id")):
        table.insert(position, column, store.manifest[column].astype(str).astype("category").iloc[rows].to_numpy())
        table[column] = table[column].astype("category")
    return table


def _fit_group(data: ProbeData, group: Sequence[Problem]) -> list[Attempt]:
    """Fit every learnable output of problems on the same rows with every strength, then choose per problem."""
    rows = group[0].rows
    learnt = [_learnable(data, problem) for problem in group]
    columns = [
        data.label(problem.label, rows) == value
        for problem, outputs in zip(group, learnt, strict=True)
        for value in outputs.values()
    ]
    if not columns:
        return [_give_up(data, problem) for problem in group]
    strengths = np.append(STRENGTHS, 1.0 / data.features.shape[1])
    targets = np.repeat(np.stack(columns, axis=1), len(strengths), axis=1)
    fit = fit_logistic(data.of(rows), targets, np.tile(strengths, len(columns)))
    weight = fit.weight.reshape(-1, len(columns), len(strengths))
    intercept = fit.intercept.reshape(len(columns), len(strengths))
    attempts, first = [], 0
    for problem, outputs in zip(group, learnt, strict=True):
        own = slice(first, first + len(outputs))
        first += len(outputs)
        candidates = _Candidates(strengths, weight[:, own], intercept[own])
        attempts.append(_test(data, problem, outputs, candidates) if outputs else _give_up(data, problem))
    return attempts


class _Candidates(NamedTuple):
    strength: NDArray[np.float64]
    """(S,) the last one is the fallback"""
    weight: NDArray[np.float64]
    """(D, outputs, S)"""
    intercept: NDArray[np.float64]
    """(outputs, S)"""


def _test(data: ProbeData, problem: Problem, outputs: dict[str, int], candidates: _Candidates) -> Attempt:
    """Choose C on the validation rows and score the test rows."""
    values = np.array(list(outputs.values()))
    best, notes = _choose(data, problem, values, candidates)
    test = data.known(problem.label, "test")
    target = data.label(problem.label, test)[:, None] == values
    if not (target.any(axis=0) & ~target.all(axis=0)).any():
        notes = (*notes, "one class in the test split" if len(test) else "no labelled test image")
    score = data.of(test) @ candidates.weight[..., best] + candidates.intercept[:, best]
    return Attempt(
        problem,
        float(candidates.strength[best]),
        _num_positives(data, problem),
        notes,
        tuple(outputs),
        test,
        target,
        score.astype(np.float32),
    )


def _choose(
    data: ProbeData, problem: Problem, values: NDArray[np.int64], candidates: _Candidates
) -> tuple[int, tuple[str, ...]]:
    """Return the number of the chosen strength, and a note if it was not chosen on the validation rows."""
    val = data.known(problem.label, "val")
    target = data.label(problem.label, val)[:, None] == values
    logits = np.tensordot(data.of(val), candidates.weight, axes=1) + candidates.intercept
    found = np.array([macro_auroc(target, logits[..., i]) for i in range(len(candidates.strength) - 1)])
    if np.isfinite(found).all():
        return int(np.argmax(found)), ()
    return len(candidates.strength) - 1, ("one class in the validation split: C = 1/D",)


def _learnable(data: ProbeData, problem: Problem) -> dict[str, int]:
    """Keep the outputs of which the training subset holds both sides."""
    label = data.label(problem.label, problem.rows)
    return {
        output: value
        for output, value in problem.outputs(data).items()
        if 0 < np.count_nonzero(label == value) < len(label)
    }


def _give_up(data: ProbeData, problem: Problem) -> Attempt:
    note = "one class in the training subset" if len(problem.rows) else "no labelled training image"
    log.warning("%s/%s at %g: %s, not probed", problem.task.name, problem.label, problem.fraction, note)
    return Attempt(problem, float("nan"), _num_positives(data, problem), (note,))


def _num_positives(data: ProbeData, problem: Problem) -> int:
    label = data.label(problem.label, problem.rows)
    return min(int((label == value).sum()) for value in problem.outputs(data).values())
