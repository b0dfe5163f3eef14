"""k nearest neighbours beside the linear probes: what of a feature space is there without any fit.

    p = (pi + sum over the k nearest i of w_i y_i) / (1 + sum of w_i),   w_i = exp((cos_i - cos_1) / T)

* Cosine similarity of standardised features, votes weighted with T = .07 (Wu et al. 2018, section 3.4). The first term
  is one more neighbour that votes like the share pi of positives in the training subset, so that the
  log-odds of p are finite.
* k is the best of `NEIGHBOURS` and sqrt(n) by AUROC on the validation split, the first of them on a tie; sqrt(n) alone
  if that is undefined.
* A block of queries is multiplied with all training rows once, whatever the number of training subsets; memory does
  not grow with the queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.evaluation.problems import Attempt, ProbeData, Problem, Scores, by_rows, give_up, scores_of, undefined_in_test
from pacx.side_by_side import map_side_by_side
from pacx.statistics import macro_auroc

__all__ = ["NEIGHBOURS", "TEMPERATURE", "run_neighbours"]

NEIGHBOURS = (1, 5, 20, 100)
"""Values of k that are tried, as far as there are so many training rows."""
TEMPERATURE = 0.07
_BLOCK_BYTES, _BLOCK_ROWS = 96 << 20, 1024
_NO_CHOICE: Mapping[str, Any] = {"k": None}


def run_neighbours(data: ProbeData, problems: Sequence[Problem]) -> list[Attempt]:
    """Let the nearest training rows vote on every row of val and test; choose k; the order of the problems stays.

    Args:
        data: standardised features.
        problems: labels and training subsets.
    """
    queries = {split: data.rows[split] for split in ("val", "test")}
    groups = [_Voters.of(data, problems, numbers) for numbers in by_rows(problems)]
    groups = [group for group in groups if group.columns]
    votes = _vote(data, groups, np.concatenate([*queries.values()]))
    attempts = [give_up(data, problem, _NO_CHOICE) if not problem.learnable(data) else None for problem in problems]
    for group, found in zip(groups, votes, strict=True):
        by_split = np.split(found, [len(queries["val"])])
        for number, own in group.columns.items():
            score = {split: part[..., own] for split, part in zip(queries, by_split, strict=True)}
            attempts[number] = _judge(data, problems[number], group.ks, score)
    return [attempt for attempt in attempts if attempt is not None]


@dataclass(frozen=True)
class _Voters:
    """A training subset, and what its rows vote on."""

    rows: Tensor
    """(n,) places among the training rows with an image"""
    target: Tensor
    """(n, K) float32, 0 or 1"""
    columns: dict[int, slice]
    """which of the K columns belong to which problem, by its number"""
    ks: tuple[int, ...]

    @classmethod
    def of(cls, data: ProbeData, problems: Sequence[Problem], numbers: Sequence[int]) -> _Voters:
        """Collect what can be learnt for problems on the same rows."""
        rows = problems[numbers[0]].rows
        columns: dict[int, slice] = {}
        targets = [np.empty((len(rows), 0))]
        for number in numbers:
            label = data.label(problems[number].label, rows)
            values = list(problems[number].learnable(data).values())
            if values:
                first = sum(target.shape[1] for target in targets)
                columns[number] = slice(first, first + len(values))
                targets.append(label[:, None] == values)
        ks = tuple(dict.fromkeys(min(k, len(rows)) for k in (*NEIGHBOURS, math.isqrt(len(rows)))))
        places = np.searchsorted(data.rows["train"], rows)
        return cls(torch.from_numpy(places), torch.from_numpy(np.hstack(targets)).float(), columns, ks)

    def vote(self, cosine: Tensor) -> Tensor:
        """Turn similarities (B, n) into log-odds (B, ks, K)."""
        nearest = cosine.topk(max(self.ks), dim=1)
        weight = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
        hits = weight[..., None] * self.target[nearest.indices]
        share = self.target.mean(dim=0)
        odds = []
        for k in self.ks:
            positive, total = hits[:, :k].sum(dim=1), weight[:, :k].sum(dim=1, keepdim=True)
            odds.append((positive + share).log() - (total - positive + 1.0 - share).log())
        return torch.stack(odds, dim=1)


def _vote(data: ProbeData, groups: Sequence[_Voters], queries: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return the log-odds of each group, (queries, ks, K)."""
    training = _unit(torch.from_numpy(data.of(data.rows["train"])))
    found = [torch.empty(len(queries), len(group.ks), group.target.shape[1]) for group in groups]
    size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * len(training))))

    def vote(block: slice) -> None:
        cosine = _unit(torch.from_numpy(data.of(queries[block]))) @ training.T
        for group, odds in zip(groups, found, strict=True):
            everybody = len(group.rows) == len(training)
            odds[block] = group.vote(cosine if everybody else cosine.index_select(1, group.rows))

    blocks = [slice(start, start + size) for start in range(0, len(queries), size)]
    map_side_by_side(vote, blocks, size=lambda _: 1.0, label="neighbours", unit="block")
    return [odds.numpy() for odds in found]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=1)


def _judge(data: ProbeData, problem: Problem, ks: Sequence[int], score: Mapping[str, NDArray[np.float32]]) -> Attempt:
    """Choose k on the validation rows and score the test rows."""
    outputs = problem.learnable(data)

    def scores(split: str, place: int) -> Scores:
        known = ~np.isnan(data.label(problem.label, data.rows[split]))
        return scores_of(data, problem, outputs, data.rows[split][known], score[split][known, place])

    tried = [scores("val", place) for place in range(len(ks))]
    found = [macro_auroc(val.target, val.score) for val in tried]
    defined = bool(np.isfinite(found).all())
    best = int(np.argmax(found)) if defined else ks.index(math.isqrt(len(problem.rows)))
    notes = () if defined else ("one class in the validation split: k = square root of the training rows",)
    test = scores("test", best)
    return Attempt(
        problem,
        problem.num_positives(data),
        {"k": ks[best]},
        (*notes, *undefined_in_test(test)),
        tuple(outputs),
        found[best],
        tried[best],
        test,
    )
