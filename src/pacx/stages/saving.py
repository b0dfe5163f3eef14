"""When a checkpoint is written, and what it holds so that a run goes on as if it had never stopped.

* Written at the end of each epoch, and at the first optimiser step after `minutes` have passed since the last one; also
  when the run is asked to stop. Never between the batches of an accumulated step, so no gradient has to be kept.
* A checkpoint inside an epoch holds how many batches were trained on: not how many the loader's processes had read
  ahead. The loader leaves these out when the run goes on.
* During validation nothing is learned, so a checkpoint written there is that of the epoch's last step; validation is
  then done from its start.
* `last.ckpt` is the newest; older ones are `step-00001234.ckpt`. The new one is written whole under such a name and
  then renamed, so whenever the process is killed there is a whole checkpoint.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from pacx.data.batches import EpochSampler
from pacx.errors import PacxError
from pacx.stages.averages import is_inside_epoch
from pacx.stages.stopping import StopRequest

__all__ = ["Checkpoints"]

log = logging.getLogger("pacx")

_NOT_BEGUN = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
"""Lightning's counters of a validation that is to be done from its start"""


class Checkpoints(Checkpoint):
    """Writes checkpoints, keeps the newest and the best, ends the run when asked to.

    Args:
        folder: where they go.
        keep: how many of the newest stay, 1 or more.
        minutes: time after which one is written inside an epoch; 0 = after every optimiser step.
        monitor: the metric that decides what `best.ckpt` is; None for no `best.ckpt`. There is none either while the
            metric is NaN.
        mode: whether that metric is to fall or to rise.
    """

    def __init__(
        self, folder: Path, *, keep: int, minutes: float, monitor: str | None, mode: Literal["min", "max"]
    ) -> None:
        if keep < 1:
            raise PacxError(f"keep_checkpoints is {keep}; it must be 1 or more, or the run could not be gone on with.")
        if minutes < 0:
            raise PacxError(f"checkpoint_minutes is {minutes:g}; it must be 0 (after every step) or more.")
        self.folder = folder
        self.keep = keep
        self.minutes = minutes
        self.monitor = monitor
        self.mode = mode
        self.stop = StopRequest()
        self.saved_step: int | None = None
        self._saved_at = 0.0
        self._best: float | None = None
        self._batches_done = 0
        self._other_steps = False
        self._lightning_signals: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep Lightning's handlers of signals out of a training; they are called for right after this."""
        if stage == "fit":
            self._lightning_signals = trainer._signal_connector
            self.stop.stand_in(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the Trainer its own handlers back: nothing looks at the note in a prediction."""
        if stage == "fit":
            self.stop.teardown()
            trainer._signal_connector = self._lightning_signals

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and have schedule and loader begin where the checkpoint was."""
        self._saved_at = time.monotonic()
        if self._other_steps:
            _place_schedule(trainer)
        if 0 < self._batches_done < trainer.num_training_batches:
            loader: Any = trainer.train_dataloader
            assert isinstance(loader.sampler, EpochSampler), "no other loader can begin inside an epoch"
            loader.sampler.skip = self._batches_done * loader.batch_size

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimiser step if it is time to; the epoch's last step is dealt with further on."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches:
            self._save_if_due(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the epoch's last step if it is time to."""
        self._save_if_due(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop without waiting for the end of the validation."""
        if self._is_asked_to_stop(trainer):
            self._save(trainer)
            self.stop.end()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the newest."""
        if self.monitor is not None and self._is_best(trainer, self.monitor):
            trainer.save_checkpoint(self.folder / "best.ckpt")
        self._save(trainer)
        if self._is_asked_to_stop(trainer):
            self.stop.end()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if no epoch was the best."""
        if self.monitor is not None and self._best is None:
            log.warning(
                "%s is not a number in any epoch, so validation could not choose one: the last epoch is kept. Check "
                "that the validation rows are enough to measure it.", self.monitor,
            )  # fmt: skip

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the place inside the epoch, by how many processes, and the best value so far."""
        inside = is_inside_epoch(trainer)
        checkpoint["pacx"] = {
            "batches_done": trainer.fit_loop.batch_idx + 1 if inside else 0,
            "processes": trainer.world_size,
            "best": self._best,
        }
        if inside and trainer.validating:
            for counters in ("total", "current"):
                checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"][counters] = dict(_NOT_BEGUN)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up the place; begin the epoch again where other processes than before would share it."""
        self.saved_step = checkpoint["global_step"]
        place = checkpoint["pacx"]
        self._best = place["best"]
        self._batches_done = place["batches_done"]
        if place["processes"] == trainer.world_size:
            return
        self._other_steps = True
        for schedule in checkpoint["lr_schedulers"]:
            del schedule["base_lrs"]  # the peak may follow the effective batch: the one that was made just now stays
        again = ""
        if self._batches_done:
            again = f" Epoch {checkpoint['epoch'] + 1} is begun again, after {self._batches_done} of its batches."
            self._batches_done = 0
            _leave_epoch(checkpoint["loops"]["fit_loop"]["epoch_progress"])
        log.warning(
            "The checkpoint was written by %d processes and is gone on with by %d: the effective batch and the number "
            "of steps change, and with them the result. The learning rate goes on where it is after so many epochs.%s",
            place["processes"], trainer.world_size, again,
        )  # fmt: skip

    def _save_if_due(self, trainer: L.Trainer) -> None:
        due = trainer.is_global_zero and time.monotonic() - self._saved_at >= 60 * self.minutes
        asked = self.stop.signal is not None
        if not trainer.strategy.reduce_boolean_decision(due or asked, all=False):
            return
        self._save(trainer)
        if self._is_asked_to_stop(trainer):
            self.stop.end()

    def _is_asked_to_stop(self, trainer: L.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.stop.signal is not None, all=False))

    def _is_best(self, trainer: L.Trainer, monitor: str) -> bool:
        value = float(trainer.callback_metrics[monitor])
        better = self._best is None or (value < self._best if self.mode == "min" else value > self._best)
        better = better and not math.isnan(value)  # not even the first epoch is the best if it could not be judged
        better = bool(trainer.strategy.broadcast(better))
        if better:
            self._best = value
        return better

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        fresh = self.folder / _name(step)
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            self._rotate(fresh, step)
        self.saved_step = step
        self._saved_at = time.monotonic()

    def _rotate(self, fresh: Path, step: int) -> None:
        last = self.folder / "last.ckpt"
        if self.keep > 1 and last.is_file() and self.saved_step not in {None, step}:
            last.replace(self.folder / _name(self.saved_step or 0))
        fresh.replace(last)
        older = sorted(self.folder.glob("step-*.ckpt"))
        for path in older[: max(0, len(older) - (self.keep - 1))]:
            path.unlink()


def _name(step: int) -> str:
    return f"step-{step:08d}.ckpt"


def _place_schedule(trainer: L.Trainer) -> None:
    """Move the schedule to where the finished epochs end, counted in the steps that an epoch has now."""
    epochs = trainer.fit_loop.epoch_progress.current.completed
    step = epochs * (int(trainer.estimated_stepping_batches) // int(trainer.max_epochs or 1))
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        scheduler.last_epoch = step
        rates = [base * at(step) for base, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for group, base, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, rates, strict=True):
            group.update(initial_lr=base, lr=rate)
        scheduler._last_lr = rates


def _leave_epoch(progress: dict[str, dict[str, int]]) -> None:
    """Set Lightning's counters back to before the epoch under way."""
    for counters in progress.values():
        counters.update(dict.fromkeys(counters, counters["completed"]))
