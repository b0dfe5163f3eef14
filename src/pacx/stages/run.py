"""What all training stages share: the Trainer, seeds, checkpoints and going on after an interruption.

    RUN/
      metrics.csv    one row per epoch (`pacx.stages.progress`)
      checkpoints/   last and best (`pacx.stages.checkpoints`)
      tensorboard/   events

The loop is Lightning's. Ours is what it lacks: randomness that is a function of (seed, step), checkpoints that survive
a kill and are read without running code, one table of epochs, and a quiet screen.

A stage goes: `seed_everything`, `run.read(...)` its inputs, build loaders and module, `make_trainer`, `fit`.
Loaders order and augment by (seed, epoch, image), hence `use_distributed_sampler=False`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from pacx.errors import PacxError
from pacx.runs import RunFolder
from pacx.stages.checkpoints import Resume, SafeCheckpointIO, best_path, load_weights, resume_path
from pacx.stages.optimisation import LossGuard, adamw_with_warmup
from pacx.stages.progress import EpochTable

__all__ = [
    "EpochTable",
    "LossGuard",
    "Precision",
    "Resume",
    "adamw_with_warmup",
    "best_path",
    "clip_batch_size",
    "epoch_table",
    "fit",
    "load_weights",
    "make_trainer",
    "predict",
    "resume_path",
    "seed_everything",
]  # fmt: skip

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

log = logging.getLogger("pacx")


def make_trainer(
    run: RunFolder,
    *,
    epochs: int,
    seed: int = 0,
    precision: Precision = "auto",
    accelerator: str = "auto",
    devices: str | int = "auto",
    strategy: str = "auto",
    gradient_clip: float | None = None,
    monitor: str | None = "val_loss",
    mode: Literal["min", "max"] = "min",
) -> L.Trainer:
    """Make the Trainer of a stage, writing into its run folder.

    Args:
        run: the open run.
        epochs: number of passes over the training rows.
        seed: seeds what the module draws in a step (dropout); see `_StepSeed`.
        precision: "auto" = bf16-mixed on a GPU that has it, else 32-bit.
        accelerator: Lightning's name: cpu, gpu, mps, auto.
        devices: how many, or auto.
        strategy: Lightning's name: auto, ddp, fsdp, ...
        gradient_clip: largest gradient norm; None for no clipping.
        monitor: the metric that decides what `best.ckpt` is; None keeps only the last.
        mode: whether that metric is to fall or to rise.
    """
    if epochs < 1:
        raise PacxError(f"epochs is {epochs}; it must be 1 or more.")
    folder = run.path / "checkpoints"
    keep: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    callbacks: list[L.Callback] = [_StepSeed(seed), EpochTable(run.path / "metrics.csv", name=run.command)]
    if monitor is not None:
        callbacks.append(ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, save_top_k=1, **keep))
    callbacks.append(ModelCheckpoint(folder, "last", monitor=None, save_top_k=1, **keep))
    # PyTorch's deterministic mode would also fill every fresh tensor with NaN, which costs time and shows only bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with _quiet():
        return L.Trainer(
            max_epochs=epochs,
            precision=_resolve_precision(precision, accelerator),
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            gradient_clip_val=gradient_clip,
            deterministic="warn",
            use_distributed_sampler=False,
            callbacks=callbacks,
            logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
            plugins=[SafeCheckpointIO()],
            default_root_dir=run.path,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def fit(
    trainer: L.Trainer,
    module: L.LightningModule,
    train: DataLoader[Any],
    val: DataLoader[Any] | None = None,
    *,
    resume: Path | None = None,
) -> None:
    """Train, from the start or from a checkpoint given by `resume_path`.

    Raises:
        KeyboardInterrupt: the user stopped the run; the last finished epoch is kept.
    """
    if resume is not None:
        log.info("%s: going on from %s", epoch_table(trainer).name, resume)
    module.train()  # Lightning keeps the modes it finds, and an encoder that was just loaded is in evaluation mode
    with _quiet():
        try:
            trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)
        except SystemExit as stop:  # Lightning turns Ctrl-C into exit code 1 and says nothing of how to go on
            if trainer.interrupted:
                raise KeyboardInterrupt from stop
            raise


def predict(trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any]) -> list[Any]:
    """Return what the module's `predict_step` makes of each batch, on the CPU."""
    with _quiet():
        return list(trainer.predict(module, loader) or [])


def epoch_table(trainer: L.Trainer) -> EpochTable:
    """Return the table of epochs of a Trainer made here."""
    found: EpochTable = next(callback for callback in trainer.callbacks if isinstance(callback, EpochTable))
    return found


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, in this process and in loader workers."""
    with _quiet():
        L.seed_everything(seed, workers=True, verbose=False)


def clip_batch_size(batch_size: int, num_rows: int) -> int:
    """Return a batch size that the rows can fill.

    Raises:
        PacxError: there are no rows, or the batch size is not positive.
    """
    if batch_size < 1:
        raise PacxError(f"batch_size is {batch_size}; it must be 1 or more.")
    if num_rows < 1:
        raise PacxError("There is no row to train on. Check the store's splits and what this command needs of a row.")
    return min(batch_size, num_rows)


class _StepSeed(L.Callback):
    """Makes what a step draws (dropout) a function of (seed, step, device), whatever happened before it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Odd multipliers keep neighbouring seeds and steps apart modulo 2^63.
        mixed = self.seed * 0x9E3779B97F4A7C15 + trainer.global_step * 0xC2B2AE3D27D4EB4F + trainer.global_rank
        torch.manual_seed(mixed % (1 << 63))


def _resolve_precision(precision: Precision, accelerator: str) -> str:
    if precision != "auto":
        return precision
    gpu = accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on what we chose on purpose off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                r".*does not have many workers.*",
                r".*smaller than the logging interval.*",
                r".*exists and is not empty.*",
                r".*`training_step` returned `None`.*",
                r".*LeafSpec.* is deprecated.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
