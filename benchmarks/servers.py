"""Starts a server as a process of its own, waits until it answers, stops it; and watches its processes in /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

__all__ = ["free_port", "memory_mib", "process_tree", "running", "start", "stop"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """Find a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Sequence[str], url: str, *, log: Path, env: Mapping[str, str] | None = None, patience: float = 180.0
) -> subprocess.Popen[bytes]:
    """Start a server and wait until `url` answers with 200.

    Raises:
        SystemExit: it ended, or did not answer in time; what it wrote is in `log`.
    """
    with log.open("ab") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(env or {})})
    end = time.monotonic() + patience
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return server
        except (URLError, OSError):
            time.sleep(0.2)
    server.kill()
    told = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SystemExit(f"`{' '.join(command)}` does not answer at {url}. Its last words:\n{told}")


def stop(server: subprocess.Popen[bytes], *, patience: float = 60.0) -> int | None:
    """Ask a server to stop; return its exit code, or None if it had to be killed."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        return server.wait(patience)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        return None


@contextmanager
def running(
    command: Sequence[str], url: str, *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block."""
    server = start(command, url, log=log, env=env)
    try:
        yield server
    finally:
        stop(server)


def process_tree(root: int) -> set[int]:
    """Return the ids of a process and of all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                facts = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # it ended meanwhile
            parents[int(folder.name)] = int(facts.rpartition(")")[2].split()[1])
    tree, found = set(), {root} & set(parents)
    while found:
        tree |= found
        found = {child for child, parent in parents.items() if parent in found} - tree
    return tree


def memory_mib(pids: set[int]) -> float:
    """Return what processes hold in memory, MiB; a page that several share counts once (Pss), where Linux tells."""
    return sum(map(_memory, pids)) / 2**20


def _memory(pid: int) -> int:
    folder = Path("/proc") / str(pid)
    try:
        lines = (folder / "smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        pass
    try:
        return int((folder / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except OSError:
        return 0
