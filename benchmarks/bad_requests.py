"""Requests that a server has to survive: damaged and hostile files, endless bodies, clients that dawdle or vanish."""

from __future__ import annotations

import asyncio
import random
import struct
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from benchmarks.load import Answer, Client, Request, as_upload, read_answer

__all__ = ["KINDS", "BadRequests", "make_bombs"]

KINDS = (
    "truncated",
    "bomb by header",
    "bomb by content",
    "text",
    "empty file",
    "empty body",
    "no form",
    "wrong model",
    "endless, declared",
    "endless, undeclared",
    "slow",
    "vanishing",
)
_PIECE = bytes(2**16)


@dataclass(frozen=True)
class BadRequests:
    """Bad requests made from good files.

    Attributes:
        url: the server.
        files: contents of good files.
        bombs: made once, since the second takes a second.
        pause: seconds between the bytes of a slow upload.
        patience: seconds after which a slow upload that nobody has stopped counts as one that never will be.
    """

    url: str
    files: Sequence[bytes]
    bombs: dict[str, bytes]
    pause: float = 1.0
    patience: float = 180.0

    async def send(self, kind: str, rng: random.Random) -> Answer | None:
        """Send one; returns the answer, or None for a client that does not wait for any."""
        if kind == "slow":
            return await self._stream(kind, self._slowly(), length=10_000)
        if kind == "endless, declared":
            return await self._stream(kind, self._endlessly(), length=2**33)
        if kind == "endless, undeclared":
            return await self._stream(kind, self._endlessly(), length=None)
        if kind == "vanishing":
            return await self._vanish(rng)
        client = Client(self.url)
        try:
            return await client.ask(self.request(kind, rng))
        finally:
            client.close()

    def request(self, kind: str, rng: random.Random) -> Request:
        """Make one of those that are sent whole."""
        file = rng.choice(self.files)
        path = "/v1/predict"
        if kind == "truncated":
            return as_upload(path, file[: len(file) // 2], label=kind)
        if kind in self.bombs:
            return as_upload(path, self.bombs[kind], label=kind)
        if kind == "text":
            return as_upload(path, b"PatientName,Diagnosis\nnobody,nothing\n" * 20, label=kind)
        if kind == "empty file":
            return as_upload(path, b"", label=kind)
        if kind == "wrong model":
            return as_upload(path + "?model=no-such-model", file, label=kind)
        if kind == "no form":
            return Request(path, rng.randbytes(1000), "multipart/form-data; boundary=missing", label=kind)
        return Request(path, b"", label=kind)

    async def _stream(self, kind: str, pieces: AsyncIterator[bytes], *, length: int | None) -> Answer:
        """Send a body piece by piece until the server answers or hangs up."""
        client, start = Client(self.url, timeout=self.patience), time.perf_counter()
        request = Request("/v1/predict", label=kind)
        try:
            async with asyncio.timeout(self.patience):
                reader, writer = await client.connect()
                head = client.head(request, length or 0)
                chunked = length is None
                writer.write(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") if chunked else head)
                # It is read from the start: an answer may come, and the connection end, while the body is being sent.
                reading = asyncio.create_task(read_answer(reader))
                sending = asyncio.create_task(_send(writer, pieces, chunked=chunked))
                try:
                    status, headers, body = await reading
                finally:
                    sending.cancel()
                    reading.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except TimeoutError:
            status, headers, body, fault = 0, {}, b"", f"not stopped within {self.patience:g} s"
        except (OSError, EOFError, ValueError) as error:
            status, headers, body, fault = 0, {}, b"", f"hung up ({type(error).__name__})"
        else:
            fault = ""
        client.close()
        return Answer(request, start, None, time.perf_counter() - start, status, headers, body, fault)

    async def _slowly(self) -> AsyncIterator[bytes]:
        while True:
            yield b"\0"
            await asyncio.sleep(self.pause)

    async def _endlessly(self) -> AsyncIterator[bytes]:
        while True:
            yield _PIECE

    async def _vanish(self, rng: random.Random) -> None:
        """Send part of a file, or all of it, and hang up without waiting for the answer."""
        client = Client(self.url)
        request = as_upload("/v1/predict", rng.choice(self.files))
        share = rng.choice((0.0, 0.3, 0.9, 1.0))
        try:
            _, writer = await client.connect()
            writer.write(client.head(request, len(request.body)) + request.body[: int(share * len(request.body))])
            await writer.drain()
            await asyncio.sleep(rng.random() / 5)
            writer.transport.abort()
        except OSError:
            pass
        client.close()


async def _send(writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes], *, chunked: bool) -> None:
    try:
        async for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
    except OSError:
        pass  # the server hung up, maybe after an answer, which the reader has then


def make_bombs() -> dict[str, bytes]:
    """Make a PNG whose header lies and one whose 400 million pixels are there, in 400 kB."""
    honest = zlib.compressobj(9)
    row, num = bytes(20_001), 20_000
    pixels = b"".join(honest.compress(row) for _ in range(num)) + honest.flush()
    return {
        "bomb by header": _png(60_000, 60_000, zlib.compress(bytes(100))),
        "bomb by content": _png(20_000, num, pixels),
    }


def _png(width: int, height: int, pixels: bytes) -> bytes:
    parts = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + pixels, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )
