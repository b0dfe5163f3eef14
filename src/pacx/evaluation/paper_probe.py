"""The published linear probes: which rows, which heads, which epoch. See `pacx.evaluation.probe` for the protocol.

One head per task and learning rate, on the raw class token. Heads on the same training rows are trained together, see
`pacx.evaluation.heads`; each seed has its own fresh heads, order of the rows and flips, at 100 % of the labels too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from pacx.data.manifest import Task
from pacx.data.splits import reference_rows, subset_rows
from pacx.evaluation.heads import Question, Schedule, TrainedHeads, train_heads
from pacx.evaluation.problems import Attempt, ProbeData, Problem, give_up, scores_of, undefined_in_test
from pacx.evaluation.validation import Validation
from pacx.side_by_side import map_side_by_side

__all__ = ["FIRST_SEED", "Sampler", "run_paper_probes"]

FIRST_SEED = 42
"""The published seed; seed number s of ours is 42 + s."""

Sampler = Literal["patients", "reference"]
"""Training subsets: nested, stratified and by patient; or by image, as the published implementation draws them."""


def run_paper_probes(
    data: ProbeData,
    mirrored: NDArray[np.float32],
    schedules: Mapping[Task, Schedule],
    *,
    fractions: Sequence[float],
    seeds: int,
    sampler: Sampler = "reference",
) -> list[Attempt]:
    """Train the heads of all tasks on all training subsets; choose epoch and learning rate on the validation rows.

    Args:
        data: raw features.
        mirrored: (n, D) features of the mirrored training images, in the order of `data.rows["train"]`.
        schedules: how the heads of each task are trained.
        fractions: shares of the training labels.
        seeds: runs per fraction.
        sampler: how subsets are drawn.

    Returns:
        An attempt for each label of each task, at each fraction and seed.
    """
    cached = _Cached(data, mirrored)
    stacks: dict[tuple[Schedule, int, bytes], list[_Subset]] = {}
    for subset in _subsets(data, schedules, fractions=fractions, seeds=seeds, sampler=sampler):
        stacks.setdefault((schedules[subset.task], subset.seed, subset.rows.tobytes()), []).append(subset)
    trained = map_side_by_side(
        lambda stack: _train_stack(cached, stack, schedules[stack[0].task]),
        list(stacks.values()),
        size=lambda stack: schedules[stack[0].task].epochs * len(stack[0].rows),
        label="heads",
        unit="subset",
    )
    attempts = [attempt for stack in trained for attempt in stack]
    tasks = [task.name for task in schedules]

    def place(problem: Problem) -> tuple[int, int, float, int]:
        own = tasks.index(problem.task.name), problem.task.labels.index(problem.label)
        return *own, problem.fraction, problem.seed

    return sorted(attempts, key=lambda attempt: place(attempt.problem))


class _Subset(NamedTuple):
    """What a task learns from."""

    task: Task
    fraction: float
    seed: int
    rows: NDArray[np.int64]
    """(n,) store rows with a known label"""

    def problems(self, data: ProbeData) -> list[Problem]:
        """Split the task into its labels."""
        return [
            Problem(self.task, label, self.fraction, self.seed, self.rows[~np.isnan(data.label(label, self.rows))])
            for label in self.task.labels
        ]


def _subsets(
    data: ProbeData, tasks: Mapping[Task, Any], *, fractions: Sequence[float], seeds: int, sampler: Sampler
) -> Iterator[_Subset]:
    table, train = data.store.manifest, data.rows["train"]
    for task in tasks:
        for fraction in fractions:
            for seed in range(seeds):
                if sampler == "reference":
                    rows = reference_rows(table, train, fraction=fraction, seed=FIRST_SEED + seed, labels=task.labels)
                else:
                    rows = subset_rows(table, train, fraction=fraction, seed=seed, label=task.labels)
                yield _Subset(task, fraction, seed, rows)


class _Cached:
    """Features of images and mirror images as one tensor, and where each training row is in it."""

    def __init__(self, data: ProbeData, mirrored: NDArray[np.float32]) -> None:
        self.data = data
        self.features = torch.from_numpy(np.concatenate([data.features, mirrored]))
        self._mirrored_at = np.full(len(data.store), -1)
        self._mirrored_at[data.rows["train"]] = len(data.features) + np.arange(len(mirrored))
        self.val = torch.from_numpy(data.of(data.rows["val"]))

    def views(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return where training rows (n,) are, as they are and mirrored, (n, 2)."""
        return torch.from_numpy(np.stack([self.data.position[rows], self._mirrored_at[rows]], axis=1))


def _train_stack(cached: _Cached, stack: Sequence[_Subset], schedule: Schedule) -> list[Attempt]:
    """Train the heads of subsets with the same rows and seed."""
    data, rows, seed = cached.data, stack[0].rows, FIRST_SEED + stack[0].seed
    asked, attempts = [], []
    for problems in (subset.problems(data) for subset in stack):
        if any(problem.learnable(data) for problem in problems):
            asked.append(problems)
        else:
            attempts += [give_up(data, problem, _NO_CHOICE) for problem in problems]
    if asked:
        questions = [_question(data, problems, rows) for problems in asked]
        trained = train_heads(
            cached.features, cached.views(rows), questions, val=cached.val, schedule=schedule, seed=seed
        )
        for problems, heads in zip(asked, trained, strict=True):
            attempts += _judge(data, problems, heads, schedule)
    return attempts


_NO_CHOICE: Mapping[str, Any] = {"learning_rate": float("nan"), "epoch": None}


def _question(data: ProbeData, problems: Sequence[Problem], rows: NDArray[np.int64]) -> Question:
    counted = [output in problem.learnable(data) for problem in problems for output in problem.outputs(data)]
    return Question(
        "classes" if problems[0].task.kind == "multiclass" else "labels",
        _targets(data, problems, rows),
        Validation(_targets(data, problems, data.rows["val"]), counted=np.array(counted)),
    )


def _targets(data: ProbeData, problems: Sequence[Problem], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what all outputs of a task should say of store rows, (n, K): 0, 1 or NaN."""
    columns = []
    for problem in problems:
        label = data.label(problem.label, rows)
        columns += [np.where(np.isnan(label), np.nan, label == value) for value in problem.outputs(data).values()]
    return np.stack(columns, axis=1)


def _judge(data: ProbeData, problems: Sequence[Problem], heads: TrainedHeads, schedule: Schedule) -> list[Attempt]:
    """Choose the learning rate of a task on the validation rows; score the rows of val and test."""
    defined = bool(np.isfinite(heads.val_auroc).all())
    best = int(np.argmax(heads.val_auroc)) if defined else 0
    chosen = {"learning_rate": schedule.learning_rates[best], "epoch": int(heads.epoch[best]) + 1}
    notes = () if defined else ("one class in the validation split: the last epoch of the first learning rate",)
    multiclass = problems[0].task.kind == "multiclass"
    log_odds = {
        split: _log_odds(data.of(data.rows[split]), heads, best, multiclass=multiclass) for split in ("val", "test")
    }
    attempts, first = [], 0
    for problem in problems:
        outputs, learnt = problem.outputs(data), problem.learnable(data)
        columns = [first + place for place, output in enumerate(outputs) if output in learnt]
        first += len(outputs)
        if not learnt:
            attempts.append(give_up(data, problem, chosen))
            continue
        scores = {}
        for split, odds in log_odds.items():
            known = ~np.isnan(data.label(problem.label, data.rows[split]))
            kept = odds[known][:, columns]
            scores[split] = scores_of(data, problem, learnt, data.rows[split][known], kept)
        attempts.append(
            Attempt(
                problem,
                problem.num_positives(data),
                chosen,
                (*notes, *undefined_in_test(scores["test"])),
                tuple(learnt),
                float(heads.val_auroc[best]),
                scores["val"],
                scores["test"],
            )
        )
    return attempts


def _log_odds(
    features: NDArray[np.float32], heads: TrainedHeads, rate: int, *, multiclass: bool
) -> NDArray[np.float32]:
    """Score rows (n, D): log-odds (n, K). Of classes, log p - log(1 - p) with p from the softmax."""
    logits = torch.addmm(heads.bias[rate], torch.from_numpy(features), heads.weight[rate]).numpy()
    if not multiclass:
        return logits
    others = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    return np.asarray(logits - np.stack(others, axis=1), dtype=np.float32)
