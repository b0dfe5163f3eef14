"""Ending a run when it is asked to: after the optimiser step under way, with a checkpoint.

* SIGTERM (kill, docker stop, preemption by SLURM) and SIGINT (Ctrl-C) are noted; the loop looks at the note between
  steps and between validation batches. Under SLURM, SIGUSR1 counts as SIGTERM, for job scripts with `--signal`.
* A second signal ends the run at once; the checkpoint is then the one before.
* The exit code is 143 (128 + SIGTERM) or 130 (Ctrl-C), by which a job script knows that the same command goes on.

Lightning has handlers of its own. They would end the loop in the middle of an accumulated step, without a checkpoint,
and talk to the other processes from inside the handler. They are replaced while the loop runs; Lightning itself puts
back what was there before training.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

__all__ = ["StopRequest", "Stopped"]


class Stopped(SystemExit):
    """The run was ended from outside; carries the exit code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def listen(self) -> None:
        """Take note of signals from now on; without effect outside the main thread, which gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        watched = [signal.SIGTERM, signal.SIGINT]
        if "SLURM_JOB_ID" in os.environ:
            watched.append(signal.SIGUSR1)
        for number in watched:
            signal.signal(number, self._note)

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
            self.end()
