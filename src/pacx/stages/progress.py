"""What one sees of a training run: a bar for people, a line per epoch for logs, a table for programs.

`metrics.csv` holds one row per epoch with every metric of that epoch side by side (Lightning's own CSV logger writes
training and validation into separate rows and drops the old ones on resume). The rows travel in the checkpoint, so
the table of a resumed run equals that of an uninterrupted one, but for the columns that measure time and machine.
TensorBoard gets the learning rate and these same columns, beside the losses that the modules log.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from pacx.runs import write_text
from pacx.stages.pace import LoaderClock, Pace, describe_peak, matmul_flops, peak_memory_mib

__all__ = ["MEASURED", "EpochTable"]

MEASURED = ("images_per_second", "data_wait", "flop_utilisation", "peak_memory_mib", "train_seconds", "epoch_seconds")
"""columns of the table that tell of time and machine; all others are the same whenever a run is repeated"""

log = logging.getLogger("pacx")

_RECENT = 5
"""epochs by whose median the time that is left is foretold"""


class EpochTable(L.Callback):
    """Measure speed, keep the table of epochs, show a bar on a terminal.

    Args:
        path: where `metrics.csv` goes.
        name: the command, shown in front of each line.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self.path = path
        self.name = name
        self.rows: list[dict[str, float]] = []
        self._bar: Any = None
        self._pace = Pace()
        self._loader = LoaderClock()
        self._clock = self._epoch_began = 0.0
        self._flops_per_image = 0
        self._peak_flops = 0.0

    @property
    def images_per_second(self) -> float:
        """Training images per second over all epochs, waiting for data included, validation left out."""
        return self.mean("images_per_second") if self.rows else 0.0

    def mean(self, metric: str) -> float:
        """Return a metric's mean over the training time of the epochs that have it; NaN where none has."""
        pairs = [(row[metric], row["train_seconds"]) for row in self.rows if metric in row]
        seconds = sum(weight for _, weight in pairs)
        return sum(value * weight for value, weight in pairs) / seconds if seconds else float("nan")

    def count_flops(self, per_image: int) -> None:
        """Have the utilisation reported; call it before training.

        Args:
            per_image: floating-point operations of one image's training step, forward and backward.
        """
        self._flops_per_image = per_image

    def last(self, metric: str) -> float:
        """Return a metric's value in the last epoch; NaN where it was not measured."""
        return self.rows[-1].get(metric, float("nan")) if self.rows else float("nan")

    def best(self, metric: str, *, mode: str = "min") -> float:
        """Return a metric's best value over the epochs; NaN where it was not measured."""
        values = [row[metric] for row in self.rows if metric in row]
        return (min(values) if mode == "min" else max(values)) if values else float("nan")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask the loop to tell when it waits for data."""
        trainer.profiler = self._loader

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar where a person looks on; measure what full use of the machine would be."""
        if trainer.is_global_zero and sys.stderr.isatty():
            total = int(trainer.estimated_stepping_batches)
            self._bar = tqdm(total=total, initial=trainer.global_step, desc=self.name, unit="step", file=sys.stderr)
        if self._flops_per_image:
            device, precision = pl_module.device, str(trainer.precision)
            self._peak_flops = matmul_flops(device, precision)
            if trainer.is_global_zero:
                log.info(
                    "%s: %.3g GFLOP per image; utilisation is of %.3g GFLOP/s, %s",
                    self.name, self._flops_per_image / 1e9, self._peak_flops / 1e9, describe_peak(device, precision),
                )  # fmt: skip
        self._clock = self._epoch_began = time.perf_counter()  # also where a run goes on inside an epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks of an epoch, unless it is the one that a resumed run goes on with."""
        if self._pace.epoch != trainer.current_epoch:
            self._pace = Pace(trainer.current_epoch)
        self._loader.take()
        self._clock = self._epoch_began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and the time since the batch was asked for: before that, a checkpoint may have been written."""
        now = time.perf_counter()
        asked, waited = self._loader.take()
        self._pace.images += _batch_size(batch) * trainer.world_size
        self._pace.seconds += now - (self._clock if asked is None else asked)
        self._pace.waited += waited
        self._clock = now
        if self._bar is not None:
            self._bar.n = trainer.global_step
            self._bar.update(0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, write the table, say one line."""
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {key: float(value) for key, value in trainer.callback_metrics.items()}
        row["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        row |= self._measured(trainer, pl_module.device)
        self.rows.append(row)
        self._pace = Pace()
        if trainer.is_global_zero:
            write_text(self.path, _as_csv(self.rows))
            self._say(trainer)
            if trainer.logger is not None:
                measured = {f"speed/{key}": row[key] for key in MEASURED if key in row}
                trainer.logger.log_metrics({"learning_rate": row["learning_rate"], **measured}, trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, and how the epoch goes that is under way."""
        pace = self._pace.to_dict()
        if self._pace.epoch >= 0:  # otherwise no epoch is under way
            pace["elapsed"] = self._elapsed()
        return {"rows": self.rows, "pace": pace}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of the run that is continued, and the epoch that it was in."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._pace = Pace(**state_dict["pace"])

    def _elapsed(self) -> float:
        """Return the seconds of the epoch under way, those before an interruption included."""
        return self._pace.elapsed + time.perf_counter() - self._epoch_began

    def _measured(self, trainer: L.Trainer, device: torch.device) -> dict[str, float]:
        pace = self._pace
        found = {"images_per_second": pace.images_per_second, "data_wait": pace.data_wait}
        if self._flops_per_image:
            per_process = pace.images_per_second / trainer.world_size
            found["flop_utilisation"] = per_process * self._flops_per_image / self._peak_flops
        return {
            **found,
            "peak_memory_mib": peak_memory_mib(device),
            "train_seconds": pace.seconds,
            "epoch_seconds": self._elapsed(),
        }

    def _say(self, trainer: L.Trainer) -> None:
        row = self.rows[-1]
        losses = [f"{key} {row[key]:.4f}" for key in sorted(row) if key.endswith("loss")]
        speed = [f"{row['images_per_second']:.1f} images/s", f"data wait {row['data_wait']:.0%}"]
        if "flop_utilisation" in row:
            speed.append(f"FLOPs {row['flop_utilisation']:.0%}")
        usual = median(each["epoch_seconds"] for each in self.rows[-_RECENT:])
        left = (int(trainer.max_epochs or 0) - int(row["epoch"])) * usual
        parts = [*losses, f"lr {row['learning_rate']:.2g}", *speed, f"{row['peak_memory_mib'] / 1024:.1f} GiB"]
        if self._bar is not None:
            self._bar.clear()
        log.info(
            "%s: epoch %d/%s  %s  %s left",
            self.name, row["epoch"], trainer.max_epochs, "  ".join(parts), _duration(left),
        )  # fmt: skip
        if self._bar is not None:
            self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _batch_size(batch: Any) -> int:
    parts = batch.values() if isinstance(batch, dict) else batch
    return next(len(part) for part in parts if isinstance(part, torch.Tensor))


def _as_csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
