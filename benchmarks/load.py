"""Keeps an HTTP server busy: N clients, each with one connection, each sending its next request after the last answer.

Raw asyncio streams and a parser of what is needed of HTTP/1.1: servers and load share two cores, and a full client
library would take a good part of one. `Answer.sent` says when the last byte had left for the kernel, so that a test of
shutdown knows what the server had been given.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Answer", "Client", "Request", "as_upload", "keep_busy", "percentile", "problem_fault", "read_answer"]

_BOUNDARY = b"pacx-load-7d1f3c"
_AT_ONCE = 0.25


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    body: bytes = b""
    content_type: str = "application/octet-stream"
    method: str = "POST"
    label: str = ""
    """for whoever counts the answers"""


@dataclass(frozen=True)
class Answer:
    """What came back, and when (seconds of `time.perf_counter`)."""

    request: Request
    start: float
    sent: float | None
    """when the whole request had been handed to the kernel; None if that never happened"""
    seconds: float
    status: int
    """0 where no whole answer came"""
    headers: dict[str, str] = field(default_factory=dict)
    """names in small letters"""
    body: bytes = b""
    fault: str = ""
    """why there is no answer"""

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again; None if it does not say so."""
        told = self.headers.get("retry-after", "")
        return float(told) if self.status in {429, 503} and told.replace(".", "", 1).isdigit() else None


def as_upload(path: str, *files: bytes, label: str = "") -> Request:
    """Make a form with one part called `file` for each file, as a browser would send it."""
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n'
    head = head % _BOUNDARY + b"Content-Type: application/octet-stream\r\n\r\n"
    body = b"".join(head + data + b"\r\n" for data in files) + b"--%b--\r\n" % _BOUNDARY
    return Request(path, body, f"multipart/form-data; boundary={_BOUNDARY.decode()}", label=label)


class Client:
    """One connection, opened when it is needed and kept while the server lets it."""

    def __init__(self, url: str, *, timeout: float = 120.0) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.timeout = parts.hostname or "127.0.0.1", parts.port or 80, timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> Answer:
        """Send a request and wait for its answer; never raises for what the server does."""
        kept = self._streams is not None
        answer = await self._ask(request)
        # A server may close a connection that idles; whoever asks just then opens a new one and asks again. It is at
        # once that this shows: a request that was dropped after some work stays without an answer.
        if kept and not answer.status and answer.seconds < _AT_ONCE:
            again = await self._ask(request)
            return again if again.status else answer
        return answer

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open the connection, or return the one that is open."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port, limit=2**20)
            self._streams[1].transport.set_write_buffer_limits(high=0)  # so that `drain` waits for the kernel
        return self._streams

    def head(self, request: Request, length: int) -> bytes:
        """Return the request line and the headers for a body of so many bytes."""
        lines = (
            f"{request.method} {request.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Type: {request.content_type}",
            f"Content-Length: {length}",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, request: Request) -> Answer:
        start, sent = time.perf_counter(), None
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await self.connect()
                writer.write(self.head(request, len(request.body)) + request.body)
                await writer.drain()
                sent = time.perf_counter()
                status, headers, body = await read_answer(reader)
        except asyncio.IncompleteReadError as error:
            fault = "closed in the middle of an answer" if error.partial else "closed without an answer"
        except TimeoutError:
            fault = f"no answer within {self.timeout:g} s"
        except (OSError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
        else:
            if headers.get("connection", "").lower() == "close":
                self.close()
            return Answer(request, start, sent, time.perf_counter() - start, status, headers, body)
        self.close()
        return Answer(request, start, sent, time.perf_counter() - start, 0, fault=fault)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer.

    Raises:
        IncompleteReadError: the connection was closed before its end.
        ValueError: this is not HTTP.
    """
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if status == 100:
        return await read_answer(reader)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return status, headers, await _read_chunks(reader)
    return status, headers, await reader.readexactly(int(headers.get("content-length") or 0))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def keep_busy(
    url: str, requests: Sequence[Request], *, clients: int, total: int | None = None, seconds: float | None = None
) -> list[Answer]:
    """Send requests, in turn and again from the first, until so many are answered or so many seconds are over.

    Returns:
        One answer per request sent, in the order in which they were begun. Whoever is told to come again does.
    """
    end = time.perf_counter() + seconds if seconds is not None else float("inf")
    queue = itertools.islice(itertools.cycle(requests), total)
    answers: list[Answer] = []
    asyncio.run(_work(url, queue, clients, lambda: time.perf_counter() < end, answers))
    return sorted(answers, key=lambda answer: answer.start)


async def _work(
    url: str, queue: Iterator[Request], clients: int, going: Callable[[], bool], answers: list[Answer]
) -> None:
    async def work() -> None:
        client = Client(url)
        while going() and (request := next(queue, None)) is not None:
            answers.append(await client.ask(request))
            while (wait := answers[-1].retry_after) is not None and going():
                await asyncio.sleep(wait)
                answers.append(await client.ask(request))
        client.close()

    await asyncio.gather(*(work() for _ in range(clients)))


def problem_fault(answer: Answer) -> str:
    """Say what keeps an answer from being a problem of RFC 9457; empty if nothing does."""
    if answer.headers.get("content-type", "").partition(";")[0] != "application/problem+json":
        return f"content type {answer.headers.get('content-type')!r}"
    try:
        problem = json.loads(answer.body)
    except ValueError:
        return f"no JSON: {answer.body[:200]!r}"
    missing = [name for name in ("type", "title", "status", "detail") if not problem.get(name)]
    if missing or problem["status"] != answer.status:
        return f"a problem without {missing} or of another status: {answer.body[:200]!r}"
    return ""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
