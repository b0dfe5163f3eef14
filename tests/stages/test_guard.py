"""Losses that are not numbers: the step is left out whole, the images are named, and three in a row are enough."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pacx.errors import PacxError
from pacx.stages.guard import LossGuard, StepGuard

NAN, FINE = torch.tensor(float("nan")), torch.tensor(1.0)


class Line(L.LightningModule):
    """y = w x by SGD with momentum; the loss of the batches in `bad` is NaN."""

    def __init__(self, bad: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.guard = LossGuard([f"image{row}" for row in range(20)])
        self.bad = bad
        self.path: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, row = batch
        loss = (x * (self.weight - 1)).mean()  # the gradient is the mean of x
        loss = loss * float("nan") if batch_idx in self.bad else loss
        self.guard.accepts(loss, row)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        self.path.append(float(self.weight.detach()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.5)


def train(
    tmp_path: Path, module: Line, xs: list[float], *, accumulate: int = 1, epochs: int = 1, **options: float
) -> L.Trainer:
    rows = torch.arange(len(xs))
    trainer = L.Trainer(
        max_epochs=epochs, accumulate_grad_batches=accumulate, callbacks=[StepGuard()], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.tensor(xs), rows), batch_size=1))
    return trainer


def test_single_bad_losses_are_counted_and_three_in_a_row_end_the_run() -> None:
    guard = LossGuard(["a", "b", "c"])
    rows = torch.tensor([2, 0])
    answers = []
    for loss in (NAN, NAN, FINE, NAN):
        answers.append(guard.accepts(loss, rows))
        guard.refused = False  # a step each
    assert answers == [False, False, True, False]
    assert int(guard.skipped) == 3
    guard.accepts(torch.tensor(float("inf")), rows)
    with pytest.raises(PacxError, match=r"3 times in a row; the last batch held the images c, a"):
        guard.accepts(NAN, rows)


def test_long_lists_of_images_are_cut() -> None:
    guard = LossGuard([f"i{row}" for row in range(20)], limit=1)
    with pytest.raises(PacxError, match=r"i7 and 4 more\. Look"):
        guard.accepts(NAN, torch.arange(12))


def test_the_counts_travel_with_the_weights() -> None:
    guard = LossGuard(["a"])
    guard.accepts(NAN, torch.tensor([0]))
    other = LossGuard(["a"])
    other.load_state_dict(guard.state_dict())
    assert (int(other.skipped), int(other.in_a_row)) == (1, 1)
    assert other.skipped.dtype == torch.int64


def test_a_refused_batch_changes_neither_weights_nor_momentum(tmp_path: Path) -> None:
    module = Line(bad={1})
    trainer = train(tmp_path, module, [2.0, 100.0, 4.0])
    # w: -2; left out; momentum .5 * 2 + 4 = 5
    assert module.path == [-2.0, -2.0, -7.0]
    assert int(module.guard.skipped) == 1
    assert trainer.global_step == 3  # the schedule moves on


def test_a_refused_batch_costs_its_whole_accumulated_step_and_no_other(tmp_path: Path) -> None:
    for bad in (2, 3):  # first or second batch of the second step
        module = Line(bad={bad})
        train(tmp_path, module, [2.0, 4.0, 100.0, 100.0, 6.0, 10.0], accumulate=2)
        # means 3, (left out), 8: w = -3, then momentum .5 * 3 + 8 = 9.5
        assert module.path == [0.0, -3.0, -3.0, -3.0, -3.0, -12.5]
    module = Line(bad={2, 3})
    train(tmp_path, module, [2.0, 4.0, 100.0, 100.0, 6.0, 10.0], accumulate=2)
    assert int(module.guard.skipped) == 1  # steps, not batches


def test_a_last_step_of_fewer_batches_follows_their_mean(tmp_path: Path) -> None:
    module = Line()
    train(tmp_path, module, [2.0, 4.0, 6.0], accumulate=2, epochs=2)
    # epoch 1: 3, then 6 (not 6 / 2): w = -3, momentum 1.5 + 6 = 7.5; epoch 2: 3.75 + 3 = 6.75, 3.375 + 6 = 9.375
    assert module.path == [0.0, -3.0, -10.5, -10.5, -17.25, -26.625]


def test_clipping_sees_the_mended_gradient(tmp_path: Path) -> None:
    module = Line()
    train(tmp_path, module, [0.5, 0.5, 8.0], accumulate=2, gradient_clip_val=5.0)
    assert module.path[-1] == pytest.approx(-0.5 - (0.25 + 5.0))


def test_the_run_ends_and_names_the_images_of_the_last_batch(tmp_path: Path) -> None:
    module = Line(bad={1, 2, 3})
    with pytest.raises(PacxError, match=r"3 times in a row; the last batch held the images image3\."):
        train(tmp_path, module, [1.0] * 6)
    assert module.path == [-1.0, -1.0, -1.0]
