"""The server without HTTP: models, decoders, uploads and counters, and the way of a request through them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request

from pacx.errors import PacxError
from pacx.serving.batching import Batcher
from pacx.serving.decoding import Decoded, DecodePool
from pacx.serving.gallery import Gallery, Neighbour, gallery_path, open_gallery
from pacx.serving.limits import Limits
from pacx.serving.metrics import Metrics
from pacx.serving.problems import Problem
from pacx.serving.runtime import Answers, OnnxModel
from pacx.serving.uploads import Uploads

__all__ = ["Answered", "ServedModel", "Service", "open_served"]

log = logging.getLogger("pacx")


class ServedModel(NamedTuple):
    """A model that is ready to answer."""

    model: OnnxModel
    gallery: Gallery | None
    batcher: Batcher

    @property
    def name(self) -> str:
        """How it is asked for."""
        return self.model.facts.name

    def outputs(self, answers: Answers) -> list[dict[str, Any]]:
        """Put probabilities beside their names and thresholds."""
        readout = self.model.facts.readout
        if readout is None or answers.probability is None:
            return []
        return [
            {
                "name": output.name,
                "probability": round(float(probability), 6),
                "threshold": round(output.threshold, 6),
                "positive": bool(probability >= output.threshold),
            }
            for output, probability in zip(readout.outputs, answers.probability, strict=True)
        ]

    def neighbours(self, answers: Answers) -> list[Neighbour]:
        """Return the known images that are most alike."""
        if self.gallery is None or answers.embedding is None:
            return []
        return self.gallery.nearest(answers.embedding)


class Answered(NamedTuple):
    """What came of one file."""

    decoded: Decoded
    answers: Answers


def open_served(models: Sequence[OnnxModel], limits: Limits, *, runners: int) -> dict[str, ServedModel]:
    """Put a queue before each model, and its gallery beside it if there is one.

    Raises:
        PacxError: two models of one name, or a gallery of another model.
    """
    served: dict[str, ServedModel] = {}
    for model in models:
        name = model.facts.name
        if name in served:
            raise PacxError(
                f"Two models are called {name!r} ({served[name].model.path}, {model.path}). Export one of them again "
                "with another --name."
            )
        beside = gallery_path(model.path)
        gallery = open_gallery(beside, weights_hash=model.facts.weights_hash) if beside.is_file() else None
        served[name] = ServedModel(model, gallery, Batcher(model, limits, runners=runners))
    return served


class Service:
    """Everything that a running server holds."""

    def __init__(self, models: Sequence[OnnxModel], limits: Limits, *, runners: int = 1) -> None:
        self.limits = limits
        self.models = open_served(models, limits, runners=runners)
        self.pool = DecodePool(limits)
        self.uploads = Uploads(limits)
        self.metrics = Metrics()
        self.ready = False
        self.draining = False
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start queues and decoders; the latter in the background, so that the port opens at once."""
        for served in self.models.values():
            served.batcher.start()
        self._starting = asyncio.create_task(self._start_decoders())

    async def stop(self) -> None:
        """End everything."""
        self.ready = False
        if self._starting:
            self._starting.cancel()
        for served in self.models.values():
            await served.batcher.stop()
        await self.pool.stop()

    async def _start_decoders(self) -> None:
        try:
            await self.pool.start()
        except OSError:
            log.exception("serve: the processes that decode cannot be started; the server will not become ready")
            return
        self.ready = True

    def model(self, name: str | None) -> ServedModel:
        """Return a model by name, the first one without.

        Raises:
            Problem: there is none of that name (404).
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem(404, "no-such-model", "There is no such model.", f"The models are: {', '.join(self.models)}.")
        return self.models[name]

    async def answer(self, request: Request, served: ServedModel, want: Collection[str]) -> list[Answered]:
        """Take a request's files, decode them, and ask the model.

        Raises:
            Problem: whatever is wrong, with the number of the file.
        """
        with self.uploads.admitted():
            try:
                files = await self.uploads.read(request)
                served.batcher.check_room(len(files))
                found = await self._within_time(
                    [self._one(request, file, served, want) for file in files]
                )  # fmt: skip
            finally:
                self.uploads.release(request)
        self.metrics.images.labels(served.name).inc(len(found))
        return found

    async def render(self, request: Request, edge: int) -> Decoded:
        """Take a request's one file and make a picture of it."""
        with self.uploads.admitted():
            try:
                (file,) = await self.uploads.read(request, most=1)
                found: Decoded = (await self._within_time([self.pool.decode(file, render=edge)]))[0]
            finally:
                self.uploads.release(request)
        return found

    async def _one(self, request: Request, file: bytes, served: ServedModel, want: Collection[str]) -> Answered:
        decoded = await self.pool.decode(file, preprocess=served.model.facts.preprocess)
        assert decoded.values is not None
        if not np.isfinite(decoded.values).all():
            raise Problem(422, "unreadable", "The image cannot be read.", "Its pixels are not finite numbers.")
        if await request.is_disconnected():
            raise Problem(400, "gone", "The client has gone away.", "Nobody waits for this answer.")
        return Answered(decoded, await served.batcher.answer(decoded.values, want))

    async def _within_time(self, work: list[Any]) -> list[Any]:
        """Do all of it side by side; the first fault, in the order of the files, is the request's."""
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                found = await asyncio.gather(*work, return_exceptions=True)
        except TimeoutError as error:
            raise Problem(
                503, "timed-out", "The answer took too long.",
                f"It did not come within {self.limits.request_seconds:g} seconds. Try again in a moment.", retry=5,
            ) from error  # fmt: skip
        for number, one in enumerate(found):
            if isinstance(one, Problem):
                raise one.of_file(number) if one.file is None and one.status < 429 else one
            if isinstance(one, BaseException):
                raise one
        return found

    def observe(self) -> None:
        """Bring the counters up to date."""
        self.metrics.waiting.set(sum(served.batcher.waiting for served in self.models.values()))
        self.metrics.held.set(self.uploads.held)
        self.metrics.killed.set(self.pool.killed)
        for served in self.models.values():
            sizes, served.batcher.sizes = served.batcher.sizes, []
            for size in sizes:
                self.metrics.batch_size.labels(served.name).observe(size)
