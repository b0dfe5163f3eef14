"""What goes in and out of the gathering of laboratory values: pieces of a table, and the rows that values are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.labs.files import Texts
from pacx.data.labs.texts import TimeKind

__all__ = ["Piece", "Rows"]


class Piece(NamedTuple):
    """Some values of a table, all of the same length."""

    subject: Texts
    item: Texts
    value: Texts
    text: Texts | None
    """what the laboratory wrote, read where `value` is empty"""
    unit: Texts | None
    time: Texts | None
    revised: Texts | None
    """when the value was last changed"""
    empty_is_unmeasured: bool
    """a wide table: an empty cell is no value that was dropped"""


class Rows:
    """The rows that values are gathered for: several may belong to one subject.

    Args:
        subjects: whose each row is, as text.
        times: seconds that each row's window counts from, NaN where unknown.
        kind: what those were; None where they count from nothing in particular.
    """

    def __init__(self, subjects: Sequence[str], times: NDArray[np.float64], *, kind: TimeKind | None) -> None:
        self._keys = pd.Index(pd.unique(pd.Series(list(subjects), dtype="object")))
        owner = self._keys.get_indexer(pd.Index(list(subjects), dtype="object"))
        self._rows = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner, minlength=len(self._keys))
        self._starts = np.cumsum(self._counts) - self._counts
        self.times, self.kind = times, kind

    def keys(self, subject: Texts) -> NDArray[np.int64]:
        """Return the position of each value's subject, -1 for a stranger, and for a value without a subject."""
        found = self._keys.get_indexer(pd.Index(subject.distinct, dtype="object"))
        found[[text == "" for text in subject.distinct]] = -1  # rows without a subject are not those of such values
        return np.asarray(subject.map(found))

    def pairs(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (value, row) for every row of each value's subject."""
        counts = self._counts[keys]
        values = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
        return values, self._rows[self._starts[keys[values]] + within]
