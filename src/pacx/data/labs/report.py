"""The account of a laboratory table: what became of every value in it.

Every value of the table is in exactly one place: used, or dropped for the first of the reasons below that applies, in
this order. Changes (a unit converted, a detection limit taken for the value) are counted beside that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pacx.data.labs.panel import Lab

__all__ = ["REASONS", "LabReport"]

log = logging.getLogger("pacx")

REASONS = {
    "no time": "the table has times, but not for this value",
    "outside window": "too early or too late for every row of its subject",
    "no value": "empty",
    "not a number": "words, such as ERROR or a comment",
    "no unit": "none given, and the lab is reported in units whose numbers differ",
    "unknown unit": "the unit is not known or does not fit the lab",
    "implausible": "outside the panel's limits, after conversion",
    "later": "the same lab was measured earlier in the window",
    "corrected": "the same lab at the same time was revised afterwards",
    "repeated": "the same value at the same time",
    "contradicted": "other values of the same lab at the same time; their mean is used",
}
"""why a value of a known lab and subject is not used, in the order in which the reasons are tried"""

_MOST_ITEMS = 1000
_SHOWN = 5


class LabReport:
    """Counts of dropped and changed values by lab and reason."""

    def __init__(self, panel: Sequence[Lab]) -> None:
        self._panel = tuple(panel)
        self.rows_read = 0
        """rows of a long table; filled and empty cells of a wide one"""
        self.without_subject = 0
        """values that belong to no row: the subject is empty, or not among those asked for"""
        self.unknown_items: Counter[str] = Counter()
        self.used: Counter[int] = Counter()
        """cells of the result by position in the panel"""
        self.dropped: Counter[tuple[int, str]] = Counter()
        """(position in the panel, one of `REASONS`) -> values"""
        self.units: Counter[tuple[int, str, str]] = Counter()
        """(position, "converted" or "unknown", unit as spelt) -> values"""
        self.limits: Counter[tuple[int, str]] = Counter()
        """(position, "<" or ">") -> values given as a detection limit"""

    def to_dict(self) -> dict[str, Any]:
        """Return what labs_report.json holds; labs without any value are left out."""
        items = self.unknown_items.most_common()
        return {
            "about": "What became of every laboratory value. A dropped value counts under the first reason it meets.",
            "reasons": dict(REASONS),
            "rows_read": self.rows_read,
            "without_subject": self.without_subject,
            "used": self.used.total(),
            "dropped": self._totals(),
            "labs": {lab.name: content for position, lab in enumerate(self._panel) if (content := self._lab(position))},
            "unknown_items": dict(items[:_MOST_ITEMS]),
            "values_of_unknown_items": self.unknown_items.total(),
            "num_unknown_items": len(items),
        }

    def log(self) -> None:
        """Say what was used and dropped, a line per reason."""
        log.info("labs: %d values read, %d used of %d labs", self.rows_read, self.used.total(), len(self.used))
        if self.without_subject:
            log.info("labs: %d values belong to none of the rows", self.without_subject)
        if self.unknown_items:
            log.info(
                "labs: %d values of %d items outside the panel: %s",
                self.unknown_items.total(), len(self.unknown_items), _most(self.unknown_items),
            )  # fmt: skip
        converted = Counter({f"{self._name(lab)} in {unit}": n for (lab, kind, unit), n in self.units.items()
                             if kind == "converted"})  # fmt: skip
        if converted:
            log.info("labs: %d values converted: %s", converted.total(), _most(converted))
        if self.limits:
            by_lab = Counter({f"{self._name(lab)} {sign}": n for (lab, sign), n in self.limits.items()})
            log.info("labs: %d detection limits taken as values: %s", by_lab.total(), _most(by_lab))
        for reason, total in self._totals().items():
            by_lab = Counter({self._name(lab): n for (lab, why), n in self.dropped.items() if why == reason})
            log.info("labs: %d dropped, %s (%s): %s", total, reason, REASONS[reason], _most(by_lab))
        unknown = Counter({f"{self._name(lab)} in {unit!r}": n for (lab, kind, unit), n in self.units.items()
                           if kind == "unknown"})  # fmt: skip
        if unknown:
            log.warning("labs: units that are not known or do not fit: %s", _most(unknown))

    def _totals(self) -> dict[str, int]:
        totals = {reason: sum(n for (_, why), n in self.dropped.items() if why == reason) for reason in REASONS}
        return {reason: total for reason, total in totals.items() if total}

    def _lab(self, position: int) -> dict[str, Any]:
        dropped = {reason: n for reason in REASONS if (n := self.dropped[position, reason])}
        units: dict[str, dict[str, int]] = {"converted": {}, "unknown": {}}
        for (lab, kind, unit), n in sorted(self.units.items()):
            if lab == position:
                units[kind][unit] = n
        limits = {sign: n for sign in "<>" if (n := self.limits[position, sign])}
        if not dropped and not self.used[position]:
            return {}
        content: dict[str, Any] = {"unit": self._panel[position].unit, "used": self.used[position]}
        optional = {
            "dropped": dropped,
            "converted_from": units["converted"],
            "unknown_units": units["unknown"],
            "detection_limits": limits,
        }
        return content | {key: value for key, value in optional.items() if value}

    def _name(self, position: int) -> str:
        return self._panel[position].name


def _most(counts: Mapping[str, int]) -> str:
    ordered = Counter(counts).most_common()
    shown = ", ".join(f"{name} {count}" for name, count in ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} more"
