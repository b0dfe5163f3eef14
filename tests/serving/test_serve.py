"""The command: what it refuses, how it stops, several workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from tests.serving.models import png

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")

from pacx.cli import main

TOKEN = "a-token-of-more-than-16-letters"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "pacx.cli", "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 60
    try:
        while not is_ready(address):
            assert process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < end, "the server does not become ready"
            time.sleep(0.05)
        yield address, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def is_ready(address: str) -> bool:
    try:
        with urlopen(f"{address}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def ask(address: str, path: str = "/v1/predict", token: str = "") -> tuple[int, dict[str, object]]:
    headers = {"Content-Type": "image/png", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        with urlopen(Request(address + path, data=png(), headers=headers), timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_what_was_sent_before_the_order_to_stop_is_answered() -> None:
    with serving() as (address, process):
        statuses: list[int] = []

        def keep_asking() -> None:
            try:
                while True:
                    statuses.append(ask(address)[0])
            except OSError:  # it has stopped accepting
                return

        clients = [threading.Thread(target=keep_asking) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(30)
        assert process.wait(20) == 0
    assert len(statuses) > 10
    assert set(statuses) == {200}


def test_a_server_that_stops_says_so_before_it_does() -> None:
    with serving("--limits.drain_seconds", "2") as (address, process):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert not is_ready(address)
        assert ask(address)[0] == 200  # still answered
        assert process.wait(20) == 0


def test_several_workers_answer_and_end_together() -> None:
    with serving("--workers", "2", "--limits.decoders", "1") as (address, process):
        assert [ask(address)[0] for _ in range(6)] == [200] * 6
        with urlopen(f"{address}/metrics", timeout=5) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        assert float(lines['pacx_requests_total{path="/v1/predict",status="200"}']) == 6  # of both workers
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with serving("--token-file", str(tokens), PACX_TOKEN=TOKEN + "-2") as (address, _):
        assert ask(address)[0] == 401
        assert ask(address, token="wrong")[0] == 401
        assert ask(address, token=TOKEN)[0] == ask(address, token=TOKEN + "-2")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.onnx"], "absent.onnx cannot be opened"),
        (["shipped:absent"], "There is: phantom-small"),
        (["--token-file", "absent"], "cannot be read"),
        (["--token-file", "short"], "at least 16"),
        (["--token-file", "empty"], "holds no token"),
        (["--port", "0"], "ports 1 to 65535"),
        (["--workers", "0"], "a worker or more"),
        (["--limits.max_bytes", "0"], "above 0"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_paragraph(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PACX_TOKEN", raising=False)
    Path("short").write_text("12345")
    Path("empty").write_text("\n")
    assert main(["serve", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in " ".join(message.split())
    assert "Traceback" not in message


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["serve", "--port", str(other.getsockname()[1])]) == 2
    assert "Address already in use" in " ".join(capsys.readouterr().err.split())
