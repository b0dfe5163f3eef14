"""The load tools against a server of a few lines that behaves as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from benchmarks import servers, soak
from benchmarks.bad_requests import BadRequests, make_bombs
from benchmarks.load import Answer, Request, as_upload, keep_busy, percentile, problem_fault

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str, bytes], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def serving(handle: Handler, *, read_body: bool = True) -> Iterator[str]:
    """Serve connections with `handle(reader, writer, head, body)` in a thread; yields the URL."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0] or 0)
                await handle(reader, writer, head, await reader.readexactly(length if read_body else 0))
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    loop: asyncio.AbstractEventLoop
    over, ports = asyncio.Event(), queue.SimpleQueue[int]()

    async def serve() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    yield f"http://127.0.0.1:{ports.get(timeout=10)}"
    loop.call_soon_threadsafe(over.set)
    thread.join()


def test_clients_keep_their_connection_and_send_in_turn() -> None:
    seen: list[tuple[object, bytes]] = []

    async def handle(_: object, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        seen.append((writer, body))
        await asyncio.sleep(0.01)
        writer.write(OK)

    with serving(handle) as url:
        answers = keep_busy(url, [Request("/a", b"1"), Request("/a", b"2")], clients=3, total=12)
    assert [answer.status for answer in answers] == [200] * 12 and answers[0].body == b"{}"
    assert len({id(writer) for writer, _ in seen}) == 3
    assert sorted(body for _, body in seen) == [b"1"] * 6 + [b"2"] * 6
    assert all(answer.sent is not None and answer.start <= answer.sent for answer in answers)


def test_who_is_told_to_come_again_does() -> None:
    told: list[int] = []

    async def handle(_: object, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        told.append(1)
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 0.05\r\nContent-Length: 0\r\n\r\n"
        writer.write(busy if len(told) < 3 else OK)

    with serving(handle) as url:
        answers = keep_busy(url, [Request("/")], clients=1, total=1)
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert answers[1].start - answers[0].start >= 0.05


def test_a_body_in_chunks_is_joined_and_a_dropped_request_has_no_status() -> None:
    async def handle(_: object, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            return
        await asyncio.sleep(0.3)
        writer.close()

    with serving(handle) as url:
        chunked, dropped = keep_busy(url, [Request("/", method="GET"), Request("/")], clients=1, total=2)
    assert (chunked.status, chunked.body) == (200, b"abcde")
    assert dropped.status == 0 and dropped.sent is not None and dropped.fault == "closed without an answer"


def test_a_form_is_what_a_browser_sends() -> None:
    from email.parser import BytesParser

    request = as_upload("/v1/predict", b"one\r\n", b"\0\xff")
    parts = BytesParser().parsebytes(b"Content-Type: " + request.content_type.encode() + b"\r\n\r\n" + request.body)
    assert [part.get_param("name", header="content-disposition") for part in parts.get_payload()] == ["file", "file"]
    assert [part.get_payload(decode=True) for part in parts.get_payload()] == [b"one\r\n", b"\0\xff"]


def test_an_endless_body_ends_with_the_servers_answer() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        await reader.readexactly(1_000_000)
        writer.write(b"HTTP/1.1 413 Too much\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)
        raise EOFError

    with serving(handle, read_body=False) as url:
        bad = BadRequests(url, [b"file"], {}, pause=0.01, patience=10)
        for kind in ("endless, declared", "endless, undeclared"):
            answer = asyncio.run(bad.send(kind, random.Random(0)))
            assert answer is not None and answer.status == 413


def test_bombs_are_small_and_what_they_say() -> None:
    bombs = make_bombs()
    assert max(map(len, bombs.values())) < 500_000
    width, height = struct.unpack(">II", bombs["bomb by content"][16:24])
    pixels = zlib.decompressobj()
    data = bombs["bomb by content"]
    size, tail = 0, data[data.index(b"IDAT") + 4 :]
    while tail and not pixels.eof:
        size += len(pixels.decompress(tail, 2**24))
        tail = pixels.unconsumed_tail
    assert size == (width + 1) * height == 400_020_000


def test_a_process_and_its_children_are_found_and_weighed() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(30)'])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        end = time.monotonic() + 20
        while len(tree := servers.process_tree(parent.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert parent.pid in tree and os.getpid() not in tree and len(tree) == 2
        assert 2 < servers.memory_mib(tree) < 500
        for pid in tree - {parent.pid}:
            os.kill(pid, 9)
        parent.wait()
    assert servers.process_tree(parent.pid) == set()


def test_answers_are_compared_number_by_number() -> None:
    expected = {"results": [{"name": "a", "probability": 0.25}], "model": "m"}
    assert soak.largest_difference(expected, json.loads(json.dumps(expected))) == 0
    assert soak.largest_difference({"a": [1.0, 2]}, {"a": [1.5, 2]}) == 0.5
    for other in ({}, {"results": [], "model": "m"}, {**expected, "model": "n"}):
        assert soak.largest_difference(expected, other) == float("inf")


def test_a_problem_names_type_title_status_and_detail() -> None:
    problem = {"type": "urn:pacx:too-large", "title": "Too large", "status": 413, "detail": "It is."}

    def answer(content: dict[str, object], kind: str = "application/problem+json; charset=utf-8") -> Answer:
        return Answer(Request("/"), 0, 0, 0, 413, {"content-type": kind}, json.dumps(content).encode())

    assert problem_fault(answer(problem)) == ""
    assert "content type" in problem_fault(answer(problem, "application/json"))
    assert "detail" in problem_fault(answer({**problem, "detail": ""}))
    assert "another status" in problem_fault(answer({**problem, "status": 400}))


@pytest.mark.parametrize(("share", "expected"), [(0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected
