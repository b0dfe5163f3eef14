"""What earlier steps of a plan will have left behind: stores, encoders, teachers, features on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from pacx.costs.volumes import Volume, stored
from pacx.errors import PacxError
from pacx.models.config import EncoderConfig
from pacx.preprocess import Preprocess

__all__ = ["Known", "Teacher"]

_FRESH = re.compile(r"random:(.+?)(?::\d+)?")


class Teacher(NamedTuple):
    """What embedding a row by a teacher takes."""

    flops: int
    dim: int
    """length of the embedding"""


class Known:
    """What can be said of the folders that steps name, by path.

    Attributes:
        stores: what they hold.
        encoders: what they are made of.
        teachers: what they take for a row.
        features: (run, store, encoder, view) of the frozen features that a step before has left on disk.
        assumed: encoders that are not there yet and are taken to be a ViT-B/16.
    """

    def __init__(self) -> None:
        self.stores: dict[str, Volume | None] = {}
        self.encoders: dict[str, EncoderConfig] = {}
        self.teachers: dict[str, Teacher] = {}
        self.features: set[tuple[str, str, str, str]] = set()
        self.assumed: set[str] = set()

    def store(self, path: str | Path) -> Volume | None:
        """Return what a store holds; None if that cannot be known yet."""
        if str(path) not in self.stores:
            self.stores[str(path)] = stored(path)
        return self.stores[str(path)]

    def encoder(self, source: str) -> EncoderConfig:
        """Return what an encoder is made of; `source` as for `load_encoder`."""
        fresh = _FRESH.fullmatch(source)
        path = fresh[1] if fresh else source
        if path not in self.encoders:
            found = _read(Path(path) / "config.json")
            if found is None:
                self.assumed.add(path)
            self.encoders[path] = found or EncoderConfig.named("base", preprocess=Preprocess())
        return self.encoders[path]

    def is_new(self, run: Path, store: Path, encoder: str, view: str) -> bool:
        """Say whether features have to be computed, and remember that they are there from now on."""
        key = (str(run.parent), str(store), encoder, view)
        new = key not in self.features
        self.features.add(key)
        return new


def _read(path: Path) -> EncoderConfig | None:
    try:
        return EncoderConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, PacxError):
        return None  # what is wrong with it is said when the recipe runs
