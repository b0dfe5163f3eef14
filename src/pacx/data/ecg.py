"""ECG in: any record becomes 12 leads x 5000 samples in mV.

`read_ecg` is the only place that decodes ECGs. It orders leads by name, never by position (MIMIC writes aVF before
aVL), derives missing limb leads, converts to mV, resamples to 500 Hz and cuts or pads to 10 s. Everything it had to do
is listed in `Ecg.steps`; nothing is repaired in silence. What a network wants to see is made of it afterwards, in
`pacx.data.ecg_recipe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from pacx.errors import PacxError

__all__ = ["LEADS", "RATE", "SAMPLES", "Ecg", "EcgError", "read_ecg"]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RATE = 500
"""Hz"""
SAMPLES = 5000
"""10 s at 500 Hz"""
_MIN_SECONDS = 2.5  # one column of a standard 12-lead printout; shorter holds too few beats for any statement
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6, "v": 1e3}
_CANONICAL = {name.upper(): name for name in LEADS} | {"DI": "I", "DII": "II", "DIII": "III"}
_LIMB = ("III", "aVR", "aVL", "aVF")


class EcgError(PacxError):
    """An ECG that cannot be read."""


@dataclass(frozen=True)
class Ecg:
    """A 12-lead ECG of 10 s and how it came about."""

    signal: NDArray[np.float32]
    """(12, 5000) in mV at 500 Hz, leads as in `LEADS`, no NaN"""
    rate: float
    """sampling rate of the source, Hz"""
    seconds: float
    """length of the source, s"""
    derived: tuple[str, ...]
    """leads computed from other limb leads"""
    flat: tuple[str, ...]
    """leads without any variation: electrode off, or never recorded"""
    missing: int
    """number of source samples that were NaN and became 0"""
    steps: tuple[str, ...]
    """what was done, in words"""


def read_ecg(
    source: str | Path | NDArray[np.floating] | NDArray[np.integer],
    *,
    leads: Sequence[str] | None = None,
    rate: float | None = None,
    unit: str | None = None,
) -> Ecg:
    """Read one ECG and bring it to 12 leads x 10 s at 500 Hz in mV.

    Args:
        source: a WFDB record (path without suffix, or of its .hea file), a .npy file, or an array; arrays are
            (leads, time) or (time, leads), told apart by the number of lead names.
        leads: lead names in the order of the source. Arrays need them; for WFDB they replace the header's.
        rate: sampling rate in Hz, likewise.
        unit: "V", "mV", "uV" or "nV", likewise.

    Raises:
        EcgError: unreadable file, unknown unit, leads that are missing and not derivable, a lead given twice, a record
            under 2.5 s, or no signal at all.
    """
    if isinstance(source, np.ndarray):
        values, names, hertz, units = _from_array(source, "the array", leads=leads, rate=rate, unit=unit)
    elif Path(source).suffix == ".npy":
        values, names, hertz, units = _from_array(
            _load_npy(Path(source)), str(source), leads=leads, rate=rate, unit=unit
        )
    else:
        values, names, hertz, units = _from_wfdb(Path(source), leads=leads, rate=rate, unit=unit)
    return _standardise(values, names, hertz, units)


def _load_npy(path: Path) -> NDArray[np.floating]:
    try:
        values: NDArray[np.floating] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EcgError(f"{path} cannot be read as a NumPy array ({error}).") from error
    return values


def _from_array(
    values: NDArray[np.floating] | NDArray[np.integer],
    what: str,
    *,
    leads: Sequence[str] | None,
    rate: float | None,
    unit: str | None,
) -> tuple[NDArray[np.float64], list[str], float, list[str]]:
    absent = [name for name, given in (("leads", leads), ("rate", rate), ("unit", unit)) if given is None]
    if leads is None or rate is None or unit is None:
        raise EcgError(
            f"An array does not say what it holds: give {', '.join(f'{name}=' for name in absent)} for {what}."
        )
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise EcgError(f"{what} is {values.ndim}-dimensional of type {values.dtype}; an ECG is (leads, time) numbers.")
    matches = [axis for axis in (0, 1) if values.shape[axis] == len(leads)]
    if len(matches) != 1:
        raise EcgError(f"{what} has shape {values.shape}, but {len(leads)} lead names were given: one axis must match.")
    oriented = values if matches[0] == 0 else values.T
    return oriented.astype(np.float64), list(leads), float(rate), [unit] * len(leads)


def _from_wfdb(
    path: Path, *, leads: Sequence[str] | None, rate: float | None, unit: str | None
) -> tuple[NDArray[np.float64], list[str], float, list[str]]:
    import wfdb  # 0.7 s to import, and the simulated cohort needs only LEADS from here

    record_path = path.with_suffix("") if path.suffix in {".hea", ".dat"} else path
    if not record_path.with_name(f"{record_path.name}.hea").is_file():
        raise EcgError(f"There is no ECG record {record_path} (no .hea file). Give a WFDB record, or a .npy file.")
    try:
        record = wfdb.rdrecord(str(record_path))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:  # wfdb has no error class
        raise EcgError(f"{record_path} is not a readable WFDB record ({type(error).__name__}: {error}).") from error
    if record.p_signal is None or record.p_signal.size == 0:
        raise EcgError(f"{record_path} holds no signal.")
    names = list(leads) if leads is not None else list(record.sig_name)
    if len(names) != record.p_signal.shape[1]:
        raise EcgError(f"{record_path} has {record.p_signal.shape[1]} leads, but {len(names)} lead names were given.")
    units = list(record.units) if unit is None else [unit] * len(names)
    return record.p_signal.T.astype(np.float64), names, float(record.fs if rate is None else rate), units


def _standardise(values: NDArray[np.float64], names: list[str], rate: float, units: list[str]) -> Ecg:
    """Everything after decoding: names, units, derived leads, rate, length."""
    if not (np.isfinite(rate) and rate > 0):
        raise EcgError(f"A sampling rate of {rate} Hz is impossible; give rate= in Hz.")
    seconds = values.shape[1] / rate
    if seconds < _MIN_SECONDS:
        raise EcgError(f"The record lasts {seconds:.2f} s; at least {_MIN_SECONDS} s are needed.")
    steps: list[str] = []
    by_name = _by_name(values, names, units, steps)
    missing = int(sum(np.isnan(lead).sum() for lead in by_name.values()))
    if missing:
        steps.append(f"{missing} NaN samples set to 0")
    by_name = {name: np.nan_to_num(lead, nan=0.0) for name, lead in by_name.items()}
    derived = _derive(by_name, steps)
    x = np.stack([by_name[name] for name in LEADS])
    flat = tuple(name for name, lead in zip(LEADS, x, strict=True) if np.ptp(lead) == 0)
    if len(flat) == len(LEADS):
        raise EcgError("All 12 leads are constant: the record holds no signal.")
    if flat:
        steps.append(f"flat: {', '.join(flat)}")
    if not {"I", "II", "III"} & {*derived, *flat} and _breaks_einthoven(x):
        steps.append("limb leads contradict each other (II is not I + III): names or electrodes may be swapped")
    x = _fit_length(_resample(x, rate, steps), steps)
    return Ecg(x.astype(np.float32), rate, seconds, derived, flat, missing, tuple(steps))


def _by_name(
    values: NDArray[np.float64], names: list[str], units: list[str], steps: list[str]
) -> dict[str, NDArray[np.float64]]:
    """Leads in mV under their canonical names; other channels are left out, wholly unmeasured leads too."""
    found: dict[str, NDArray[np.float64]] = {}
    ignored = []
    for lead, name, unit in zip(values, names, units, strict=True):
        canonical = _CANONICAL.get(name.upper().replace("LEAD", "").strip(" _-."))
        if canonical is None:
            ignored.append(name)
            continue
        if canonical in found:
            raise EcgError(f"Lead {canonical} is given twice among {', '.join(names)}. Name each lead once.")
        factor = _MILLIVOLTS.get(unit.strip().lower())
        if factor is None:
            raise EcgError(f"Lead {name} has the unit {unit!r}; known are V, mV, uV and nV. Give unit= if you know it.")
        if np.isnan(lead).all():
            steps.append(f"{canonical} holds only NaN")
            continue
        found[canonical] = lead * factor
    if ignored:
        steps.append(f"ignored channels: {', '.join(ignored)}")
    return found


def _derive(leads: dict[str, NDArray[np.float64]], steps: list[str]) -> tuple[str, ...]:
    """Add missing limb leads (Einthoven: I + III = II; Goldberger: aVR = -(I + II) / 2, ...) in place."""
    absent = [name for name in LEADS if name not in leads]
    if "I" not in leads and {"II", "III"} <= leads.keys():
        leads["I"] = leads["II"] - leads["III"]
    if "II" not in leads and {"I", "III"} <= leads.keys():
        leads["II"] = leads["I"] + leads["III"]
    if {"I", "II"} <= leads.keys():
        one, two = leads["I"], leads["II"]
        formulas = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
        for name in _LIMB:
            leads.setdefault(name, formulas[name])
    lost = [name for name in LEADS if name not in leads]
    if lost:
        present = ", ".join(name for name in LEADS if name in leads) or "none"
        raise EcgError(
            f"Leads {', '.join(lost)} are missing (found: {present}). All six chest leads and two of I, II, III are "
            "needed; the other limb leads are derived."
        )
    if absent:
        steps.append(f"derived: {', '.join(absent)}")
    return tuple(absent)


def _breaks_einthoven(x: NDArray[np.float64]) -> bool:
    """Say whether II differs from I + III by more than half of what the three leads vary; offsets do not count."""
    one, two, three = (lead - np.median(lead) for lead in x[:3])
    return bool(np.std(one + three - two) > 0.5 * np.sqrt((one**2 + two**2 + three**2).mean() / 3))


def _resample(x: NDArray[np.float64], rate: float, steps: list[str]) -> NDArray[np.float64]:
    if rate == RATE:
        return x
    ratio = (Fraction(RATE) / Fraction(rate).limit_denominator(1000)).limit_denominator(5000)
    steps.append(f"resampled from {rate:g} Hz to {RATE} Hz")
    # "line": the filter must not see a step from the baseline down to zero at either end.
    resampled: NDArray[np.float64] = signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    return resampled


def _fit_length(x: NDArray[np.float64], steps: list[str]) -> NDArray[np.float64]:
    """The first 10 s; a shorter record is followed by zeros."""
    if x.shape[1] > SAMPLES:
        steps.append(f"cropped from {x.shape[1] / RATE:.2f} s to 10 s")
        return x[:, :SAMPLES]
    if x.shape[1] < SAMPLES:
        steps.append(f"padded from {x.shape[1] / RATE:.2f} s to 10 s with zeros")
        return np.pad(x, ((0, 0), (0, SAMPLES - x.shape[1])))
    return x
