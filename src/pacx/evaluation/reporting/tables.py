"""Tables: one set of rows for the page, for Markdown and for LaTeX.

A cell is a text with a smaller detail beside it, mostly a number with its interval; a difference whose interval
excludes 0 is marked. What cannot be computed is a dash, and the notes below the table say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pacx.evaluation.reporting.wording import adjusted_p, decimal, interval, is_known, signed, verdict

__all__ = ["ABSENT", "CLEAR", "Cell", "Table", "difference_cell", "number_cell", "value_cell"]

ABSENT, CLEAR = "–", "●"
_WIDE = 6
"""columns that fit beside each other with their intervals"""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    detail: str = ""
    clear: bool = False
    """a difference whose interval excludes 0"""


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    name: str
    """of small letters, digits and dashes; unique in a report"""
    section: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_names: int = 1
    """leading columns that name the row"""
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def is_wide(self) -> bool:
        """Whether details are better put below than beside their cells."""
        return len(self.columns) > _WIDE

    @property
    def spans(self) -> list[int]:
        """How many rows each row's first cell stands for; 0 where the one above stands for it."""
        spans: list[int] = []
        for row in self.rows:
            repeats = bool(spans) and self.num_names > 1 and row[0] == self.rows[len(spans) - 1][0]
            if repeats:
                spans[max(place for place, span in enumerate(spans) if span)] += 1
            spans.append(0 if repeats else 1)
        return spans


def value_cell(found: Mapping[str, Any] | None, digits: int = 3) -> Cell:
    """Write a value with its interval."""
    if not found or not is_known(found.get("value")):
        return Cell(ABSENT)
    return Cell(decimal(found["value"], digits), interval(found, digits))


def difference_cell(found: Mapping[str, Any] | None, digits: int = 3, *, factor: float = 1.0) -> Cell:
    """Write a paired difference with its interval, and its adjusted p-value where there is one.

    Args:
        found: difference, low, high, and perhaps p_holm.
        digits: after the point.
        factor: 100 for percentage points.
    """
    if not found or not is_known(found.get("difference")):
        return Cell(ABSENT)
    shown = {key: factor * found[key] for key in ("difference", "low", "high") if is_known(found.get(key))}
    detail = [interval(shown, digits, sign=True), adjusted_p(found)]
    text = signed(shown["difference"], digits)
    return Cell(text, ", ".join(filter(None, detail)), clear=verdict(found) in {"higher", "lower"})


def number_cell(value: Any, digits: int = 3) -> Cell:
    """Write a number that has no interval."""
    return Cell(decimal(value, digits)) if is_known(value) else Cell(ABSENT)
