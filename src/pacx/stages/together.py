"""Several processes train as one, and one goes on alone.

1. The first process opens the run folder and decides where to go on from; then Lightning starts the others, which run
   the same command (`pacx.ranks`), or torchrun or srun has started all of them at the same moment.
2. All join a process group and are told the first one's decision. What the others would find in the run folder does
   not count: it may just be changing.
3. They train (`trainer.fit`).
4. The group is dissolved and the others leave. Saving, drawing and judging are the first process's, which is from
   then on a process like any other, able to start a training anew.

Whatever happens, nobody is left behind: the first process ends those that it started, and they end when it is gone.
One that neither goes on nor ends (stopped, stuck on a disk, cut off from the network) is waited for some minutes.
Lightning's own watch would kill the first one without a word while it still writes, so it is taken off.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from pacx.errors import PacxError
from pacx.ranks import is_first, num_started

__all__ = ["cluster_plugins", "train_together"]

log = logging.getLogger("pacx")

PATIENCE = 5.0
"""seconds that processes get to end by themselves; only the first has anything to lose"""

_LEADER = "PACX_LEADER"
"""environment variable: the id of the process that starts the others of this computer"""

_MINUTES = "PACX_TIMEOUT_MINUTES"
"""environment variable: how long a process waits for the answer of another one; 10 if it is not set"""

_SET_BY_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def cluster_plugins() -> list[Any]:
    """Return what keeps Lightning from saving and requeueing by itself under SLURM: see `pacx.stages.stopping`.

    Raises:
        PacxError: the job was not set up in the way that Lightning can read.
    """
    try:
        return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    except RuntimeError as error:
        raise PacxError(f"{error}") from error


def train_together(trainer: L.Trainer, train: Callable[[Path | None], None], *, resume: Path | None) -> None:
    """Train with as many processes as the Trainer was made for, and return in the first one only.

    Args:
        trainer: made, not yet used.
        train: called on every process, with the checkpoint to go on from.
        resume: that checkpoint; the first process's counts.

    Raises:
        PacxError: the processes cannot work together, or one of them died or does not answer.
        SystemExit: in the other processes, when training is over: code 0.
    """
    if trainer.world_size == 1 and not is_first():
        raise PacxError(
            "This is not the first of several processes, but it would train alone. Give --devices (per computer) and "
            "--num_nodes as many as were started, or start `pacx` once, without torchrun or srun."
        )
    if not isinstance(trainer.strategy, ParallelStrategy):
        train(resume)
        return
    launcher = trainer.strategy.launcher
    if launcher is not None and not isinstance(launcher, _SubprocessScriptLauncher):
        raise PacxError(
            "Several devices need processes of their own, started from the command line; a notebook or a strategy "
            "that forks cannot do this. Run `pacx ...` in a terminal, with --strategy ddp."
        )
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timedelta(minutes=_minutes())
    with _company(launcher):
        trainer.strategy.setup_environment()
        resume = trainer.strategy.broadcast(resume)
        train(resume)
        trainer.strategy.barrier()
    dist.destroy_process_group()
    if not trainer.is_global_zero:
        raise SystemExit(0)


@contextmanager
def _company(launcher: _SubprocessScriptLauncher | None) -> Iterator[None]:
    """Start the other processes of this computer, if that is not done from outside; see them off afterwards."""
    leader = os.environ.get(_LEADER)
    if leader is not None and "LOCAL_RANK" in os.environ:
        _end_with(int(leader))
    before = {name: os.environ.get(name) for name in _SET_BY_LAUNCHER}
    os.environ[_LEADER] = str(os.getpid())
    others = _Others([] if launcher is None else _start(launcher))
    try:
        yield
    except RuntimeError as error:  # an exchange broke off, mostly because a partner died
        if leader is not None:
            time.sleep(1.0)  # if it was the leader, it takes this process along, and there is nothing to tell
        cause = others.first_dead(wait=PATIENCE if _explain(error) else 2.0) or _explain(error)
        if cause is None:
            raise
        raise PacxError(cause) from error
    finally:
        others.see_off()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        os.environ.pop(_LEADER) if leader is None else os.environ.update({_LEADER: leader})


def _minutes() -> float:
    """Return how long to wait for another process; long enough for the first one to save a large network."""
    text = os.environ.get(_MINUTES, "10")
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise PacxError(f"{_MINUTES} is {text!r}; it must be a number of minutes above 0.")
    return minutes


def _explain(error: RuntimeError) -> str | None:
    """Say what it means that an exchange took too long or broke off; None for other errors."""
    if re.search("(closed|reset) by peer|broken pipe", str(error), re.IGNORECASE):
        return (
            "Another process of the training has left (see its message above, or on its computer). Run the same "
            "command again to go on from the last checkpoint."
        )
    if not re.search("timed out|timeout", str(error), re.IGNORECASE):
        return None
    return (
        f"Another process of the training has not answered for {_minutes():g} minutes: it is stopped, stuck, or cut "
        "off from the network. Run the same command again to go on from the last checkpoint. "
        f"If it was only slow, set {_MINUTES} higher."
    )


def _start(launcher: _SubprocessScriptLauncher) -> list[subprocess.Popen[bytes]]:
    try:
        launcher.launch(lambda: None)
    except ValueError as error:
        raise PacxError(
            f"torchrun or srun started {num_started()} processes, which does not fit --devices (how many per computer) "
            "and --num_nodes (how many computers)."
        ) from error
    started: list[subprocess.Popen[bytes]] = launcher.procs.copy()
    launcher.procs.clear()  # Lightning's watch looks at this list
    return started


class _Others:
    """The processes that this one has started, watched so that none is missed or left."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes = processes
        self._over = threading.Event()
        if processes:
            threading.Thread(target=self._watch, daemon=True, name="pacx-watch").start()

    def see_off(self) -> None:
        """Wait for the end of all, then make it."""
        self._over.set()
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # stuck in an exchange; only the first process has anything to save
                process.wait()

    def first_dead(self, *, wait: float = 0.0) -> str | None:
        """Say which process died and how; None if none did within some seconds, since exit codes come late."""
        deadline = time.monotonic() + wait
        while self.processes:
            for number, process in enumerate(self.processes, start=1):
                if process.poll():
                    why = "killed, often for want of memory" if process.returncode < 0 else "see its message above"
                    return (
                        f"Process {number} of the training ended with code {process.returncode} ({why}). Run the same "
                        "command again to go on from the last checkpoint."
                    )
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        return None

    def _watch(self) -> None:
        """End this process where it waits for a dead one for ever, as NCCL may."""
        while not self._over.wait(1.0):
            dead = self.first_dead()
            if dead is not None and not self._over.wait(PATIENCE):
                log.error("%s", dead)
                for process in self.processes:
                    process.kill()
                os._exit(1)


def _end_with(leader: int) -> None:
    """End this process when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="pacx-leader").start()
