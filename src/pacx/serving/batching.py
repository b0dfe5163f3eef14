"""Micro-batching: images that came while the model was busy go through it together.

* **Nobody waits for company**: a forward pass starts as soon as a thread is free, with what there is. So a lone request
  is as fast as it can be, and under load batches fill by themselves.
* **Several forward passes side by side, each with few threads**, not one with all: threads of one pass wait for each
  other after every layer, and a decoder that takes a core for a moment makes all of them wait.
* **A batch is no larger than is good for anybody**: a share of what waits, and no more than takes a tenth of a second.
  Many images of a small network share the cost of a call; an image of a large one would only wait for the others.
* The queue is bounded; who finds it full is told when to come back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.serving.limits import Limits
from pacx.serving.problems import Problem, busy
from pacx.serving.runtime import Answers, Model

__all__ = ["Batcher"]

_SMOOTHING = 0.1
"""weight of the newest batch in the running mean of seconds per image"""
_BATCH_SECONDS = 0.1
"""that a batch should take at most, unless it is a single image"""


@dataclass
class _Waiting:
    values: NDArray[np.float32]
    want: frozenset[str]
    answer: asyncio.Future[Answers]


class Batcher:
    """One model, a few threads that run it, one queue before it."""

    def __init__(self, model: Model, limits: Limits, *, runners: int = 1) -> None:
        """Prepare.

        Args:
            model: what answers.
            limits: of queue and batches.
            runners: forward passes side by side.
        """
        self.model, self.limits, self.runners = model, limits, runners
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(runners, thread_name_prefix="model")
        self._tasks: list[asyncio.Task[None]] = []
        self.seconds_per_image = _BATCH_SECONDS
        """running mean; tells a client when to come back"""
        self.sizes: list[int] = []
        """of the batches since they were last asked for"""

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.runners)]

    async def stop(self) -> None:
        """Stop; what still waits is told so."""
        for task in self._tasks:
            task.cancel()
        while not self._queue.empty():
            waiting = self._queue.get_nowait()
            if not waiting.answer.done():
                waiting.answer.set_exception(_stopping())
        self._threads.shutdown(wait=True, cancel_futures=True)

    def check_room(self, images: int) -> None:
        """Refuse images for which there is no room; called before they are decoded.

        Raises:
            Problem: the queue is full (429).
        """
        if self.waiting + images > self.limits.queue_size:
            seconds = min(60.0, math.ceil(self.waiting * self.seconds_per_image / self.runners))
            raise busy(f"{self.waiting} images wait for the model already.", retry=seconds)

    async def answer(self, values: NDArray[np.float32], want: Collection[str]) -> Answers:
        """Answer for one image (C, S, S).

        Raises:
            Problem: the queue is full (429), or the server stops (503).
        """
        self.check_room(1)
        waiting = _Waiting(values, frozenset(want), asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._fill(await self._queue.get())
            if not batch:
                continue
            start = time.perf_counter()
            try:
                answers = await loop.run_in_executor(self._threads, _run, self.model, batch)
            except Exception as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            self.seconds_per_image += _SMOOTHING * ((time.perf_counter() - start) / len(batch) - self.seconds_per_image)
            self.sizes.append(len(batch))
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    def _fill(self, first: _Waiting) -> list[_Waiting]:
        """Take what goes in together; who has gone away is not computed for."""
        fair = math.ceil((1 + self.waiting) / self.runners)
        quick = int(_BATCH_SECONDS / self.seconds_per_image)
        batch = [first]
        while len(batch) < min(self.limits.batch_size, fair, quick) and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [one for one in batch if not one.answer.done()]


def _run(model: Model, batch: list[_Waiting]) -> list[Answers]:
    """Ask for everything that anybody in the batch wants; give each what is theirs."""
    want = frozenset().union(*(one.want for one in batch))
    found = model.run(np.stack([one.values for one in batch]), want=want)

    def of(place: int) -> Answers:
        parts: list[Any] = [None if part is None else part[place] for part in found]
        return Answers(*parts)

    return [of(place) for place in range(len(batch))]


def _stopping() -> Problem:
    return Problem(503, "stopping", "The server is stopping.", "Try again in a moment.", retry=2)
