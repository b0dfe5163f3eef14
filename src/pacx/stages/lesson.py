"""What a classifier is to learn from which images: one task, a share of its labels.

* A share of the labels is the one that a probe gets for the same fraction and seed (`pacx.data.splits.subset_rows`):
  nested, by patient, drawn label by label. In a task of several labels an image may therefore be known for one label
  and unknown for another.
* Unknown labels are NaN and teach nothing. Validation and test keep all their labels at every fraction.
* A multiclass label is one output per class; each is set against the rest where AUROCs are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacx.data.manifest import Task, subset_rows
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["Lesson", "against_rest", "make_lesson"]

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """A task with its training subset."""

    task: Task
    fraction: float
    seed: int
    outputs: tuple[str, ...]
    """(K,) labels, or the classes of a multiclass label"""
    targets: Floats
    """(N, L) the task's labels by store row, NaN = unknown"""
    learnt: Floats
    """(N, L) the same, NaN outside of the training subset"""
    rows: dict[str, Rows]
    """store rows with an image and a known label, by split"""

    def one_against_rest(self, rows: Rows, *, learnt: bool = False) -> Floats:
        """Return 0, 1 or NaN for each output of store rows, (n, K)."""
        return against_rest((self.learnt if learnt else self.targets)[rows], self.task, num_outputs=len(self.outputs))

    def num_train(self, label: str) -> int:
        """Return the number of training images of a label."""
        return int(np.isfinite(self.learnt[:, self.task.labels.index(label)]).sum())

    def output_columns(self, label: str) -> list[int]:
        """Return which outputs belong to a label."""
        return list(range(len(self.outputs))) if self.task.kind == "multiclass" else [self.outputs.index(label)]

    def learnable(self) -> NDArray[np.bool_]:
        """Say for each output whether the training subset holds both sides, (K,)."""
        target = self.one_against_rest(self.rows["train"], learnt=True)
        return np.asarray((target == 1).any(axis=0) & (target == 0).any(axis=0))

    def is_defined_on(self, split: str) -> bool:
        """Say whether an AUROC can be computed there."""
        target = self.one_against_rest(self.rows[split])[:, self.learnable()]
        return bool(((target == 1).any(axis=0) & (target == 0).any(axis=0)).any())


def make_lesson(store: Store, task: Task, *, fraction: float, seed: int) -> Lesson:
    """Draw the training subset of a task.

    Raises:
        PacxError: a fraction outside (0, 1], no images, nothing to learn from or to test on.
    """
    if not store.has("image"):
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    targets = store.targets(task)
    train = store.rows("train", needs=("image",))
    learnt = np.full_like(targets, np.nan)
    for column, label in enumerate(task.labels):
        chosen = subset_rows(store.manifest, train, fraction=fraction, seed=seed, label=label)
        learnt[chosen, column] = targets[chosen, column]
    rows = {"train": np.flatnonzero(np.isfinite(learnt).any(axis=1))}
    for split in ("val", "test"):
        own = store.rows(split, needs=("image",))
        rows[split] = own[np.isfinite(targets[own]).any(axis=1)]
    lesson = Lesson(task, fraction, seed, _outputs(task, targets), targets, learnt, rows)
    _check(store, lesson)
    return lesson


def against_rest(labels: Floats, task: Task, *, num_outputs: int) -> Floats:
    """Turn labels (n, L) into 0, 1 or NaN for each output, (n, K)."""
    if task.kind != "multiclass":
        return labels
    return np.where(np.isfinite(labels), labels == np.arange(num_outputs), np.nan).astype(np.float32)


def _outputs(task: Task, targets: Floats) -> tuple[str, ...]:
    if task.kind != "multiclass":
        return task.labels
    known = targets[np.isfinite(targets)]
    return task.classes or tuple(str(number) for number in range(int(known.max(initial=-1)) + 1))


def _check(store: Store, lesson: Lesson) -> None:
    where = f"The store {store.name!r} ({store.path})"
    for split in ("train", "test"):
        if not len(lesson.rows[split]):
            raise PacxError(f"{where} has no {split} image whose label of the task {lesson.task.name!r} is known.")
    if not lesson.learnable().any():
        raise PacxError(
            f"{where} has one class only among the {len(lesson.rows['train'])} training images of the task "
            f"{lesson.task.name!r} (fraction {lesson.fraction:g}): nothing can be learnt. Raise --fraction, or choose "
            "another --task."
        )
