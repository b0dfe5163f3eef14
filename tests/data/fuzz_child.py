"""Reads mutated files in a process of its own, whose death or silence then names the file.

    python -m tests.data.fuzz_child FIRST STOP [loud]

Writes a line of JSON before and one after each file: its number; its outcome, how long it took, and what the process
held at most. The last line sums up what libraries said through Python; `loud` lets them talk, as they do to whoever has
not called `quiet_decoders`.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tests.data.mutations import mutate
from tests.data.seed_files import CANARY, seed_files

from pacx.data.images import ImageError, read_cxr
from pacx.data.quiet import quiet_decoders
from pacx.errors import MissingExtraError

__all__ = ["ADDRESS_SPACE", "outcome_of"]

ADDRESS_SPACE = 4 * 2**30
"""A larger allocation fails, and is told as an outcome of its own."""


class _Said:
    """Counts what libraries print through Python: warnings and log records."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest, self.leaks = 0, 0

    def take(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.longest = max(self.longest, len(text))
        self.leaks += CANARY in text or CANARY.split("^")[0] in text


def main() -> None:
    first, stop = map(int, sys.argv[1:3])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    said = _Said()
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, category, *_, **__: said.take(category.__name__, str(message))
    if sys.argv[3:] != ["loud"]:
        quiet_decoders()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.take(f"log of {record.name}", record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    for data in seed_files().values():  # whatever is imported late is in memory before the first figure
        outcome_of(data)
    said.counts.clear()
    _say(ready=True, peak=_peak_mib())
    for number in range(first, stop):
        name, data = mutate(number)
        _say(number=number, name=name)
        start = time.perf_counter()
        outcome = outcome_of(data)
        _say(number=number, name=name, outcome=outcome, seconds=time.perf_counter() - start, peak=_peak_mib())
    _say(said=said.counts, longest=said.longest, leaks=said.leaks)


def outcome_of(data: bytes) -> str:
    """Return "read", "refused", or what is wrong."""
    try:
        image = read_cxr(data)
    except (ImageError, MissingExtraError) as error:
        return _complaint(str(error)) or "refused"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    pixels = image.pixels
    if pixels.dtype != np.float32 or pixels.ndim != 2 or not pixels.size:
        return f"pixels of {pixels.dtype} and shape {pixels.shape}"
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN too
        return f"pixels from {pixels.min()} to {pixels.max()}"
    texts = [image.photometric, image.view or "", *image.steps]
    return "read" if all(text.isprintable() for text in texts) else f"unprintable words in {texts!r}"


def _complaint(message: str) -> str | None:
    if not message.isprintable() or not 10 <= len(message) <= 1000:
        return f"a message that is not one printable paragraph: {message!r}"
    if CANARY in message:
        return f"a message with a patient's name: {message}"
    if "MemoryError" in message or "Unable to allocate" in message:
        return f"more than {ADDRESS_SPACE >> 30} GiB wanted: {message}"
    return None


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
