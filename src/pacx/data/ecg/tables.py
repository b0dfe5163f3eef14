"""ECGs in text: a header of lead names, then one line per sample.

What is read:

* columns parted by comma, semicolon, tab or spaces; a decimal comma where the columns are not parted by commas
* lines that begin with # or % are skipped; a first byte-order mark and quotes are dropped; `.gz` is unpacked
* the unit in the name ("II (mV)", "II [uV]", "II_uV") or in a row below the header, as WFDB's `rdsamp` writes it
* a time column (time, t, seconds, ms, "Elapsed time", ...), in s, ms or as a clock (0:00:01.250), which gives the rate;
  without a stated unit, steps up to 0.02 are seconds and the others milliseconds: nobody records below 50 Hz or at
  50 kHz
* empty cells, NaN and "-" as unmeasured

A file without a header is refused unless the lead names are given.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.ecg.files import Traces
from pacx.data.ecg.leads import EcgError, lead_name
from pacx.data.ecg.signal import SLOWEST

__all__ = ["SUFFIXES", "read_ecg_table"]

SUFFIXES = (".csv", ".tsv", ".txt")
_UNIT = r"[nuµμm]?v|(?:nano|micro|milli)?volts?"
_WITH_UNIT = re.compile(rf"(?P<name>.*?)\s*(?:[(\[](?P<any>[^)\]]*)[)\]]|(?:[_/\s]|\sin\s)(?P<volt>{_UNIT}))", re.I)
_SECONDS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0} | dict.fromkeys(
    ("ms", "msec", "millisecond", "milliseconds"), 1e-3
)
_TIME = re.compile(rf"(?:(?:elapsed[\s_]*)?time(?:stamp)?|t)?[\s_/(\[]*(?P<unit>{'|'.join(_SECONDS)})?[)\]]?", re.I)
_MISSING = ("", "-", "nan", "na", "n/a", "null", "none")


def read_ecg_table(path: Path, *, leads: Sequence[str] | None, rate: float | None) -> Traces:
    """Read a text table of samples.

    Args:
        path: .csv, .tsv or .txt, perhaps with .gz.
        leads: (C,) names of the columns but for the time; they replace the header's, or stand for an absent one.
        rate: Hz; when given, times are not looked at.

    Raises:
        EcgError: unreadable, no header and no `leads`, a lead with a cell that is no number, or times that do not run
            evenly.
    """
    table = _cells(path)
    header = [str(cell) for cell in table.iloc[0]]
    if all(_is_number(cell) for cell in header):
        if leads is None:
            raise EcgError(
                f"{path} has no header: it begins with {', '.join(header[:3])}. Give leads= for its columns."
            )
        header = [f"column {i + 1}" for i in range(len(header))]
    else:
        table = table.iloc[1:]
    below = [str(cell) for cell in table.iloc[0]] if len(table) else []
    units_row = below if below and not any(_is_number(cell) for cell in below) else [""] * len(header)
    table = table.iloc[1:] if units_row is below else table
    if not len(table):
        raise EcgError(f"{path} holds no samples.")
    clock = next((i for i, name in enumerate(header) if name and _TIME.fullmatch(name)), None)
    notes: tuple[str, ...] = ()
    if clock is not None and rate is None:
        rate, notes = _rate(path, table[clock], header[clock], units_row[clock])
    names, units, columns = [], [], []
    for i, title in enumerate(header):
        if i == clock:
            continue
        name, unit = _split_unit(title)
        needed = leads is not None or lead_name(name) is not None
        columns.append(_numbers(table[i], f"{path}: column {title!r}" if needed else None))
        names.append(name or f"column {i + 1}")
        units.append(unit or units_row[i] or None)
    return Traces(str(path), np.stack(columns), names, rate, units, notes=notes)


def _cells(path: Path) -> pd.DataFrame:
    """All cells as text, without quotes and with decimal points; short lines end in empty cells."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = [line for line in raw.decode("utf-8-sig").splitlines() if line.strip() and line.lstrip()[0] not in "#%"]
        separator = next((mark for mark in "\t;," if lines and mark in lines[0]), r"\s+")
        cells: pd.DataFrame = pd.read_csv(
            StringIO("\n".join(line.strip(" ") for line in lines).replace("'", "").replace('"', "")),
            sep=separator, header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE,
        )  # fmt: skip
    except (OSError, EOFError, ValueError, zlib.error) as error:  # pandas' own errors are ValueErrors
        raise EcgError(f"{path} cannot be read as a table ({' '.join(str(error).split())}).") from error
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    if separator != ",":
        cells = cells.apply(lambda column: column.str.replace(",", ".", regex=False))
    return cells


def _is_number(cell: str) -> bool:
    """Also true of an empty cell and of a clock, so that a row of samples is never taken for a header."""
    try:
        float(cell.replace(":", "").replace(",", "."))
    except ValueError:
        return cell.lower() in _MISSING
    return True


def _split_unit(title: str) -> tuple[str, str | None]:
    """`II (mV)` is lead II in mV."""
    match = _WITH_UNIT.fullmatch(title)
    return (match["name"], match["any"] or match["volt"]) if match else (title, None)


def _numbers(column: pd.Series, what: str | None) -> NDArray[np.float64]:
    """(T,) numbers; what is none is NaN where nobody needs it (`what` is None), and an error elsewhere."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = np.isnan(numbers) & ~column.str.lower().isin(_MISSING).to_numpy()
    if what is not None and wrong.any():
        row = int(np.argmax(wrong))
        raise EcgError(f"{what} holds {column.iloc[row]!r} in sample {row + 1}, which is not a number.")
    return numbers


def _rate(path: Path, column: pd.Series, title: str, below: str) -> tuple[float, tuple[str, ...]]:
    """Samples per second from a column of times, and what had to be guessed.

    Times are rounded in print, so the rate is taken from the whole span, and is the whole number next to it when that
    changes the span by less than half a sample.

    Raises:
        EcgError: cells that are no times, or steps that differ by more than half.
    """
    clock = bool(column.str.contains(":").any())
    parts = [_numbers(part, f"{path}: column {title!r}") for _, part in column.str.split(":", expand=True).items()]
    # Hours, minutes and seconds are digits to the base 60.
    times: NDArray[np.float64] = np.asarray(np.polynomial.polynomial.polyval(60.0, np.stack(parts[::-1])))
    steps = np.diff(times)
    mean = (times[-1] - times[0]) / max(len(steps), 1)
    if not (mean > 0 and (np.abs(steps / mean - 1) <= 0.5).all()):
        raise EcgError(
            f"{path}: the times in column {title!r} do not run evenly (steps from {steps.min(initial=np.inf):g} to "
            f"{steps.max(initial=-np.inf):g}): samples are missing, or times rounded. Give rate= if you know it."
        )
    match = _TIME.fullmatch(title)
    stated = (match["unit"] if match else None) or (below if below.lower() in _SECONDS else None)
    unit = "s" if clock else stated or ("s" if mean < 1.01 / SLOWEST else "ms")  # times are rounded in print
    notes = () if clock or stated else (f"time column {title!r} without a unit read as {unit}",)
    rate = 1 / (mean * _SECONDS[unit.lower()])
    whole = round(rate)
    return (float(whole) if abs(whole / rate - 1) * len(steps) < 0.5 else rate), notes
