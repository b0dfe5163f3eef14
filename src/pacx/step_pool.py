"""Run a recipe's steps side by side: a process for each, none before all that it reads is done."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from pacx.data.workers import available_cores, end_with_parent, threads_each
from pacx.errors import PacxError

__all__ = ["run_side_by_side"]

log = logging.getLogger("pacx")


class _Named(Protocol):
    """What is to be run, and what it has to wait for."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> tuple[str, ...]: ...


_Step = TypeVar("_Step", bound=_Named)


def run_side_by_side(
    steps: Sequence[_Step], *, jobs: int, call: Callable[[_Step], None], begin: Callable[[_Step], None]
) -> None:
    """Run steps in processes of their own, at most so many at once, with the cores' threads shared out among them.

    Steps are begun in their order, except where one has to wait and a later one need not. When one fails, no other is
    begun and those under way are waited for: what they do is not lost.

    Args:
        steps: what is to be run; a name in `reads` that is none of these steps counts as done.
        jobs: how many at once.
        call: run one; a function of a module, since it is run in a new process.
        begin: called here, before the step's process starts.

    Raises:
        PacxError: a step failed, or its process was killed.
    """
    waiting = list(steps)
    undone = {step.name for step in steps}
    with threads_each(max(1, available_cores() // jobs)), _pool(jobs) as pool:
        under_way: dict[Future[None], _Step] = {}
        while waiting or under_way:
            for step in [step for step in waiting if undone.isdisjoint(step.reads)][: jobs - len(under_way)]:
                waiting.remove(step)
                begin(step)
                under_way[pool.submit(_call, step.name, call, step)] = step
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                step = under_way.pop(future)
                _raise(future, step.name, still=[other.name for other in under_way.values()])
                undone.remove(step.name)


def _raise(future: Future[None], name: str, *, still: Sequence[str]) -> None:
    error = future.exception()
    if error is None:
        return
    if still:
        log.error("%s failed; waiting for what is under way: %s", name, ", ".join(still))
    if isinstance(error, BrokenProcessPool):
        raise PacxError(
            f"The process of step {name!r} or of one beside it was killed, most likely because memory ran out. Run the "
            "same command again with fewer --jobs; what is done stays done."
        ) from error
    raise error


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Make a pool in which every step gets a fresh process, so that no step inherits another one's memory or state."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent, max_tasks_per_child=1)


def _call(name: str, call: Callable[[_Step], None], step: _Step) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    call(step)
