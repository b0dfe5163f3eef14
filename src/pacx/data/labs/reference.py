"""Laboratory values: plausibility limits, and the reference distribution that turns values into percentiles.

A network should not learn that sodium is counted in hundreds and lactate in ones, nor be thrown by one creatinine of
30. So a value enters as its percentile among the training set's values of the same lab, the empirical distribution
function. Three choices make that a function of the data alone:

* **Ties** take the middle of the ranks they share: `p(x) = (#{v < x} + #{v = x} / 2) / n`. Labs are rounded, so ties
  are the rule; the middle keeps the mean percentile of the training set at exactly 1/2.
* **A constant** lab (one distinct value) maps that value to 1/2.
* **Unseen values**: between two training values the step function applies (`#{v < x} / n`); below the smallest the
  percentile is 0, above the largest it is 1. Percentiles 0 and 1 therefore mean "beyond everything seen".

Percentiles come with a mask, 1 = observed. (Symile-MIMIC's files call the same array "missingness".) An unobserved
entry has percentile 0 and mask 0, in training and in use alike. A value is never imputed here.

The distribution is a saved, readable JSON object: distinct values and how often each occurred. Unlike weights it shows
training values, though without rows; share it as you may share a histogram of the data.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.labs.panel import PANEL, Lab, LabIndex
from pacx.errors import PacxError
from pacx.runs import write_json

__all__ = ["PANEL", "Lab", "LabReference", "drop_implausible"]

log = logging.getLogger("pacx")
_ENOUGH_TO_JUDGE = 10  # values of one lab, before most of them being implausible speaks against its unit


def drop_implausible(
    values: pd.DataFrame, *, units: Mapping[str, str] | None = None, panel: Sequence[Lab] = PANEL
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Set values outside the panel's plausibility limits to NaN and count them.

    Args:
        values: (N, L) table, one column per lab.
        units: unit of each column. A column with a unit is found under any name or code of its lab, and the limits
            are converted to its unit; a column without one is found under the panel's own name only, and is in the
            panel's unit. What is not found, or whose unit does not fit the lab, has no limits and is left alone.
        panel: labs with their limits, both ends allowed.

    Returns:
        The cleaned copy, and for each column that lost any value how many.

    Raises:
        PacxError: more than half of a column's values lie outside, so its unit is another one.
    """
    cleaned = values.copy()
    dropped: dict[str, int] = {}
    index = LabIndex(panel)
    for name in values.columns:
        found = _limits(str(name), (units or {}).get(str(name), ""), index)
        if found is None:
            continue
        low, high = found
        outside = (values[name] < low) | (values[name] > high)
        count, observed = int(outside.sum()), int(values[name].notna().sum())
        if count:
            cleaned[name] = values[name].mask(outside)
            dropped[str(name)] = count
        if count > observed / 2 and observed >= _ENOUGH_TO_JUDGE:
            raise PacxError(
                f"{count} of the {observed} values of lab {str(name)!r} lie outside {low:g} to {high:g}, e.g. "
                f"{values.loc[outside, name].iloc[0]:g}. They are in another unit: name it, or convert the column."
            )
    if dropped:
        log.warning("laboratory values outside the plausibility limits were dropped: %s", dropped)
    return cleaned, dropped


def _limits(name: str, unit: str, index: LabIndex) -> tuple[float, float] | None:
    """Return a lab's limits in the unit of its column, or None where they cannot be known."""
    position = index.find(name)
    if position is None:
        return None
    lab = index.panel[position]
    scale = lab.convert(unit, item=name) if unit else (1.0 if name == lab.name else None)
    return None if scale is None else (lab.low / scale, lab.high / scale)


@dataclass(frozen=True)
class _Distribution:
    """Empirical distribution of one lab: ascending distinct values and how often each occurred."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, observed: NDArray[np.float64]) -> _Distribution:
        values, counts = np.unique(observed, return_counts=True)
        return cls(values, counts.astype(np.int64))

    @classmethod
    def read(cls, lab: Mapping[str, Any]) -> _Distribution:
        """Read what `LabReference.to_dict` wrote of one lab.

        Raises:
            KeyError: values or counts are absent.
            ValueError: they are no distribution; percentiles of it would be wrong, or none.
        """
        values, counts = np.asarray(lab["values"], dtype=np.float64), np.asarray(lab["counts"], dtype=np.int64)
        if values.ndim != 1 or values.shape != counts.shape:
            raise ValueError(f"lab {lab['name']!r} has {values.size} values and {counts.size} counts")
        if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
            raise ValueError(f"the values of lab {lab['name']!r} do not ascend")
        if not (counts > 0).all():
            raise ValueError(f"lab {lab['name']!r} has counts that are not positive")
        return cls(values, counts)

    @property
    def size(self) -> int:
        return int(self.counts.sum())

    def quartiles(self) -> list[float]:
        """First quartile, median and third quartile, for the reader; empty where nothing was observed."""
        if not self.size:
            return []
        quartiles: list[float] = np.quantile(np.repeat(self.values, self.counts), (0.25, 0.5, 0.75)).tolist()
        return quartiles

    def percentile(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mid-rank empirical distribution function at `x`, in [0, 1]."""
        below = np.concatenate([[0], np.cumsum(self.counts)])
        left = np.searchsorted(self.values, x, side="left")
        right = np.searchsorted(self.values, x, side="right")
        result: NDArray[np.float64] = (below[left] + below[right]) / (2.0 * self.size)
        return result


class LabReference:
    """The training set's distribution of every lab: turns raw values into percentiles and an observed mask."""

    def __init__(self, distributions: Mapping[str, _Distribution], units: Mapping[str, str]) -> None:
        self._distributions = dict(distributions)
        self.units = {name: units.get(name, "") for name in self._distributions}

    @property
    def labs(self) -> tuple[str, ...]:
        """Names in column order."""
        return tuple(self._distributions)

    @property
    def counts(self) -> dict[str, int]:
        """Number of observed training values per lab."""
        return {name: distribution.size for name, distribution in self._distributions.items()}

    def __len__(self) -> int:
        return len(self._distributions)

    def __repr__(self) -> str:
        rows = max(self.counts.values(), default=0)
        return f"LabReference({len(self)} labs, at most {rows} values each)"

    @classmethod
    def fit(cls, values: pd.DataFrame, *, units: Mapping[str, str] | None = None) -> LabReference:
        """Record the empirical distribution of each column.

        Args:
            values: (N, L) training rows in raw units, NaN = not measured. Column order becomes the lab order.
            units: unit of each lab, kept for the reader.

        Raises:
            PacxError: no column, a column that is not numeric, an infinite value, or nothing observed at all.
        """
        if values.shape[1] == 0:
            raise PacxError("The lab table has no lab column. Give one numeric column per lab.")
        columns = {str(name): _numbers(values[name], str(name)) for name in values.columns}
        fitted = {name: _Distribution.of(column[~np.isnan(column)]) for name, column in columns.items()}
        if not any(distribution.size for distribution in fitted.values()):
            raise PacxError(
                f"None of the {len(fitted)} labs has an observed value in the {len(values)} training rows. "
                "Check the table's columns and the split."
            )
        empty = [name for name, distribution in fitted.items() if not distribution.size]
        if empty:
            log.warning("labs without a single training value always count as unobserved: %s", ", ".join(empty))
        return cls(fitted, units or {})

    def transform(
        self, values: pd.DataFrame, *, ignore: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Turn raw values into percentiles of the training set.

        Args:
            values: (N, any) raw values in the units of `fit`, NaN = not measured. An absent column counts as
                unobserved throughout.
            ignore: leave out columns that the reference does not know, instead of refusing them.

        Returns:
            Percentiles (N, L) in [0, 1], 0 where unobserved; observed mask (N, L), 1 = observed.

        Raises:
            PacxError: an unknown column, a column that is not numeric, or an infinite value.
        """
        unknown = [str(name) for name in values.columns if str(name) not in self._distributions]
        if unknown and not ignore:
            raise PacxError(
                f"The lab reference does not know {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}. "
                f"It knows {', '.join(self.labs[:5])}{' ...' if len(self) > 5 else ''}. Rename or drop the columns."
            )
        percentiles = np.zeros((len(values), len(self)), dtype=np.float32)
        observed = np.zeros_like(percentiles)
        present = {str(name) for name in values.columns}
        for position, (name, distribution) in enumerate(self._distributions.items()):
            if name not in present or not distribution.size:
                continue
            column = _numbers(values[name], name)
            known = ~np.isnan(column)
            percentiles[known, position] = distribution.percentile(column[known])
            observed[known, position] = 1.0
        return percentiles, observed

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file: per lab its unit, quartiles, distinct values and their counts."""
        labs = [
            {
                "name": name,
                "unit": self.units[name],
                "num_values": distribution.size,
                "quartiles": distribution.quartiles(),
                "values": distribution.values.tolist(),
                "counts": distribution.counts.tolist(),
            }
            for name, distribution in self._distributions.items()
        ]
        return {"about": "Empirical distribution of each lab: distinct training values and their counts.", "labs": labs}

    def save(self, path: Path) -> None:
        """Write the distributions as JSON."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path) -> LabReference:
        """Read what `save` wrote.

        Raises:
            PacxError: the file is absent or not a lab reference.
        """
        path = Path(path)
        if not path.is_file():
            raise PacxError(f"{path} does not exist. A labs teacher folder holds reference.json; run `pacx fit-labs`.")
        try:
            labs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["labs"]
            distributions = {lab["name"]: _Distribution.read(lab) for lab in labs}
            units = {lab["name"]: lab["unit"] for lab in labs}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PacxError(f"{path} is not a lab reference ({error}). Write it again with `pacx fit-labs`.") from error
        return cls(distributions, units)


def _numbers(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    """A lab column as float64 with NaN for missing; text and infinities are refused."""
    try:
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PacxError(
            f"Lab column {name!r} holds values that are not numbers ({error}). Convert or drop them."
        ) from error
    if np.isinf(numbers).any():
        raise PacxError(
            f"Lab column {name!r} holds {int(np.isinf(numbers).sum())} infinite values. "
            "Put the detection limit in their place, or NaN for not measured."
        )
    return numbers
