"""Epoch averages that outlive an interruption.

Lightning averages what `self.log(..., on_epoch=True)` gets over the batches of an epoch, but leaves the running sums
out of its checkpoints: the loss of an interrupted epoch would be that of its second part. Here the sums travel in the
checkpoint and are added to what the first batch after it gives. Floating-point addition commutes, and from there on the
order is the old one, so the averages are equal to the last bit.

Under several processes the sums are averaged before they are saved, and every process goes on with that share: equal
to the uninterrupted run's but for the order of additions.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

__all__ = ["EpochAverages", "is_inside_epoch"]


def is_inside_epoch(trainer: L.Trainer) -> bool:
    """Return whether an epoch has begun and its end has not been dealt with (its validation counts as inside)."""
    current = trainer.fit_loop.epoch_progress.current
    return bool(current.ready > current.processed)


class EpochAverages(L.Callback):
    """Carries the running averages of training metrics, and the values last shown, through checkpoints.

    It must come before callbacks that read `trainer.callback_metrics`. Averages, maxima and minima are carried.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Any]] = {}
        self._shown: dict[str, Tensor] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the sums of the running epoch, and the metrics of the past one."""
        sums = {**self._sums, **_running_sums(trainer)} if is_inside_epoch(trainer) else {}
        shown = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["averages"] = {"sums": sums, "shown": shown}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep them until training starts, when Lightning has cleared its own."""
        carried = checkpoint["averages"]
        self._sums, self._shown = dict(carried["sums"]), carried["shown"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the metrics of the past epoch back."""
        trainer.callback_metrics.update(self._shown)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing; an epoch that is gone on with does not come by here."""
        self._sums = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the sums to metrics that have been logged for the first time since the run goes on."""
        for key in self._sums.keys() & trainer.fit_loop.epoch_loop._results.keys():
            _add(trainer.fit_loop.epoch_loop._results[key], self._sums.pop(key))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show averages to which nothing was added: the interruption came after the epoch's last batch."""
        for entry in self._sums.values():
            total = entry["value"]
            average = total / entry["count"] if entry["reduce"] == "mean" else total
            trainer.callback_metrics[entry["name"]] = average.to(pl_module.device)
        self._sums = {}


def _running_sums(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
    return {
        key: _entry(trainer, metric)
        for key, metric in trainer.fit_loop.epoch_loop._results.items()
        if metric.is_tensor and metric.meta.on_epoch and not metric.has_reset
    }


def _entry(trainer: L.Trainer, metric: Any) -> dict[str, Any]:
    reduce = metric.meta.reduce_fx.__name__
    assert reduce in {"mean", "max", "min"}, f"the {reduce} of {metric.meta.name} over an epoch would not be carried"
    value = metric.value.clone()
    if metric.meta.sync.should:
        value = trainer.strategy.reduce(value, reduce_op=reduce)
    count = metric.cumulated_batch_size.cpu() if reduce == "mean" else None
    return {"name": metric.meta.name, "reduce": reduce, "value": value.cpu(), "count": count}


def _add(metric: Any, entry: dict[str, Any]) -> None:
    before = entry["value"].to(metric.value.device)
    if entry["reduce"] == "mean":
        metric.value = before + metric.value
        metric.cumulated_batch_size = metric.cumulated_batch_size + entry["count"].to(metric.value.device)
    else:
        metric.value = getattr(torch, f"{entry['reduce']}imum")(before, metric.value)
