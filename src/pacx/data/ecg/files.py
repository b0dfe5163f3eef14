"""Decoders of ECG files: arrays, `.npy` and WFDB become `Traces`, as they are.

Nothing is converted here. What a source does not say of itself (an array says neither leads nor rate nor unit) is None,
and `pacx.data.ecg.read_ecg` takes it from its caller or refuses. Tables of text have their own module, `ecg_tables`.

Of a long recording only the beginning is decoded, since pacx uses the first 10 s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.array_rows import open_array, read_row, split_row
from pacx.data.ecg.leads import EcgError, lead_name
from pacx.errors import PacxError

__all__ = ["LAYOUTS", "READ_SECONDS", "Layout", "Traces", "read_array", "read_npy", "read_wfdb"]

READ_SECONDS = 11.0
"""10 s, and one more so that the resampling filter sees what follows."""


class Traces(NamedTuple):
    """Channels of a recording, undecided about what they are."""

    what: str
    """the source, for messages"""
    values: NDArray[np.float64]
    """(C, T), NaN where unmeasured"""
    names: list[str] | None = None
    """(C,) names of the channels"""
    rate: float | None = None
    """samples per second"""
    units: list[str | None] | None = None
    """(C,) units of the channels"""
    length: int | None = None
    """samples of the whole recording, when only its beginning is here"""
    notes: tuple[str, ...] = ()
    """what was understood rather than stated"""


class Layout(NamedTuple):
    """What an array of a published data set holds."""

    leads: tuple[str, ...]
    rate: float
    unit: str


LAYOUTS = {
    # Symile-MIMIC: rows (1, 5000, 12), min-max scaled to [-1, 1] over the whole record, in the order of MIMIC-IV-ECG.
    "symile": Layout(
        leads=("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"), rate=500.0, unit="relative"
    ),
}


def read_array(values: NDArray[Any], what: str, *, leads: Sequence[str] | None) -> Traces:
    """Turn an array so that leads come first, told by their number.

    Args:
        values: (C, T) or (T, C); further axes of length 1 are dropped.
        what: name of the array for messages.
        leads: (C,) names; without them the array is taken as (C, T).

    Raises:
        EcgError: not two-dimensional, not of real numbers, or no axis (or both) as long as the list of names.
    """
    kept = values.reshape([n for n in values.shape if n != 1]) if values.ndim > 2 else values
    if kept.ndim != 2 or kept.dtype.kind not in "fiu":
        hint = " Name one record, as in FILE.npy::0." if kept.ndim == 3 else ""
        raise EcgError(f"{what} is {values.ndim}-dimensional of type {values.dtype}; an ECG is (leads, time).{hint}")
    if leads is not None:
        matches = [axis for axis in (0, 1) if kept.shape[axis] == len(leads)]
        if len(matches) != 1:
            raise EcgError(f"{what} has shape {values.shape}, but {len(leads)} lead names: one axis must match.")
        kept = kept if matches[0] == 0 else kept.T
    return Traces(what, kept.astype(np.float64))


def read_npy(reference: str | Path, *, leads: Sequence[str] | None) -> Traces:
    """Read a `.npy` file, or one row of one (`ecg_train.npy::17`), memory-mapped.

    Raises:
        EcgError: see `pacx.data.array_rows` and `read_array`.
    """
    try:
        path, row = split_row(reference)
        values = open_array(path) if row is None else read_row(path, row)
    except PacxError as error:
        raise EcgError(str(error)) from error
    return read_array(values, str(reference), leads=leads)


def read_wfdb(path: Path) -> Traces:
    """Read the beginning of a WFDB record: single or multi-segment, of any format that the wfdb package knows.

    A gain of 0 means in WFDB that the voltage is unknown. Such a channel has no unit here, and its values are the raw
    counts above the baseline; wfdb itself would call them mV at 200 counts each.

    Args:
        path: the record without suffix, or its .hea, .dat or .mat file.

    Raises:
        EcgError: no header, an unreadable one, one that names itself as a segment, or signal files that are absent or
            too short.
    """
    import wfdb  # 0.7 s to import, and the simulated cohort needs only the names of the leads

    path = path.with_suffix("") if path.suffix in {".hea", ".dat", ".mat"} else path
    if not path.with_name(f"{path.name}.hea").is_file():
        raise EcgError(
            f"There is no ECG record {path} (no .hea file). Give a WFDB record, or a .npy, .csv, .tsv or .txt file."
        )
    try:
        length, enough = _extent(path)
        record = wfdb.rdrecord(str(path), sampto=min(length, enough))
        values = np.asarray(record.p_signal, dtype=np.float64).T
        bare_names = _uncalibrated(path)
    except FileNotFoundError as error:
        raise EcgError(f"{path}: its header names {Path(str(error.filename)).name}, and that is not there.") from error
    except RecursionError as error:
        raise EcgError(f"{path} is one of its own segments. Correct its header, or copy the record again.") from error
    except (OSError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError) as error:  # wfdb has no class
        raise EcgError(f"{path} is not a readable WFDB record ({_explain(path, error)}).") from error
    if values.ndim != 2 or values.size == 0:
        raise EcgError(f"{path} holds no signal.")
    names = [str(name or "") for name in record.sig_name]
    units: list[str | None] = list(record.units)
    uncalibrated = [i for i, bare in enumerate(map(bare_names.__contains__, names)) if bare]
    for i in uncalibrated:
        units[i] = None
        values[i] *= _DEFAULT_GAIN
    ours = [names[i] for i in uncalibrated if lead_name(names[i])]
    notes = (f"uncalibrated (gain 0), read as raw counts: {', '.join(ours)}",) if ours else ()
    return Traces(str(path), values, names if any(names) else None, float(record.fs), units, length, notes)


_DEFAULT_GAIN = 200  # counts per mV, which wfdb assumes where the header gives none


def _header(path: Path) -> list[list[str]]:
    """Words of a header's lines, the record line first. wfdb takes 5 ms for it, and would have to do it twice."""
    lines = [line.split() for line in path.with_name(f"{path.name}.hea").read_text(errors="replace").splitlines()]
    return [words for words in lines if words and not words[0].startswith("#")]


def _extent(path: Path) -> tuple[int, int]:
    """Samples of a record, and how many of them are 11 s.

    Raises:
        ValueError: the record line does not say it: name, channels, rate, samples.
    """
    lines = _header(path)
    if not lines or len(lines[0]) < 4:
        raise ValueError("its header does not begin with name, channels, rate and samples")
    return int(lines[0][3]), round(READ_SECONDS * float(re.split("[/(]", lines[0][2])[0]))


def _uncalibrated(path: Path) -> set[str]:
    """Names of the channels whose gain is 0 or absent, in any segment; "" stands for those without a name."""
    first, *rest = _header(path)
    if "/" in first[0]:
        return set().union(*(_uncalibrated(path.with_name(words[0])) for words in rest if words[0] != "~"))
    return {" ".join(words[8:]) for words in rest if len(words) < 3 or not _gain(words[2])}


def _gain(word: str) -> float:
    """Counts per unit of a header's third field: 1000.0(0)/mV."""
    try:
        return float(re.split(r"[(/]", word, maxsplit=1)[0])
    except ValueError:
        return 0.0


def _explain(path: Path, error: Exception) -> str:
    if "not loaded correctly" in str(error) or "cannot reshape" in str(error):
        return "its signal file is shorter than the header says; copy or download it again"
    return " ".join(str(error).split()) or type(error).__name__
