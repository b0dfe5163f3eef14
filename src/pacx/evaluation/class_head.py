"""The head whose decision is explained: one logistic regression on frozen features.

As in `pacx.evaluation.probe` with all training labels: features standardised on the training images, C the best of
`STRENGTHS` by AUROC on the validation split. Weight and intercept are given back for features as the encoder makes
them, so that logit = weight . token + intercept can be differentiated through the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacx.data.manifest import SPLITS
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.linear import STRENGTHS
from pacx.evaluation.logistic import fit_logistic
from pacx.statistics import auroc

__all__ = ["ClassHead", "Question", "check_answers", "find_question", "fit_head"]


@dataclass(frozen=True)
class Question:
    """One yes-or-no question of a task."""

    name: str
    """TASK, or TASK/OUTPUT where the task has several"""
    column: str
    """label column of the manifest"""
    positive: float
    """the value of the column that means yes; another known value means no"""

    def answers(self, store: Store) -> NDArray[np.float64]:
        """Return 1, 0 or NaN (unknown) for each row of a store."""
        label = store.manifest[self.column].to_numpy(dtype=np.float64)
        return np.where(np.isnan(label), np.nan, (label == self.positive).astype(np.float64))


@dataclass(frozen=True)
class ClassHead:
    """A fitted head, for features as the encoder makes them."""

    weight: NDArray[np.float64]
    """(D,)"""
    intercept: float
    strength: float
    """C"""
    auroc: dict[str, float]
    """by split: val (which chose C) and test"""


def find_question(store: Store, name: str) -> Question:
    """Look up TASK or TASK/OUTPUT; outputs are the labels of a multilabel task and the classes of a multiclass one.

    Raises:
        PacxError: no such task or output, or a task of several outputs without saying which.
    """
    task_name, _, wanted = name.partition("/")
    task = store.task(task_name)
    if task.kind == "multiclass":
        top = int(np.nanmax(store.manifest[task.labels[0]].to_numpy(dtype=np.float64), initial=0)) + 1
        names = task.classes or tuple(str(number) for number in range(top))
        outputs = {output: (task.labels[0], float(number)) for number, output in enumerate(names)}
    else:
        outputs = {label: (label, 1.0) for label in task.labels}
    if not wanted and len(outputs) == 1:
        wanted = next(iter(outputs))
    if wanted not in outputs:
        raise PacxError(
            f"--task {name}: a head answers one question. Choose among "
            f"{', '.join(f'{task_name}/{output}' for output in outputs)}."
        )
    column, positive = outputs[wanted]
    return Question(name, column, positive)


def fit_head(features: NDArray[np.float32], answers: NDArray[np.float64], store: Store) -> ClassHead:
    """Fit the head of one question.

    Args:
        features: (N, D), row i belongs to store row i; rows without an image are not used.
        answers: (N,) 1, 0 or NaN.
        store: tells the splits.

    Raises:
        PacxError: the training split lacks one of the two answers.
    """
    rows = {split: store.rows(split, needs=("image",)) for split in SPLITS}
    every = features[rows["train"]].astype(np.float64)
    known = {split: part[~np.isnan(answers[part])] for split, part in rows.items()}
    check_answers(answers, store)
    mean, sd = every.mean(axis=0), every.std(axis=0)
    # A feature that is constant up to float32 rounding carries nothing; scaling would blow the rounding up.
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6 * np.maximum(np.abs(mean), 1.0))
    strengths = np.append(STRENGTHS, 1.0 / features.shape[1])
    x, y = (features[known["train"]] - mean) * scale, answers[known["train"]]
    fit = fit_logistic(x, np.repeat(y[:, None], len(strengths), axis=1), strengths)
    weight = fit.weight * scale[:, None]
    intercept = fit.intercept - mean @ weight
    logits = {split: features[known[split]] @ weight + intercept for split in ("val", "test")}
    chosen = np.array([auroc(answers[known["val"]], logits["val"][:, i]) for i in range(len(strengths) - 1)])
    best = int(np.argmax(chosen)) if np.isfinite(chosen).all() else len(strengths) - 1
    found = {split: auroc(answers[known[split]], logits[split][:, best]) for split in logits}
    return ClassHead(weight[:, best], float(intercept[best]), float(strengths[best]), found)


def check_answers(answers: NDArray[np.float64], store: Store) -> None:
    """Refuse a question that cannot be learned.

    Raises:
        PacxError: the training images lack one of the two answers.
    """
    training = answers[store.rows("train", needs=("image",))]
    positive, negative = int((training == 1).sum()), int((training == 0).sum())
    if not positive or not negative:
        raise PacxError(
            f"The training split has {positive} positive and {negative} negative images for this question; a head "
            "needs both. Choose another --task."
        )
