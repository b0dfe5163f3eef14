"""Ending a run when it is asked to: after the optimiser step under way, with a checkpoint.

* SIGTERM (kill, docker stop, preemption by SLURM) and SIGINT (Ctrl-C) are noted; the loop looks at the note between
  steps and between validation batches. Under SLURM, SIGUSR1 counts as SIGTERM, for job scripts with `--signal`.
* A second signal ends the run at once; the checkpoint is then the one before.
* The exit code is 143 (128 + SIGTERM) or 130 (Ctrl-C), by which a job script knows that the same command goes on.
* A process that waits for another one inside of an exchange runs no Python, not even a signal's handler. A thread waits
  for the second signal too, and ends the process where the loop does not.

Lightning has handlers of its own. They would end the loop in the middle of an accumulated step, without a checkpoint,
and talk to the other processes from inside the handler, while those are about to exchange something else: all would
wait for ever. It also asks the first process about them before every batch, and takes a broken exchange for a no.
`StopRequest` stands in for all of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

__all__ = ["StopRequest", "Stopped"]

log = logging.getLogger("pacx")

PATIENCE = 5.0
"""seconds after a second signal in which the loop may end by itself"""

_OVER = 0
"""what is written into the pipe when no signal is waited for any more"""


class Stopped(SystemExit):
    """The run was ended from outside; carries the exit code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop; takes the place of Lightning's signal connector.

    Attributes:
        signal: the last one that was noted.
        received_sigterm: what Lightning looks at; always false.
    """

    received_sigterm = False

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._heard_again = threading.Event()
        self._before: dict[int, Any] = {}
        self._pipe = self._pipe_before = -1

    def stand_in(self, trainer: L.Trainer) -> None:
        """Have a Trainer ask this instead of its own handlers; it listens from its start on and until its end."""
        trainer._signal_connector = self
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def register_signal_handlers(self) -> None:
        """Take note of signals from now on; without effect outside the main thread, which gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        watched = [signal.SIGTERM, signal.SIGINT]
        if "SLURM_JOB_ID" in os.environ:
            watched.append(signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._note) for number in watched}
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._pipe_before = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)  # written to outside of Python
        _leave_pipe_to_parent()
        threading.Thread(target=self._watch, args=(reading,), daemon=True, name="pacx-signals").start()

    def teardown(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._pipe >= 0:
            signal.set_wakeup_fd(self._pipe_before)
            os.write(self._pipe, bytes([_OVER]))  # closing would not do: loader processes have the pipe open too
            os.close(self._pipe)
            self._pipe = -1

    def end(self) -> None:
        """Leave the loop.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            Stopped: it was anything else, or another process of the run was asked.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped

    def obey(self) -> None:
        """Leave if a signal was noted; otherwise do nothing.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            Stopped: it was anything else.
        """
        if self.signal is not None:
            self.end()

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = signal.Signals(number)
        if again:
            self._heard_again.set()
            self.end()

    def _watch(self, reading: int) -> None:
        """End the process when a second signal comes and the main thread does not take note of it."""
        heard = 0
        while True:
            for number in os.read(reading, 64):
                if number == _OVER:
                    os.close(reading)
                    return
                heard += number in self._before
                if heard > 1 and not self._heard_again.wait(PATIENCE):
                    log.error("Stopped at once, while waiting for something. Run the same command again to go on.")
                    os._exit(128 + (number if number == signal.SIGINT else signal.SIGTERM))


_forks_told = False


def _leave_pipe_to_parent() -> None:
    """See to it that forked processes (loaders) do not write their signals into this one's pipe."""

    def forget() -> None:
        with contextlib.suppress(ValueError):  # not forked from the main thread's interpreter
            signal.set_wakeup_fd(-1)

    global _forks_told  # noqa: PLW0603
    if not _forks_told and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
        _forks_told = True
