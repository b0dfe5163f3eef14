"""The honest protocol's logistic regressions: which C, and what it scores. See `pacx.evaluation.probe`.

Problems with the same training rows (all labels of a task at 100 %, all outputs of a multiclass label) are fitted
together with all strengths, in one call of `fit_logistic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.evaluation.logistic import fit_logistic
from pacx.evaluation.problems import (
    Attempt,
    LinearMap,
    ProbeData,
    Problem,
    by_rows,
    give_up,
    scores_of,
    undefined_in_test,
)
from pacx.statistics import macro_auroc

__all__ = ["STRENGTHS", "run_probes"]

STRENGTHS = 10.0 ** np.arange(-6, 2)
"""Values of C that are tried; features are standardised, so one grid serves all encoders."""


def run_probes(data: ProbeData, problems: Sequence[Problem]) -> list[Attempt]:
    """Fit all problems, each with the best strength, and score the rows of val and test; the order stays.

    Args:
        data: standardised features.
        problems: labels and training subsets.
    """
    groups = by_rows(problems)
    attempts: dict[int, Attempt] = {}
    for numbers in tqdm(groups, desc="probes", unit="subset", leave=False, disable=None):
        attempts.update(zip(numbers, _fit_group(data, [problems[number] for number in numbers]), strict=True))
    return [attempts[number] for number in range(len(problems))]


def _fit_group(data: ProbeData, group: Sequence[Problem]) -> list[Attempt]:
    """Fit every learnable output of problems on the same rows with every strength, then choose per problem."""
    rows = group[0].rows
    learnt = [problem.learnable(data) for problem in group]
    columns = [
        data.label(problem.label, rows) == value
        for problem, outputs in zip(group, learnt, strict=True)
        for value in outputs.values()
    ]
    if not columns:
        return [give_up(data, problem, _NO_CHOICE) for problem in group]
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
        attempts.append(_judge(data, problem, outputs, candidates) if outputs else give_up(data, problem, _NO_CHOICE))
    return attempts


_NO_CHOICE: Mapping[str, Any] = {"C": float("nan")}


class _Candidates(NamedTuple):
    strength: NDArray[np.float64]
    """(S,) the last one is the fallback"""
    weight: NDArray[np.float64]
    """(D, outputs, S)"""
    intercept: NDArray[np.float64]
    """(outputs, S)"""


def _judge(data: ProbeData, problem: Problem, outputs: dict[str, int], candidates: _Candidates) -> Attempt:
    """Choose C on the validation rows and score the test rows."""
    val = data.known(problem.label, "val")
    target = data.label(problem.label, val)[:, None] == np.array(list(outputs.values()))
    logits = np.tensordot(data.of(val), candidates.weight, axes=1) + candidates.intercept
    found = np.array([macro_auroc(target, logits[..., i]) for i in range(len(candidates.strength))])
    defined = bool(np.isfinite(found).all())
    best = int(np.argmax(found[:-1])) if defined else len(found) - 1
    notes = () if defined else ("one class in the validation split: C = 1/D",)
    test = data.known(problem.label, "test")
    score = data.of(test) @ candidates.weight[..., best] + candidates.intercept[:, best]
    tested = scores_of(data, problem, outputs, test, score)
    return Attempt(
        problem,
        problem.num_positives(data),
        {"C": float(candidates.strength[best])},
        (*notes, *undefined_in_test(tested)),
        tuple(outputs),
        float(found[best]),
        scores_of(data, problem, outputs, val, logits[..., best]),
        tested,
        _as_made(data, candidates.weight[..., best], candidates.intercept[:, best]),
    )


def _as_made(data: ProbeData, weight: NDArray[np.float64], intercept: NDArray[np.float64]) -> LinearMap:
    """Rewrite a map of standardised features as one of features as the encoder makes them."""
    own = weight * data.scale[:, None]
    return LinearMap(own, intercept - data.mean @ own)
