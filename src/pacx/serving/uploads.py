"""Takes uploads from the network into memory: bounded while they stream, never written to disk, names thrown away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from pacx.data.pixels import printable
from pacx.serving.limits import Limits
from pacx.serving.problems import Problem, busy

__all__ = ["Uploads"]

_BARE = {"application/octet-stream", "application/dicom", "image/png", "image/jpeg", "image/tiff"}
_FORM = "multipart/form-data"
_FIELD = b"file"
_ROOM_FOR_HEADERS = 16 * 1024
"""bytes of a part beside its file"""
_SWALLOW_SECONDS, _SWALLOW_BYTES = 2.0, 256 * 2**20


class Uploads:
    """Reads requests' files; knows how many bytes of all requests are held."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0
        """bytes of uploads in memory"""
        self.requests = 0
        """that are being served"""

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in, and out again with all that it holds.

        Raises:
            Problem: too many are here already (429).
        """
        if self.requests >= self.limits.max_requests:
            raise busy(f"{self.requests} requests are being served. Try again in a moment.")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def read(self, request: Request, *, most: int | None = None) -> list[bytes]:
        """Return the files of a request.

        Args:
            request: with bare bytes, or a form with parts called `file`.
            most: files that are allowed; the limit's number if not given.

        Raises:
            Problem: malformed (400), no file (422), of another content type (415), too slow (408), too much (413), or
                more than the server can hold now (429).
        """
        most = most or self.limits.max_files
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        media_type = kind.decode("latin-1").lower()
        if media_type != _FORM and media_type not in _BARE:
            raise Problem(
                415, "unknown-content-type", "The body is of an unknown content type.",
                f"Send {_FORM} with a part `file`, or one image as it is with one of {', '.join(sorted(_BARE))}.",
            )  # fmt: skip
        room = self._room(request, most if media_type == _FORM else 1)
        chunks = self._stream(request, room)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                if media_type == _FORM:
                    return await self._form(chunks, options.get(b"boundary", b""), most)
                return [self._checked(b"".join([chunk async for chunk in chunks]), 0)]
        except TimeoutError as error:
            raise Problem(
                408, "too-slow", "The upload is too slow.",
                f"The body did not arrive within {self.limits.body_seconds:g} seconds.",
            ) from error  # fmt: skip
        except Problem as problem:
            if problem.status in {413, 429}:
                await _swallow(request)
            raise
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    def _room(self, request: Request, files: int) -> int:
        """Return the largest body that these files can need; refuse one that declares more before it is sent."""
        room = files * (self.limits.max_bytes + _ROOM_FOR_HEADERS)
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > room:
            raise self._too_large(None)
        return room

    async def _stream(self, request: Request, room: int) -> AsyncIterator[bytes]:
        """Yield the body; what one request has sent counts as held until the request ends."""
        received = 0
        async for chunk in _chunks(request):
            received += len(chunk)
            if received > room:
                raise self._too_large(None)
            if self.held + len(chunk) > self.limits.max_body_memory:
                raise busy("The uploads that are being served fill the memory for them. Try again in a moment.")
            self._hold(request, len(chunk))
            yield chunk

    def _hold(self, request: Request, num_bytes: int) -> None:
        self.held += num_bytes
        request.state.held = getattr(request.state, "held", 0) + num_bytes

    def release(self, request: Request) -> None:
        """Let go of what a request holds."""
        self.held -= getattr(request.state, "held", 0)
        request.state.held = 0

    async def _form(self, chunks: AsyncIterator[bytes], boundary: bytes, most: int) -> list[bytes]:
        form = _Form(most=most, max_bytes=self.limits.max_bytes)
        try:
            if not boundary:
                raise _malformed("The form has no boundary.")
            parser = MultipartParser(boundary, form.callbacks())
            async for chunk in chunks:
                parser.write(chunk)
                if form.problem:
                    raise form.problem
            parser.finalize()
        except FormParserError as error:
            raise _malformed("The form's parts cannot be told apart.") from error
        if not form.ended:
            raise _malformed("The form breaks off before its end.")
        if form.unknown is not None:
            raise _unknown_field(form.unknown)
        if not form.files:
            raise _no_file()
        return [self._checked(bytes(file), number) for number, file in enumerate(form.files)]

    def _checked(self, data: bytes, number: int) -> bytes:
        if not data:
            raise _no_file(number)
        if len(data) > self.limits.max_bytes:
            raise self._too_large(number)
        return data

    def _too_large(self, number: int | None) -> Problem:
        return _too_large(self.limits.max_bytes, number)


class _Form:
    """Collects the parts called `file`; of all others the first one's name is kept."""

    def __init__(self, *, most: int, max_bytes: int) -> None:
        self.most, self.max_bytes = most, max_bytes
        self.files: list[bytearray] = []
        self.ended = False
        self.problem: Problem | None = None
        self.unknown: bytes | None = None
        """told of at the form's end: who is still sending might not see the answer"""
        self._name = b""
        self._header = bytearray()
        self._value = bytearray()
        self._wanted = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._wanted, self._name = False, b""
        self._header.clear()
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        if len(self._header) + len(self._value) > _ROOM_FOR_HEADERS:
            self.problem = _malformed("A part of the form has headers without end.")

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"")
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        self._wanted = self._name == _FIELD
        if not self._wanted:
            self.unknown = self._name if self.unknown is None else self.unknown
            return
        if len(self.files) == self.most:
            self.problem = Problem(
                413, "too-many-files", "There are too many files.", f"At most {self.most} may come together."
            )
        self.files.append(bytearray())

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._wanted or self.problem:
            return
        self.files[-1] += data[start:end]
        if len(self.files[-1]) > self.max_bytes:
            self.problem = _too_large(self.max_bytes, len(self.files) - 1)

    def _end(self) -> None:
        self.ended = True


def _too_large(most: int, number: int | None) -> Problem:
    return Problem(413, "too-large", "The file is too large.", f"A file may have up to {_in_words(most)}.", file=number)


def _in_words(num_bytes: int) -> str:
    unit, name = (2**20, "MiB") if num_bytes >= 2**20 else (2**10, "KiB")
    return f"{num_bytes:,} bytes" + (f" ({round(num_bytes / unit, 1):g} {name})" if num_bytes >= unit else "")


def _unknown_field(name: bytes) -> Problem:
    found = printable(name.decode("utf-8", "replace"), longest=40)
    return Problem(
        422, "unknown-field", "A part of the form is not known.",
        f"Found a part called {found!r}; allowed: parts called `file`. A model is named in the address: ?model=NAME.",
    )  # fmt: skip


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed", "The request is malformed.", detail)


def _no_file(number: int | None = None) -> Problem:
    return Problem(
        422, "no-file", "There is no image.", "Send at least one byte of an image, in a form as a part called `file`.",
        file=number,
    )  # fmt: skip


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body, and note when it has ended."""
    while not getattr(request.state, "whole", False):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        request.state.whole = not message.get("more_body", False)
        yield message.get("body", b"")


async def _swallow(request: Request) -> None:
    """Read on for a moment: who is still sending when the connection closes may never see the answer."""
    if getattr(request.state, "whole", False):
        return
    end, received = time.monotonic() + _SWALLOW_SECONDS, 0
    try:
        async with asyncio.timeout(_SWALLOW_SECONDS):
            while time.monotonic() < end and received < _SWALLOW_BYTES:
                message = await request.receive()
                received += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except (TimeoutError, ClientDisconnect):
        return
