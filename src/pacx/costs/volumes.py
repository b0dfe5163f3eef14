"""How many rows and bytes a store has, before it is there.

Rows are those of a finished store, of a simulated cohort's arguments, or of the full release by the data set's card.
Where a card does not say how rows are split, they are shared out by the split fractions. A row takes

    images   S^2 bytes      masks   S^2 bytes      ECGs   12 x 5000 x 2 bytes      labs   8 bytes each
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pacx.data.manifest import SPLITS
from pacx.data.sources import SOURCES, source_module
from pacx.data.sources.card import Card
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["Volume", "card_of", "prepared", "simulated", "stored"]

_ECG_BYTES = 12 * 5000 * 2
_LAB_BYTES = 8
_NUM_LABS = 50
_SIMULATED = (0.6, 0.1, 0.3)


class Volume(NamedTuple):
    """What a store holds."""

    splits: Mapping[str, int]
    """rows by split"""
    size: int = 0
    """edge of the images, pixels"""
    masks: bool = False
    ecg: bool = False
    num_labs: int = 0

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.splits.values())

    @property
    def pixels(self) -> int:
        """Bytes of the images."""
        return self.rows * self.size**2

    @property
    def ecgs(self) -> int:
        """Bytes of the ECGs."""
        return self.rows * _ECG_BYTES * self.ecg

    @property
    def disk(self) -> int:
        """Bytes of the arrays on disk; the manifest is small beside them."""
        row = self.size**2 * (1 + self.masks) + _ECG_BYTES * self.ecg + _LAB_BYTES * self.num_labs
        return self.rows * row

    def of(self, *splits: str) -> int:
        """Rows of some splits."""
        return sum(self.splits.get(split, 0) for split in splits)


def stored(path: str | Path) -> Volume | None:
    """Return what a finished store holds; None if there is none."""
    if not (Path(path) / "meta.json").is_file():
        return None
    try:
        store = Store.open(path)
    except (PacxError, json.JSONDecodeError):
        return None  # what is wrong with it is said when the recipe runs
    splits = {split: len(store.rows(split)) for split in SPLITS}
    labs = 0 if store.labs is None else store.labs.shape[1]
    return Volume(splits, store.image_size or 0, store.masks is not None, store.ecg is not None, labs)


def simulated(arguments: Mapping[str, Any]) -> Volume:
    """Return what `simulate` will make, by the mean number of images per patient."""
    rows = round(arguments["patients"] * arguments["images_per_patient"])
    labs = _NUM_LABS if arguments["labs"] else 0
    return Volume(_share_out(rows, _SIMULATED, known={}), arguments["size"], True, arguments["ecg"], labs)


def prepared(arguments: Mapping[str, Any]) -> Volume | None:
    """Return what `prepare` will make of a full release; None where its size is not known beforehand."""
    card = card_of(arguments["source"])
    if card is None:
        return None
    part = arguments["part"]
    expected = card.expected if part is None else card.expected_of_part.get(part, card.expected)
    usual = expected.splits if part else card.usual_splits or expected.splits
    rows = expected.rows or sum(usual.values())
    if not rows:
        return None
    redrawn = arguments["redraw_split"] or arguments["folds"] is not None
    splits = _share_out(rows, arguments["split_fractions"], known={} if redrawn else usual)
    holds = card.holds
    return Volume(splits, arguments["size"], "mask" in holds, "ecg" in holds, _NUM_LABS if "labs" in holds else 0)


def card_of(source: str) -> Card | None:
    """Return the card of a public data set; None for other sources, known or not."""
    card: Card | None = getattr(source_module(source), "CARD", None) if source in SOURCES else None
    return card


def _share_out(rows: int, fractions: tuple[float, float, float], *, known: Mapping[str, int]) -> dict[str, int]:
    """Share out what no split is known for, in the proportion of the fractions."""
    open_splits = {split: share for split, share in zip(SPLITS, fractions, strict=True) if split not in known}
    left, total = rows - sum(known.values()), sum(open_splits.values())
    shared = {split: round(left * share / total) if total else 0 for split, share in open_splits.items()}
    return {split: known.get(split, shared.get(split, 0)) for split in SPLITS}
