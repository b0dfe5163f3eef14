"""Worker processes for reading, filtering and rendering: as many as there are cores, and none left behind."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from pacx.data.quiet import quiet_decoders
from pacx.errors import PacxError

__all__ = ["available_cores", "end_with_parent", "threads_each", "worker_pool"]

_KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""glibc: keep what an image took for the next one, where asking the system anew each time costs a quarter of reading"""
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_cores() -> int:
    """Count the cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes with one thread of linear algebra each.

    They are spawned, not forked: Arrow, the BLAS and torch have threads, which a fork would leave in an unknown
    state. What was submitted and not begun is cancelled when the block is left by an exception.

    Raises:
        PacxError: a process was killed from outside.
    """
    context = multiprocessing.get_context("spawn")
    with (
        threads_each(1, keep_freed=True),
        ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool,
    ):
        try:
            yield pool
        except BrokenProcessPool as error:
            raise PacxError(
                "A worker process was killed, most likely because memory ran out. Run the same command again with "
                f"fewer --workers than {num_workers}; what is done stays done."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    end_with_parent()
    quiet_decoders()


def end_with_parent() -> None:
    """Make a worker end when its parent is killed; it would wait for work forever otherwise."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def threads_each(num_threads: int, *, keep_freed: bool = False) -> Iterator[None]:
    """Keep workers' linear algebra from starting a thread per core in each of them; they inherit these settings.

    Args:
        num_threads: threads of each worker.
        keep_freed: let workers keep freed memory for their next image.
    """
    wanted = {**dict.fromkeys(_THREADS, str(num_threads)), **(_KEEP_FREED if keep_freed else {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
