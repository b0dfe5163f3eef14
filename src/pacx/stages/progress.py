"""What one sees of a training run: a bar for people, a line per epoch for logs, a table for programs.

`metrics.csv` holds one row per epoch with every metric of that epoch side by side (Lightning's own CSV logger writes
training and validation into separate rows and drops the old ones on resume). The rows travel in the checkpoint, so
the table of a resumed run equals that of an uninterrupted one, times apart.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from pacx.runs import write_text

__all__ = ["EpochTable"]

log = logging.getLogger("pacx")


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
        self._images = 0
        self._started = self._ended = 0.0

    @property
    def images_per_second(self) -> float:
        """Training images per second over all epochs, waiting for data included, validation left out."""
        seconds = sum(row["train_seconds"] for row in self.rows)
        return sum(row["images_per_second"] * row["train_seconds"] for row in self.rows) / seconds if seconds else 0.0

    def last(self, metric: str) -> float:
        """Return a metric's value in the last epoch; NaN where it was not measured."""
        return self.rows[-1].get(metric, float("nan")) if self.rows else float("nan")

    def best(self, metric: str, *, mode: str = "min") -> float:
        """Return a metric's best value over the epochs; NaN where it was not measured."""
        values = [row[metric] for row in self.rows if metric in row]
        return (min(values) if mode == "min" else max(values)) if values else float("nan")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar where a person looks on."""
        if trainer.is_global_zero and sys.stderr.isatty():
            total = int(trainer.estimated_stepping_batches)
            self._bar = tqdm(total=total, initial=trainer.global_step, desc=self.name, unit="step", file=sys.stderr)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch."""
        self._images = 0
        self._started = self._ended = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images; the clock of an epoch stops at its last batch."""
        self._images += _batch_size(batch) * trainer.world_size
        self._ended = time.perf_counter()
        if self._bar is not None:
            self._bar.update(1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, write the table, say one line."""
        seconds = self._ended - self._started
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {key: float(value) for key, value in trainer.callback_metrics.items()}
        row["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        row["images_per_second"] = self._images / seconds if seconds > 0 else 0.0
        row["train_seconds"] = seconds
        row["epoch_seconds"] = time.perf_counter() - self._started
        self.rows.append(row)
        if trainer.is_global_zero:
            write_text(self.path, _as_csv(self.rows))
            self._say(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of the run that is continued."""
        self.rows = [dict(row) for row in state_dict["rows"]]

    def _say(self, trainer: L.Trainer) -> None:
        row = self.rows[-1]
        shown = "  ".join(f"{key} {row[key]:.4f}" for key in sorted(row) if key.endswith("loss"))
        left = (int(trainer.max_epochs or 0) - len(self.rows)) * row["epoch_seconds"]
        if self._bar is not None:
            self._bar.clear()
        log.info(
            "%s: epoch %d/%s  %s  lr %.2g  %.1f images/s  %s left",
            self.name, row["epoch"], trainer.max_epochs, shown, row["learning_rate"], row["images_per_second"],
            f"{left / 60:.1f} min" if left >= 60 else f"{left:.0f} s",
        )  # fmt: skip
        if self._bar is not None:
            self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
