"""A running server for the tests that talk to it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

START_SECONDS = 60


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `pacx serve` and give its address; PACX_TEST_SERVER names one that runs already."""
    if running := os.environ.get("PACX_TEST_SERVER"):
        yield running.rstrip("/")
        return
    for package in ("onnxruntime", "fastapi"):
        pytest.importorskip(package, reason="pacx serve needs the extra `serve`")
    log = tmp_path_factory.mktemp("server") / "log.txt"
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "pacx.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"pacx serve ended with exit code {process.returncode}:\n{log.read_text()}")
        try:
            with urlopen(f"{address}/readyz", timeout=2):
                return
        except (URLError, OSError):  # not listening yet, or 503
            time.sleep(0.1)
    pytest.fail(f"pacx serve was not ready within {START_SECONDS} s:\n{log.read_text()}")
