"""In which form a simulated cohort is written: our store, or the files of a published data set.

With the files of a published set, whatever reads that set can be tried and tested without access to it. They are made
of a finished store, so they hold the same patients, and simulating takes the same road with any format: restartable, on
all cores. A new format is a module with a `check` and a `write`, and one line in `FORMATS`.

The files of a release come to life in `OUT/.release` and are moved into place when all of them are whole; the list of
checksums is last.
"""

from __future__ import annotations

import shutil
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.store import Store
from pacx.data.store_plan import full_disk_is_a_user_error

__all__ = ["FORMATS", "Format", "Simulated", "check_format", "write_format"]

Format = Literal[
    "store", "chestx6", "chexchonet", "chexpert", "covid-qu-ex", "covidx", "cxl-seg", "kermany", "medmod",
    "mimic-cxr-jpg", "nih", "open-i", "padchest", "qata-cov19", "symile-mimic", "tb-shenzhen", "vindr",
]  # fmt: skip

_MINIATURES = "pacx.data.phantom.miniatures"
FORMATS = {
    name: f"{_MINIATURES}.{name.replace('-', '_')}"
    for name in typing.get_args(Format)
    if name not in {"store", "symile-mimic"}
} | {"symile-mimic": "pacx.data.phantom.symile"}
"""format other than `store` -> module with write(simulated, folder) and, if not every cohort will do,
check(config, manifest, out)"""

LAST = "SHA256SUMS.txt"


class Simulated(NamedTuple):
    """A finished cohort, as a format's `write` gets it."""

    store: Store
    truth: pd.DataFrame
    """the true latent state and acquisition; row i belongs to row i of the store"""
    seed: int


def check_format(name: str, *, config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse what a format cannot hold, before anything is simulated.

    Raises:
        PacxError: an argument does not fit the format, the cohort is too small for it, or the disk.
    """
    if name in FORMATS:
        check = getattr(import_module(FORMATS[name]), "check", None)
        if check is not None:
            check(config, manifest, out)


def write_format(name: str, simulated: Simulated, out: Path) -> None:
    """Write the cohort in a format; what an interrupted run left of it is written anew.

    Raises:
        PacxError: the disk is full.
    """
    fresh = out / ".release"
    if fresh.is_dir():
        shutil.rmtree(fresh)
    with full_disk_is_a_user_error(out):
        fresh.mkdir()
        import_module(FORMATS[name]).write(simulated, fresh)
        for path in sorted(fresh.iterdir(), key=lambda path: (path.name == LAST, path.name)):
            target = out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        fresh.rmdir()
