"""The pieces of a long or wide laboratory table, all in one form, and a first look at who and what is in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.labs.columns import LongLayout, WideLayout
from pacx.data.labs.files import Texts, read_batches
from pacx.data.labs.panel import Lab, LabIndex, item_key
from pacx.data.labs.rows import Piece
from pacx.data.labs.texts import TimeKind, read_times

__all__ = ["Survey", "look_over", "read_pieces"]


@dataclass(frozen=True)
class Survey:
    """What a first look at a table found."""

    first: pd.Series
    """what each subject's window counts from, in seconds: 0 where times are numbers, else the first time of a lab"""
    kind: TimeKind | None
    items: Counter[tuple[str, str]]
    """(item, unit) -> values"""

    def every_item(self) -> list[Lab]:
        """Return a panel of all items, each in its most usual spelling and unit, without limits."""
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        units: dict[str, Counter[str]] = defaultdict(Counter)
        for (item, unit), count in self.items.items():
            spellings[item_key(item)][item] += count
            units[item_key(item)][unit] += count
        names = {key: _most_usual(spelt) for key, spelt in spellings.items() if key}
        return [Lab(0, names[key], _most_usual(units[key]), -inf, inf) for key in sorted(names)]


def read_pieces(path: Path, layout: LongLayout | WideLayout, *, units: Mapping[str, str]) -> Iterator[Piece]:
    """Read a table piece by piece.

    Args:
        path: the table.
        layout: which columns hold what.
        units: by `item_key`, for values that come without one.
    """
    for batch in read_batches(path, _columns(layout)):
        subject = batch[layout.subject]
        time = None if layout.time is None else batch[layout.time]
        if isinstance(layout, WideLayout):
            for lab in layout.labs:
                item, spelt = _constant(lab.item, len(subject.codes)), _constant(lab.unit, len(subject.codes))
                yield Piece(subject, item, batch[lab.column], None, spelt, time, None, empty_is_unmeasured=True)
            continue
        revised = None if layout.revised is None else batch[layout.revised]
        item = batch[layout.item]
        unit = _fill_units(item, None if layout.unit is None else batch[layout.unit], units)
        text = None if layout.text is None else batch[layout.text]
        yield Piece(subject, item, batch[layout.value], text, unit, time, revised, empty_is_unmeasured=False)


def look_over(
    path: Path, layout: LongLayout | WideLayout, index: LabIndex | None, *, units: Mapping[str, str]
) -> Survey:
    """Read subjects, items and times once; `index` None counts every item."""
    items: Counter[tuple[str, str]] = Counter()
    names = [layout.subject, layout.time]
    if isinstance(layout, WideLayout):
        items.update({(lab.item, lab.unit): 1 for lab in layout.labs})
    else:
        names += [layout.item, layout.unit]
    first = pd.Series(dtype=np.float64)
    kind: TimeKind | None = None
    for batch in read_batches(path, [name for name in names if name is not None]):
        subject = batch[layout.subject]
        chosen = np.ones(len(subject.codes), dtype=bool)
        if isinstance(layout, LongLayout):
            item, unit = batch[layout.item], None if layout.unit is None else batch[layout.unit]
            if index is None:
                items.update(_count(item, _fill_units(item, unit, units)))
            else:
                chosen = item.map(np.array([index.find(text) is not None for text in item.distinct]))
        rows = np.flatnonzero(chosen)
        seconds = np.zeros(len(rows))
        if layout.time is not None:
            taken = batch[layout.time].take(rows)
            times, found = read_times(taken.distinct, unit=layout.time_unit, column=layout.time)
            kind = kind or found
            seconds = seconds if kind == "numbers" else taken.map(times)
        earliest = pd.Series(seconds).groupby(subject.codes[rows]).min()
        earliest.index = pd.Index([subject.distinct[code] for code in earliest.index], dtype="object")
        first = pd.concat([first, earliest]).groupby(level=0, sort=False).min() if len(first) else earliest
    return Survey(first[first.index != ""], kind, items)


def _columns(layout: LongLayout | WideLayout) -> list[str]:
    if isinstance(layout, WideLayout):
        names = [layout.subject, layout.time, *(lab.column for lab in layout.labs)]
    else:
        names = [
            layout.subject, layout.item, layout.value, layout.text, layout.unit, layout.time, layout.revised,
        ]  # fmt: skip
    return [name for name in names if name is not None]


def _fill_units(item: Texts, unit: Texts | None, units: Mapping[str, str]) -> Texts | None:
    """Put the units that the user gave where the table has none."""
    if not units:
        return unit
    given = item.map(np.array([units.get(item_key(text), "") for text in item.distinct], dtype=object))
    spelt = given if unit is None else unit.map(np.array(unit.distinct, dtype=object))
    codes, distinct = pd.factorize(np.where(spelt == "", given, spelt))
    return Texts([str(text) for text in distinct], codes.astype(np.int32))


def _count(item: Texts, unit: Texts | None) -> dict[tuple[str, str], int]:
    unit = unit or _constant("", len(item.codes))
    pairs, counts = np.unique(item.codes.astype(np.int64) * len(unit.distinct) + unit.codes, return_counts=True)
    both = [divmod(pair, len(unit.distinct)) for pair in pairs.tolist()]
    found: Counter[tuple[str, str]] = Counter()
    for (what, which), count in zip(both, counts.tolist(), strict=True):
        found[item.distinct[what], unit.distinct[which]] += count
    return found


def _constant(text: str, length: int) -> Texts:
    return Texts([text], np.zeros(length, dtype=np.int32))


def _most_usual(counts: Counter[str]) -> str:
    """Return the text that occurs most often; of several the first in alphabetical order."""
    return min(counts, key=lambda text: (-counts[text], text))
