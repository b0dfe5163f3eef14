"""From a stream of single laboratory values to one value per row and lab: the earliest in the row's window.

A row is a subject, or an image (study, stay) of a subject with a time of its own; one value may serve several rows.
Of the stream only the earliest values so far are held, so memory follows the answer and not the table.

Values at the very same time: if the table says when each was revised, the last revision counts; of what is left, equal
values are one value, and different ones are replaced by their mean. The result does not depend on the order of rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.labs.files import Texts
from pacx.data.labs.panel import LabIndex
from pacx.data.labs.report import LabReport
from pacx.data.labs.rows import Piece, Rows
from pacx.data.labs.texts import TimeUnit, read_numbers, read_times
from pacx.errors import PacxError

__all__ = ["Gather", "MissingUnit"]

MissingUnit = Literal["drop", "panel"]
Array = NDArray[np.float64]
_MOST_HELD = 500_000


class Gather:
    """Takes the pieces of a table and gives the value of each row and lab.

    Args:
        index: the panel.
        rows: what to gather for.
        report: counts what is dropped.
        window: earliest and latest hour around each row's time, both included; None for any time.
        missing_unit: whether a value without a unit is dropped or taken to be in the panel's unit.
        time_unit: of times that are numbers.
    """

    def __init__(
        self,
        index: LabIndex,
        rows: Rows,
        *,
        report: LabReport,
        window: tuple[float, float] | None,
        missing_unit: MissingUnit,
        time_unit: TimeUnit,
    ) -> None:
        self._index, self._rows, self._report = index, rows, report
        self._time_unit, self._kind = time_unit, rows.kind
        self._window = window
        self._missing_unit = missing_unit
        self._low = np.array([lab.low for lab in index.panel])
        self._high = np.array([lab.high for lab in index.panel])
        self._held = _no_values()
        self._waiting: list[pd.DataFrame] = []

    def add(self, piece: Piece) -> None:
        """Take one piece.

        Raises:
            PacxError: times are neither numbers nor dates, or not of the kind that the windows count from.
        """
        self._report.rows_read += len(piece.item.codes)
        lab = piece.item.map(self._find(piece))
        keys = self._rows.keys(piece.subject)
        self._report.without_subject += int(((lab >= 0) & (keys < 0)).sum())
        chosen = np.flatnonzero((lab >= 0) & (keys >= 0))
        time = self._times(piece, chosen)
        known = ~np.isnan(time)
        self._drop(lab[chosen[~known]], "no time")
        chosen, time = chosen[known], time[known]
        if not len(chosen):
            return
        values, rows = self._pairs(time, keys[chosen], lab[chosen])
        wanted, back = np.unique(values, return_inverse=True)
        numbers, usable = self._numbers(piece, lab[chosen[wanted]], chosen[wanted])
        keep = usable[back]
        values, rows, numbers = values[keep], rows[keep], numbers[back][keep]
        self._waiting.append(
            pd.DataFrame(
                {
                    "cell": rows * len(self._index.panel) + lab[chosen[values]],
                    "time": time[values],
                    "revised": self._revisions(piece, chosen[values]),
                    "value": numbers,
                }
            )
        )
        if sum(map(len, self._waiting)) > max(_MOST_HELD, len(self._held)):
            self._compact()

    def finish(self, num_rows: int) -> Array:
        """Return the values, (rows, labs) in the panel's units, NaN where there is none."""
        self._compact()
        held, num_labs = self._held, len(self._index.panel)
        latest = held["revised"] == held.groupby("cell")["revised"].transform("max")
        self._drop(held.loc[~latest, "cell"] % num_labs, "corrected")
        held = held[latest]
        repeated = held.duplicated(["cell", "value"])
        self._drop(held.loc[repeated, "cell"] % num_labs, "repeated")
        held = held[~repeated]
        self._drop(held.loc[held.duplicated("cell"), "cell"] % num_labs, "contradicted")
        # Sorted, so that the sum of a mean does not depend on the order either.
        result = held.sort_values(["cell", "value"]).groupby("cell")["value"].mean()
        cells = np.asarray(result.index, dtype=np.int64)
        self._report.used.update((cells % num_labs).tolist())
        filled = np.full(num_rows * num_labs, np.nan)
        filled[cells] = result.to_numpy()
        return filled.reshape(num_rows, num_labs)

    def _find(self, piece: Piece) -> NDArray[np.int64]:
        """Return the lab of every distinct item, and count the items that are none."""
        found = [self._index.find(item) for item in piece.item.distinct]
        counts = np.bincount(piece.item.codes, minlength=len(found))
        for item, position, count in zip(piece.item.distinct, found, counts.tolist(), strict=True):
            if position is None and count:
                self._report.unknown_items[item] += count
        return np.array([-1 if position is None else position for position in found], dtype=np.int64)

    def _times(self, piece: Piece, chosen: NDArray[np.int64]) -> Array:
        """Return the chosen values' times in seconds, 0 in a table without times, NaN where unknown."""
        if piece.time is None:
            return np.zeros(len(chosen))
        taken = piece.time.take(chosen)
        seconds, kind = read_times(taken.distinct, unit=self._time_unit, column="time")
        if kind is not None and self._kind not in {None, kind}:
            raise PacxError(
                f"The times of the lab table are {kind} and those that they are held against are {self._kind}. Give "
                "both as dates, or both as numbers that count from the same moment."
            )
        self._kind = self._kind or kind
        return taken.map(seconds)

    def _revisions(self, piece: Piece, values: NDArray[np.int64]) -> Array | float:
        if piece.revised is None:
            return -np.inf
        taken = piece.revised.take(values)
        seconds, _ = read_times(taken.distinct, unit=self._time_unit, column="revised")
        return taken.map(np.nan_to_num(seconds, nan=-np.inf))

    def _pairs(
        self, time: Array, keys: NDArray[np.int64], lab: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (value, row) for values within the window of a row."""
        values, rows = self._rows.pairs(keys)
        if self._window is None:
            return values, rows
        since = time[values] - self._rows.times[rows]
        inside = (since >= self._window[0] * 3600) & (since <= self._window[1] * 3600)
        unused = np.ones(len(time), dtype=bool)
        unused[values[inside]] = False
        self._drop(lab[unused], "outside window")
        return values[inside], rows[inside]

    def _numbers(
        self, piece: Piece, position: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Return the wanted values in the panel's units, and which of them can be used; `position` is their lab."""
        value, limit, empty = _cells(piece, wanted)
        if not piece.empty_is_unmeasured:
            self._drop(position[empty], "no value")
        self._drop(position[np.isnan(value) & ~empty], "not a number")
        usable = ~np.isnan(value)
        scale = self._scales(piece, position, wanted, usable)
        usable &= ~np.isnan(scale)
        value = value * scale
        outside = usable & ((value < self._low[position]) | (value > self._high[position]))
        self._drop(position[outside], "implausible")
        usable &= ~outside
        for sign, side in (("<", -1), (">", 1)):
            limits = np.unique(position[usable & (limit == side)], return_counts=True)
            self._report.limits.update({(lab, sign): n for lab, n in zip(*map(np.ndarray.tolist, limits), strict=True)})
        return value, usable

    def _scales(
        self, piece: Piece, position: NDArray[np.int64], wanted: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> Array:
        """Return the factor to the panel's unit for each value, NaN where there is none."""
        items = piece.item.codes[wanted].astype(np.int64)
        unit = Texts([""], np.zeros(len(piece.item.codes), np.int32)) if piece.unit is None else piece.unit
        kinds = items * len(unit.distinct) + unit.codes[wanted]
        result = np.full(len(wanted), np.nan)
        distinct, inverse = np.unique(kinds, return_inverse=True)
        for number, kind in enumerate(distinct.tolist()):
            members = np.flatnonzero((inverse == number) & usable)
            if not len(members):
                continue
            item, spelt = piece.item.distinct[kind // len(unit.distinct)], unit.distinct[kind % len(unit.distinct)]
            lab = int(position[members[0]])
            scale = self._scale(lab, spelt, item)
            if scale is None:
                self._report.dropped[lab, "unknown unit" if spelt else "no unit"] += len(members)
                if spelt:
                    self._report.units[lab, "unknown", spelt] += len(members)
                continue
            if scale != 1.0:
                self._report.units[lab, "converted", spelt] += len(members)
            result[members] = scale
        return result

    def _scale(self, lab: int, unit: str, item: str) -> float | None:
        if not unit and self._missing_unit == "panel":
            return 1.0
        return self._index.panel[lab].convert(unit, item=item)

    def _compact(self) -> None:
        """Keep the earliest values of every cell."""
        values = pd.concat([self._held, *self._waiting], ignore_index=True)
        earliest = values["time"] == values.groupby("cell")["time"].transform("min")
        self._drop(values.loc[~earliest, "cell"] % len(self._index.panel), "later")
        self._held, self._waiting = values[earliest], []

    def _drop(self, labs: NDArray[np.int64] | pd.Series, reason: str) -> None:
        counts = np.unique(np.asarray(labs, dtype=np.int64), return_counts=True)
        self._report.dropped.update({(int(lab), reason): int(n) for lab, n in zip(*counts, strict=True)})


def _cells(piece: Piece, wanted: NDArray[np.int64]) -> tuple[Array, NDArray[np.int8], NDArray[np.bool_]]:
    """Return value, detection limit and emptiness of the wanted cells."""
    value, limit, empty = _read(piece.value, wanted)
    if piece.text is not None and empty.any():
        written = _read(piece.text, wanted[empty])
        value[empty], limit[empty], empty[empty] = written
    return value, limit, empty


def _read(column: Texts, rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.int8], NDArray[np.bool_]]:
    taken = column.take(rows)
    numbers = read_numbers(taken.distinct)
    return taken.map(numbers.value), taken.map(numbers.limit), taken.map(numbers.empty)


def _no_values() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell": np.array([], np.int64),
            "time": np.array([], np.float64),
            "revised": np.array([], np.float64),
            "value": np.array([], np.float64),
        }
    )
