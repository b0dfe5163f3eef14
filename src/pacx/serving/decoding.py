"""Decoding off the event loop, in processes that can be killed: `pacx.serving.decode_worker`, from the server's side.

* Each process has one file at a time. It is killed when the file takes too long, and when it dies by itself only that
  file's request hears of it; another takes its place.
* A request that goes away leaves its process to finish: killing it would cost more than the file.
* The processes get an environment without the server's secrets, and their standard error goes nowhere: libraries
  complain there in words of the file's header.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.preprocess import Preprocess
from pacx.serving.decode_worker import pack, unpack
from pacx.serving.limits import Limits
from pacx.serving.problems import Problem

__all__ = ["DecodePool", "Decoded"]

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "VIRTUAL_ENV")
_FAULTS = {
    "too-large": (413, "The image is too large."),
    "unknown-format": (415, "This is not an image of a known format."),
    "unreadable": (422, "The image cannot be read."),
}


class Decoded(NamedTuple):
    """What a file gave."""

    image: dict[str, Any]
    """format, height, width, view, steps"""
    values: NDArray[np.float32] | None
    """(C, S, S), what the model wants"""
    rendered: NDArray[np.uint16] | None
    """(H, W), a picture for the page"""


@dataclass(eq=False)
class _Worker:
    process: asyncio.subprocess.Process
    """reads jobs, writes answers"""


class DecodePool:
    """A few processes that decode."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._idle: asyncio.Queue[_Worker | None] = asyncio.Queue()
        self._all: set[_Worker] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._dying: set[asyncio.Task[int]] = set()
        self.killed = 0
        """processes that took too long or died"""

    async def start(self) -> None:
        """Start all processes and wait until they can work."""
        for worker in await asyncio.gather(*(self._spawn() for _ in range(self.limits.decoders))):
            self._idle.put_nowait(worker)

    async def stop(self) -> None:
        """End all processes."""
        for task in list(self._running):
            task.cancel()
        for worker in list(self._all):
            self._kill(worker)
        await asyncio.gather(*self._dying)
        await asyncio.sleep(0)  # their pipes close in the loop's next turn

    async def decode(self, data: bytes, *, preprocess: Preprocess | None = None, render: int | None = None) -> Decoded:
        """Decode a file.

        Args:
            data: its bytes.
            preprocess: what a model wants; without it no input is made.
            render: longest edge of a picture to make of it.

        Raises:
            Problem: the file is too large (413), of no known format (415), or damaged, too slow, or deadly (422).
        """
        facts = {
            "preprocess": preprocess.to_dict() if preprocess else None,
            "max_pixels": self.limits.max_pixels,
            "render": render,
        }
        worker = await self._idle.get()
        task = asyncio.create_task(self._work(worker, facts, data))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _work(self, worker: _Worker | None, facts: dict[str, Any], data: bytes) -> Decoded:
        kept: _Worker | None = None
        try:
            if worker is None or worker.process.returncode is not None:
                worker = await self._spawn()
            body = await asyncio.wait_for(self._ask(worker, facts, data), self.limits.decode_seconds)
            kept = worker
        except TimeoutError as error:
            raise Problem(
                422, "unreadable", "The image cannot be read.",
                f"Decoding it takes longer than {self.limits.decode_seconds:g} seconds, which no chest X-ray does.",
            ) from error  # fmt: skip
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Problem(
                422, "unreadable", "The image cannot be read.",
                "The decoder gave up on it: the file is damaged, or needs more memory than a chest X-ray.",
            ) from error  # fmt: skip
        finally:
            if kept is None and worker is not None:
                self.killed += 1
                self._kill(worker)
            self._idle.put_nowait(kept)  # None: whoever takes it starts a new process
        return _read_answer(body)

    async def _ask(self, worker: _Worker, facts: dict[str, Any], data: bytes) -> bytes:
        pipe, answers = worker.process.stdin, worker.process.stdout
        assert pipe is not None
        assert answers is not None
        for part in pack(facts, data):
            pipe.write(part)
        await pipe.drain()
        (length,) = struct.unpack("<Q", await answers.readexactly(8))
        return await answers.readexactly(length)

    async def _spawn(self) -> _Worker:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pacx.serving.decode_worker", str(self.limits.decode_memory),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={**environment, **threads}, start_new_session=True, limit=2**20,
        )  # fmt: skip
        worker = _Worker(process)
        self._all.add(worker)
        assert process.stdout is not None
        if not await process.stdout.readline():
            self._kill(worker)
            raise OSError("a decoder did not start")
        return worker

    def _kill(self, worker: _Worker) -> None:
        if worker.process.returncode is None:
            worker.process.kill()
        self._all.discard(worker)
        dying = asyncio.create_task(worker.process.wait())
        self._dying.add(dying)
        dying.add_done_callback(self._dying.discard)


def _read_answer(body: bytes) -> Decoded:
    facts, rest = unpack(body)
    if "fault" in facts:
        status, title = _FAULTS[facts["fault"]]
        raise Problem(status, facts["fault"], title, facts["detail"])
    values = rendered = None
    if facts["shape"]:
        length = 4 * int(np.prod(facts["shape"]))
        values = np.frombuffer(rest[:length], dtype=np.float32).reshape(facts["shape"])
        rest = rest[length:]
    if facts["rendered"]:
        rendered = np.frombuffer(rest, dtype="<u2").reshape(facts["rendered"])
    return Decoded(facts["image"], values, rendered)
