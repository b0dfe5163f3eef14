"""One writer per folder.

A lock is held by the operating system for a process, not written down: it is gone with the process, however that
ended, so nothing stale can be in the way of a resume. The file `.lock` stays; its text only tells who had the lock.
Processes that the holder starts do not inherit it. Windows has no such locks; there, nothing is checked.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pacx.errors import PacxError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "locked"]

LOCK_NAME = ".lock"

log = logging.getLogger("pacx")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a folder; it must exist.

    Raises:
        PacxError: another process is writing it.
    """
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                file.seek(0)
                raise PacxError(
                    f"{folder} is being written by {file.read().strip() or 'another process'}. Wait for it to end, "
                    "stop it, or choose another --out."
                ) from error
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
                raise
            log.warning("%s is on a disk without locks; take care that no other process writes there.", folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
