# ruff: noqa: F722
"""Many linear heads trained at once by AdamW on cached features.

All heads of a training subset and seed, those of every task and every learning rate, see the same mini-batches. So they
are the columns of one matrix W, and a step is two matrix products for all of them:

    Z = X W + b           logits (B, columns)
    dZ = (sigmoid(Z) - Y) / known     labels: binary cross-entropy, mean over the known entries of the task's batch
    dZ = (softmax(Z) - Y) / known     classes: cross-entropy, mean over the rows of the batch with a known class
    dW = X' dZ, db = sum of dZ

* The gradient of both losses is written out, no graph is kept. A head does not see its neighbours: trained alone it
  ends in the same place, up to rounding.
* AdamW (Loshchilov and Hutter 2019, algorithm 2) element by element, with a learning rate per column.
* A row has two places in the features, for the image and for its mirror image; `plan_epoch` draws which one an
  epoch sees.
* Of each head the epoch with the best macro AUROC on the validation rows is kept, the earlier on a tie; without a
  defined AUROC the last epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from pacx.evaluation.epochs import cosine_share, plan_epoch
from pacx.evaluation.validation import Validation

__all__ = ["Question", "Schedule", "TrainedHeads", "fresh_head", "train_heads"]

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class Question(NamedTuple):
    """What one head per learning rate is to learn."""

    kind: Literal["labels", "classes"]
    """labels: each output for itself; classes: exactly one output is true"""
    target: NDArray[np.float64]
    """(n, K) of the training rows: 0, 1 or NaN = unknown; of classes a row is known or unknown as a whole"""
    validation: Validation


class Schedule(NamedTuple):
    """How heads are trained."""

    learning_rates: tuple[float, ...]
    """of the first epoch; a half cosine leads from there to 0, epoch by epoch, without warm-up"""
    batch_size: int
    epochs: int = 40
    weight_decay: float = 0.01
    """of the weights, not of the bias"""


class TrainedHeads(NamedTuple):
    """The heads of one question, one per learning rate, each as it was after its best epoch."""

    weight: Float[Tensor, "rates D K"]
    bias: Float[Tensor, "rates K"]
    epoch: NDArray[np.int64]
    """(rates,) counted from 0"""
    val_auroc: NDArray[np.float64]
    """(rates,) macro AUROC of that epoch; NaN if it is undefined"""


def fresh_head(width: int, num_outputs: int, *, seed: int) -> tuple[Float[Tensor, "D K"], Float[Tensor, " K"]]:
    """Draw the head that `torch.manual_seed(seed); nn.Linear(width, num_outputs)` makes."""
    generator = torch.Generator().manual_seed(seed)
    bound = width**-0.5
    weight = torch.empty(num_outputs, width).uniform_(-bound, bound, generator=generator)
    return weight.T, torch.empty(num_outputs).uniform_(-bound, bound, generator=generator)


def train_heads(
    features: Float[Tensor, "V D"],
    views: Int64[Tensor, "n 2"],
    questions: Sequence[Question],
    *,
    val: Float[Tensor, "m D"],
    schedule: Schedule,
    seed: int,
) -> list[TrainedHeads]:
    """Train one head per question and learning rate on the same mini-batches.

    Args:
        features: of images and mirror images, raw.
        views: where in `features` each training row is, as it is and mirrored.
        questions: what is to be learnt from these rows.
        val: features of the validation rows.
        schedule: learning rates, batch size, epochs and weight decay.
        seed: decides the fresh heads, the order of the rows and the flips.

    Returns:
        The trained heads of each question.
    """
    stack = _Stack(questions, width=features.shape[1], schedule=schedule, seed=seed)
    val_columns = val.T.contiguous()
    for epoch in range(schedule.epochs):
        plan = plan_epoch(len(views), seed=seed, epoch=epoch)
        order = torch.from_numpy(plan.order)
        places = views[order, torch.from_numpy(plan.mirrored).long()[order]]
        share = cosine_share(epoch, epochs=schedule.epochs)
        for start in range(0, len(order), schedule.batch_size):
            turn = slice(start, start + schedule.batch_size)
            stack.step(features.index_select(0, places[turn]), order[turn], share=share)
        stack.keep_best(val_columns, epoch)
    return stack.kept()


class _Stack:
    """Heads side by side: column r K + k is output k of all questions at learning rate r."""

    def __init__(self, questions: Sequence[Question], *, width: int, schedule: Schedule, seed: int) -> None:
        self.questions, self.num_rates = questions, len(schedule.learning_rates)
        sizes = [question.target.shape[1] for question in questions]
        ends = np.cumsum(sizes)
        self.columns = [slice(end - size, end) for end, size in zip(ends.tolist(), sizes, strict=True)]
        heads = [torch.vstack(fresh_head(width, size, seed=seed)) for size in sizes]
        # The last row is the bias.
        self.values = torch.hstack(heads).repeat(1, self.num_rates)
        rates = torch.tensor(schedule.learning_rates).repeat_interleave(int(ends[-1]))
        self.optimiser = _AdamW(self.values, rates, weight_decay=schedule.weight_decay)
        target = np.hstack([question.target for question in questions])
        self.target = torch.from_numpy(np.nan_to_num(target)).float()
        self.known = torch.from_numpy(~np.isnan(target)).float()
        self.gradient = torch.empty_like(self.values)
        self.best = self._by_rate(self.values).clone()
        self.best_auroc = np.full((len(questions), self.num_rates), np.nan)
        self.best_epoch = np.zeros((len(questions), self.num_rates), dtype=np.int64)

    def step(self, x: Float[Tensor, "B D"], rows: Int64[Tensor, " B"], *, share: float) -> None:
        """Do one step of AdamW on a mini-batch."""
        logits = torch.addmm(self.values[-1], x, self.values[:-1])
        slope = self._slope(logits.view(len(x), self.num_rates, -1), rows).view_as(logits)
        torch.mm(x.T, slope, out=self.gradient[:-1])
        torch.sum(slope, dim=0, out=self.gradient[-1])
        self.optimiser.step(self.gradient, share=share)

    def keep_best(self, val_columns: Float[Tensor, "D m"], epoch: int) -> None:
        """Score the validation rows and keep the heads that are better than ever before."""
        logits = torch.addmm(self.values[-1][:, None], self.values[:-1].T, val_columns)
        scores = logits.view(self.num_rates, -1, logits.shape[1]).numpy()
        now = self._by_rate(self.values)
        for number, (question, own) in enumerate(zip(self.questions, self.columns, strict=True)):
            found = question.validation.macro_auroc(scores[:, own])
            # Not "found > best": as long as the best is NaN, every epoch takes its place.
            better = ~(found <= self.best_auroc[number])
            where = torch.from_numpy(better)
            self.best[:, where, own] = now[:, where, own]
            self.best_auroc[number, better], self.best_epoch[number, better] = found[better], epoch

    def kept(self) -> list[TrainedHeads]:
        """Return the best heads by question."""
        by_rate = self.best.transpose(0, 1)
        return [
            TrainedHeads(by_rate[:, :-1, own], by_rate[:, -1, own], epoch, auroc)
            for own, epoch, auroc in zip(self.columns, self.best_epoch, self.best_auroc, strict=True)
        ]

    def _slope(self, logits: Float[Tensor, "B rates K"], rows: Int64[Tensor, " B"]) -> Float[Tensor, "B rates K"]:
        """Turn logits into the gradient of each head's loss with respect to them."""
        target, known = self.target[rows, None], self.known[rows, None]
        for question, own in zip(self.questions, self.columns, strict=True):
            part, certain = logits[..., own], known[..., own]
            count = certain.sum()
            if question.kind == "labels":
                part.sigmoid_()
            else:
                part.copy_(part.softmax(dim=-1))
                count = count / part.shape[-1]
            certain /= count.clamp(min=1.0)
        return logits.sub_(target).mul_(known)

    def _by_rate(self, values: Tensor) -> Float[Tensor, "D+1 rates K"]:
        return values.view(len(values), self.num_rates, -1)


class _AdamW:
    """AdamW as in `torch.optim.AdamW`, with a learning rate per column and no decay of the last row."""

    def __init__(self, values: Float[Tensor, "D+1 C"], rates: Float[Tensor, " C"], *, weight_decay: float) -> None:
        self.values, self.rates, self.weight_decay = values, rates, weight_decay
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.buffer, self.steps = torch.empty_like(values), 0

    def step(self, gradient: Float[Tensor, "D+1 C"], *, share: float) -> None:
        """Move the values; the learning rates are multiplied by `share`."""
        self.steps += 1
        rates = self.rates * share
        self.values[:-1].mul_(1.0 - rates * self.weight_decay)
        self.mean.lerp_(gradient, 1.0 - _BETAS[0])
        self.square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
        torch.sqrt(self.square, out=self.buffer)
        self.buffer.mul_((1.0 - _BETAS[1] ** self.steps) ** -0.5).add_(_EPSILON)
        torch.div(self.mean, self.buffer, out=self.buffer)
        self.values.addcmul_(self.buffer, rates / (1.0 - _BETAS[0] ** self.steps), value=-1.0)
