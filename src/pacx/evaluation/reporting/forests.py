"""Dot-and-interval charts ("forest plots"): values at the left, paired differences to the baseline at the right.

One row is one question; all rows share their scales, so that a reader compares down the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pacx.evaluation.reporting.charts import Mark, Scale, axis, dots, tight_scale
from pacx.evaluation.reporting.wording import decimal, interval, is_known, signed, verdict

__all__ = ["Forest", "Row", "difference_mark", "mark", "number"]


@dataclass(frozen=True)
class Row:
    """One question."""

    label: str
    detail: str = ""
    marks: tuple[Mark, ...] = ()
    differences: tuple[Mark | None, ...] = ()
    """in the lines of `marks`; None for the baseline itself"""
    reference: float | None = None
    """chance level of this row"""
    absent: str = ""
    """why there are no values"""


@dataclass(frozen=True)
class Forest:
    """A chart of rows in groups."""

    caption: str
    groups: Sequence[tuple[str, Sequence[Row]]]
    value_title: str
    difference_title: str = ""
    include: tuple[float, ...] = ()
    """values that the scale must hold"""
    include_differences: tuple[float, ...] = ()
    percent: bool = False
    """write values as percentages and differences in percentage points"""

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for _, rows in self.groups for row in rows]

    @property
    def has_differences(self) -> bool:
        """Whether there is anything for the right side."""
        return any(one for row in self.rows for one in row.differences)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Tones and names of the marks, each once."""
        return list(dict.fromkeys((one.tone, one.name) for row in self.rows for one in row.marks))

    @property
    def has_legend(self) -> bool:
        """Whether the marks need one: not if they all are of one thing."""
        return len({name for _, name in self.legend}) > 1

    def value_cell(self, row: Row) -> Markup:
        """Draw the left side of a row."""
        return dots(row.marks, self._value_scale, reference=row.reference, absent=row.absent)

    def difference_cell(self, row: Row) -> Markup:
        """Draw the right side of a row."""
        return dots(row.differences, self._difference_scale, zero=True)

    def value_axis(self) -> Markup:
        """Write the ticks of the left side."""
        return axis(self._value_scale, lambda tick: f"{100 * tick:g} %" if self.percent else f"{tick:g}")

    def difference_axis(self) -> Markup:
        """Write the ticks of the right side."""
        factor = 100 if self.percent else 1
        digits = _digits(factor * (self._difference_scale.ticks[1] - self._difference_scale.ticks[0]))
        return axis(self._difference_scale, lambda tick: signed(factor * tick, digits))

    @property
    def _value_scale(self) -> Scale:
        references = [row.reference for row in self.rows]
        return tight_scale([*_ends(one for row in self.rows for one in row.marks), *references], include=self.include)

    @property
    def _difference_scale(self) -> Scale:
        ends = _ends(one for row in self.rows for one in row.differences if one)
        return tight_scale(ends, include=(0.0, *self.include_differences))


def mark(tone: str, name: str, found: Mapping[str, Any] | None, *, digits: int = 3) -> Mark:
    """Make a mark of a value with its interval."""
    value, low, high = (number((found or {}).get(key)) for key in ("value", "low", "high"))
    return Mark(tone, name, value, low, high, text=f"{decimal(value, digits)} {interval(found, digits)}".strip())


def difference_mark(tone: str, name: str, found: Mapping[str, Any], *, digits: int = 3) -> Mark:
    """Make a mark of a paired difference; hollow if its interval includes zero."""
    value, low, high = (number(found.get(key)) for key in ("difference", "low", "high"))
    text = f"{signed(value, digits)} {interval(found, digits, sign=True)}".strip()
    return Mark(tone, name, value, low, high, text=text, hollow=verdict(found) not in {"higher", "lower"})


def number(value: Any) -> float | None:
    """Return a known number, else None."""
    return float(value) if is_known(value) else None


def _ends(marks: Iterable[Mark]) -> list[float | None]:
    return [end for one in marks for end in (one.value, one.low, one.high)]


def _digits(step: float) -> int:
    return next(digits for digits in range(9) if digits == 8 or abs(round(step, digits) - step) < 1e-9)
