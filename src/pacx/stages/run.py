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
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from pacx.errors import PacxError
from pacx.runs import RunFolder
from pacx.stages.averages import EpochAverages
from pacx.stages.checkpoints import Resume, SafeCheckpointIO, best_path, load_weights, resume_path
from pacx.stages.guard import LossGuard, StepGuard
from pacx.stages.optimisation import adamw_with_warmup
from pacx.stages.progress import EpochTable
from pacx.stages.saving import Checkpoints
from pacx.stages.sharding import choose_strategy, made_whole
from pacx.stages.stopping import Stopped, StopRequest
from pacx.stages.together import cluster_plugins, train_together

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
    num_nodes: int = 1,
    gradient_clip: float | None = None,
    accumulate: int = 1,
    keep_checkpoints: int = 1,
    checkpoint_minutes: float = 10.0,
    callbacks: Sequence[L.Callback] = (),
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
        strategy: auto, ddp, ddp_find_unused_parameters_true or fsdp.
        num_nodes: computers that train together.
        gradient_clip: largest gradient norm; None for no clipping.
        accumulate: batches per optimiser step.
        keep_checkpoints: how many of the newest checkpoints stay.
        checkpoint_minutes: a checkpoint is also written inside an epoch when so long has passed since the last one;
            0 = after every optimiser step.
        callbacks: the stage's own.
        monitor: the metric that decides what `best.ckpt` is; None keeps only the last.
        mode: whether that metric is to fall or to rise.
    """
    if epochs < 1:
        raise PacxError(f"epochs is {epochs}; it must be 1 or more.")
    if accumulate < 1:
        raise PacxError(f"accumulate is {accumulate}; it must be 1 (a step per batch) or more.")
    if gradient_clip is not None and not gradient_clip > 0:
        raise PacxError(f"gradient_clip is {gradient_clip:g}; it must be above 0. Leave it out for no clipping.")
    if num_nodes < 1:
        raise PacxError(f"num_nodes is {num_nodes}; it must be 1 or more.")
    if num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & os.environ.keys():
        raise PacxError(
            f"num_nodes is {num_nodes}, but nothing says where the first computer is, so this one would wait for ever. "
            "Start the command with srun or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK."
        )
    checkpoints = Checkpoints(
        run.path / "checkpoints", keep=keep_checkpoints, minutes=checkpoint_minutes, monitor=monitor, mode=mode
    )
    table = EpochTable(run.path / "metrics.csv", name=run.command)
    own: list[L.Callback] = [_StepSeed(seed), StepGuard(), EpochAverages(), table, *callbacks, checkpoints]
    # PyTorch's deterministic mode would also fill every fresh tensor with NaN, which costs time and shows only bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with _quiet(), _user_errors():
        return L.Trainer(
            max_epochs=epochs,
            precision=_resolve_precision(precision, accelerator),
            accelerator=accelerator,
            devices=devices,
            strategy=choose_strategy(strategy, precision=precision),
            num_nodes=num_nodes,
            gradient_clip_val=gradient_clip,
            accumulate_grad_batches=accumulate,
            deterministic="warn",
            use_distributed_sampler=False,
            callbacks=own,
            logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
            plugins=[SafeCheckpointIO(), *cluster_plugins()],
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

    With several devices, the other processes leave in here (`pacx.stages.together`): what follows is the first one's.

    Raises:
        PacxError: there is nothing to train on for some process, or one of them died.
        KeyboardInterrupt: the user stopped the run with Ctrl-C; a checkpoint was written, unless pressed twice.
        Stopped: the same by SIGTERM; ends the program with exit code 143.
    """
    share = math.ceil(len(train.dataset) / trainer.world_size)  # type: ignore[arg-type]
    if train.drop_last and train.batch_size is not None and share < train.batch_size:
        raise PacxError(
            f"batch_size is {train.batch_size}, but each of {trainer.world_size} processes has only {share} rows, and "
            "smaller batches are left out. Lower --batch_size."
        )
    if resume is not None:
        log.info("%s: going on from %s", epoch_table(trainer).name, resume)
    module.train()  # Lightning keeps the modes it finds, and an encoder that was just loaded is in evaluation mode

    def train_from(checkpoint: Path | None) -> None:
        with made_whole(trainer, module):
            trainer.fit(module, train, val, ckpt_path=checkpoint, weights_only=True)

    with _quiet():
        try:
            train_together(trainer, train_from, resume=resume)
            _stop_request(trainer).obey()  # asked to stop when training was just over
        except Stopped:
            log.info("%s: stopped from outside. Run the same command again to go on.", epoch_table(trainer).name)
            raise
        except SystemExit as stop:  # Lightning turns Ctrl-C into exit code 1 and says nothing of how to go on
            if trainer.interrupted and stop.code == 1:
                raise KeyboardInterrupt from stop
            raise


def predict(trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any]) -> list[Any]:
    """Return what the module's `predict_step` makes of each batch, on the CPU.

    After training on several devices this process is alone and takes one.
    """
    with _quiet():
        if isinstance(trainer.strategy, ParallelStrategy):
            trainer = L.Trainer(
                accelerator=trainer.accelerator, devices=1, precision=trainer.precision, logger=False,
                use_distributed_sampler=False, enable_progress_bar=False, enable_checkpointing=False,
            )  # fmt: skip
        return list(trainer.predict(module, loader) or [])


def epoch_table(trainer: L.Trainer) -> EpochTable:
    """Return the table of epochs of a Trainer made here."""
    found: EpochTable = next(callback for callback in trainer.callbacks if isinstance(callback, EpochTable))
    return found


def _stop_request(trainer: L.Trainer) -> StopRequest:
    return next(callback.stop for callback in trainer.callbacks if isinstance(callback, Checkpoints))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, in this process and in loader workers.

    Raises:
        PacxError: the seed is not one that all of them take.
    """
    if not 0 <= seed < 1 << 32:
        raise PacxError(f"seed is {seed}; it must be from 0 to {(1 << 32) - 1}.")
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
    """Makes what a batch draws (dropout) a function of (seed, batch, device), whatever happened before it.

    Batches are counted over all epochs, so those of one accumulated step draw differently.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Odd multipliers keep neighbouring seeds and batches apart modulo 2^63.
        number = trainer.fit_loop.total_batch_idx
        mixed = self.seed * 0x9E3779B97F4A7C15 + number * 0xC2B2AE3D27D4EB4F + trainer.global_rank
        torch.manual_seed(mixed % (1 << 63))


def _resolve_precision(precision: Precision, accelerator: str) -> str:
    if precision == "16-mixed" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise PacxError("precision 16-mixed needs a GPU. Use 32-true or bf16-mixed on a CPU, or leave it out.")
    if precision != "auto":
        return precision
    gpu = accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn Lightning's refusal of what the user asked for (devices that are not there) into ours."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError) as error:  # the last two for devices "x" and the like
        raise PacxError(f"{' '.join(str(error).split())}") from error


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
                r".*ended before the epoch ended.*",  # `Checkpoints` tells the loader where to begin
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
