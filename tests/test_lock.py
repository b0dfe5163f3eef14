"""One writer per folder; a lock is gone with its process."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pacx import lock
from pacx.errors import PacxError
from pacx.lock import locked

HOLD = """
import sys, os
from pathlib import Path
from pacx.lock import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    os.write(1, b"held\\n" if child else b"inherited\\n")  # whole: both write into one pipe
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert {process.stdout.readline().strip() for _ in range(2)} == {"held", "inherited"}
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(lock.fcntl is None, reason="no such locks here")
def test_a_second_process_is_told_who_writes_and_gets_in_when_that_is_killed(tmp_path: Path, holder) -> None:
    with pytest.raises(PacxError, match=rf"{tmp_path} is being written by process {holder.pid} on "), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()  # what it forked lives on, and does not have the lock
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    script = "import sys; from pathlib import Path; from pacx.lock import locked\n"
    script += "with locked(Path(sys.argv[1])): print('in')"
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "in\n"


@pytest.mark.skipif(lock.fcntl is None, reason="no such locks here")
def test_a_disk_without_locks_is_warned_of_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with caplog.at_level(logging.WARNING, "pacx"), locked(tmp_path):
        pass
    assert "a disk without locks" in caplog.text
