"""Which token stands for an image: the one that serves a task best on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pacx.evaluation.problems import Attempt, Problem
from pacx.frozen.features import Token

__all__ = ["choose_token"]


def choose_token(by_token: Mapping[Token, Sequence[Attempt]]) -> list[Attempt]:
    """Keep one token per task and training subset, and say which in `chosen`.

    The best by AUROC on the validation split, the mean over the task's labels; the first on a tie or if it is
    undefined.

    Args:
        by_token: attempts at the same problems, in the same order.
    """
    tried: dict[tuple[str, float, int], dict[Token, list[float]]] = {}
    for token, attempts in by_token.items():
        for attempt in attempts:
            tried.setdefault(_key(attempt.problem), {}).setdefault(token, []).append(attempt.val_auroc)
    best = {key: _best(found) for key, found in tried.items()}
    kept = []
    for same in zip(*by_token.values(), strict=True):
        token = best[_key(same[0].problem)]
        attempt = dict(zip(by_token, same, strict=True))[token]
        kept.append(replace(attempt, chosen={**attempt.chosen, "token": token}))
    return kept


def _key(problem: Problem) -> tuple[str, float, int]:
    return problem.task.name, problem.fraction, problem.seed


def _best(found: Mapping[Token, Sequence[float]]) -> Token:
    def mean(token: Token) -> float:
        defined = [value for value in found[token] if np.isfinite(value)]
        return float(np.mean(defined)) if defined else -np.inf

    return max(found, key=mean)
