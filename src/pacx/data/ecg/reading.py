"""ECG in: any record becomes 12 leads x 5000 samples in mV.

`read_ecg` is the only place that reads ECGs. It orders leads by name, never by position (MIMIC writes aVF before aVL),
derives missing limb leads, converts to mV, resamples to 500 Hz and cuts or pads to 10 s. Everything it had to do or
found odd is listed in `Ecg.steps`; nothing is repaired in silence. What a network wants to see is made of it
afterwards, in `pacx.data.ecg.recipe`.

What is repaired, and said: limb leads that are missing or were not recorded (all samples equal) are derived; single
unmeasured samples and the time after a short record take the lead's median, which is its baseline; a lead that lies
twenty times the record's spread from zero is brought down to its median, since a store's half precision would lose the
waves. None of these depends on where a unit has its zero, so the prepared signal does not either.

What is said only: up to six flat leads; limb leads that contradict each other; lead I running against V6; two leads
with the same samples; a silent end.

What is refused: an unknown unit; a rate below 50 Hz (in kHz, as a rule); voltages that no heart makes (a wrong unit, as
a rule); a lead given twice; a missing chest lead; more than six flat leads, or all limb leads, or all chest leads,
since one of the heart's two planes is then unseen; less than 2.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.array_rows import SEPARATOR
from pacx.data.ecg.checks import oddities, refuse_flat, refuse_short, refuse_unmeasured
from pacx.data.ecg.files import LAYOUTS, READ_SECONDS, Traces, read_array, read_npy, read_wfdb
from pacx.data.ecg.leads import LEADS, EcgError, derive_limb_leads, lead_name, varies
from pacx.data.ecg.signal import RATE, SAMPLES, check_rate, fit_length, level, resample
from pacx.data.ecg.tables import SUFFIXES, read_ecg_table

__all__ = ["LEADS", "RATE", "SAMPLES", "Ecg", "EcgError", "read_ecg"]

_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6, "v": 1e3, "relative": 1.0} | {
    f"{prefix}volt{s}": factor
    for prefix, factor in (("milli", 1.0), ("micro", 1e-3), ("nano", 1e-6), ("", 1e3))
    for s in ("", "s")
}


@dataclass(frozen=True, repr=False, eq=False)
class Ecg:
    """A 12-lead ECG of 10 s and how it came about."""

    signal: NDArray[np.float32]
    """(12, 5000) at 500 Hz, leads as in `LEADS`, no NaN"""
    rate: float
    """sampling rate of the source, Hz"""
    seconds: float
    """length of the source, s"""
    unit: str
    """"mV", or "relative": an affine image of mV, the same for all leads"""
    derived: tuple[str, ...]
    """leads computed from other limb leads"""
    flat: tuple[str, ...]
    """leads without any variation in the source: electrode off, or never recorded; a flat limb lead may be derived"""
    inverted: tuple[str, ...]
    """leads that the source holds with the opposite sign, as -aVR, and that were turned"""
    ignored: tuple[str, ...]
    """names of channels that are none of the twelve leads"""
    missing: int
    """number of unmeasured samples (NaN or infinite) in the first 10 s, all leads together"""
    steps: tuple[str, ...]
    """what was done or found odd, in words; empty for a clean record of 10 s at 500 Hz"""

    def __repr__(self) -> str:
        """Say in one line where it came from and what was done."""
        said = "; ".join(self.steps) or "taken as it is"
        return f"Ecg(12 leads x 10 s at 500 Hz, {self.unit}; source {self.seconds:.4g} s at {self.rate:g} Hz; {said})"


def read_ecg(
    source: str | Path | NDArray[np.floating] | NDArray[np.integer],
    *,
    leads: Sequence[str] | None = None,
    rate: float | None = None,
    unit: str | None = None,
    layout: str | None = None,
) -> Ecg:
    """Read one ECG and bring it to 12 leads x 10 s at 500 Hz in mV.

    Args:
        source: a WFDB record (path without suffix, or of its .hea file); a table of text (.csv, .tsv, .txt, also .gz);
            a .npy file or one row of one (`ecg_train.npy::17`); or an array, (leads, time) or (time, leads), told
            apart by the number of lead names.
        leads: names of the channels in the order of the source. Arrays need them; elsewhere they replace the names in
            the file.
        rate: sampling rate in Hz, 50 or more, likewise.
        unit: "V", "mV", "uV" or "nV", likewise; or "relative" when voltages are known only up to a factor and an
            offset that all leads share. The network's recipe does not see the difference.
        layout: instead of the three, the name of a published data set whose arrays are known: "symile".

    Raises:
        EcgError: unreadable file, unknown or impossible unit or rate, leads that are missing and not derivable, a lead
            given twice, too many flat leads, or a record under 2.5 s.
    """
    if layout is not None:
        if layout not in LAYOUTS:
            raise EcgError(f"The layout {layout!r} is not known; known are: {', '.join(LAYOUTS)}.")
        if (leads, rate, unit) != (None, None, None):
            raise EcgError(f"The layout {layout!r} says what leads=, rate= and unit= say; give it or them.")
        leads, rate, unit = LAYOUTS[layout]
    return _standardise(_stated(_decode(source, leads, rate), leads=leads, rate=rate, unit=unit))


def _decode(source: str | Path | NDArray[Any], leads: Sequence[str] | None, rate: float | None) -> Traces:
    if isinstance(source, np.ndarray):
        return read_array(source, "the array", leads=leads)
    path = Path(source)
    if path.suffix == ".npy" or f".npy{SEPARATOR}" in path.name:
        return read_npy(source, leads=leads)
    if path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix.lower() in SUFFIXES:
        return read_ecg_table(path, leads=leads, rate=rate)
    return read_wfdb(path)


def _stated(
    traces: Traces, *, leads: Sequence[str] | None, rate: float | None, unit: str | None
) -> tuple[Traces, list[str], float, list[str | None]]:
    """What the source says of itself, unless the caller says otherwise.

    Raises:
        EcgError: neither says the leads, the rate or any unit; another number of names than of channels; or a rate
            that is none.
    """
    names = list(leads) if leads is not None else traces.names
    hertz = rate if rate is not None else traces.rate
    units: list[str | None] | None = traces.units if unit is None else [unit] * len(traces.values)
    absent = [name for name, known in (("leads", names), ("rate", hertz), ("unit", units)) if known is None]
    if names is None or hertz is None or units is None:
        raise EcgError(f"{traces.what} does not say all it should: give {', '.join(f'{name}=' for name in absent)}.")
    if len(names) != len(traces.values):
        raise EcgError(f"{traces.what} has {len(traces.values)} channels, but {len(names)} lead names were given.")
    check_rate(hertz, traces.what)
    return _overruled(traces, names, float(hertz), unit), names, float(hertz), units


def _overruled(traces: Traces, names: list[str], rate: float, unit: str | None) -> Traces:
    """Note what the source says of itself and the caller says otherwise."""
    notes = []
    if traces.names is not None and names != traces.names:
        notes.append(f"leads as given; the file says {', '.join(traces.names)}")
    if traces.rate is not None and not np.isclose(rate, traces.rate):
        notes.append(f"{rate:g} Hz as given; the file says {traces.rate:g} Hz")
    own = sorted({each for each in traces.units or () if each}, key=str.casefold)
    if unit is not None and any(each.strip().casefold() != unit.strip().casefold() for each in own):
        notes.append(f"unit {unit} as given; the file says {', '.join(own)}")
    return traces._replace(notes=(*traces.notes, *notes))


def _standardise(stated: tuple[Traces, list[str], float, list[str | None]]) -> Ecg:
    """Everything after decoding: names, units, derived leads, rate, length."""
    traces, names, rate, units = stated
    seconds = (traces.length or traces.values.shape[1]) / rate
    refuse_short(traces.what, seconds)
    steps = list(traces.notes)
    values = traces.values[:, : round(READ_SECONDS * rate)]
    leads, inverted, ignored = _by_name(values, names, units, steps)
    relative = any((unit or "").strip().lower() == "relative" for unit in units)
    missing = sum(int(np.isnan(lead[: round(10 * rate)]).sum()) for lead in leads.values())
    if missing:
        steps.append(f"unmeasured samples: {missing}")
    steps += ["voltages are relative"] if relative else []
    flat = tuple(name for name in LEADS if name in leads and not varies(leads[name][: round(10 * rate)]))
    steps += [f"flat: {', '.join(flat)}"] if flat else []
    recorded = {name: lead for name, lead in leads.items() if name not in flat}
    derived = derive_limb_leads(leads)
    steps += [f"derived: {', '.join(derived)}"] if derived else []
    refuse_flat([name for name in flat if name not in derived])
    refuse_unmeasured(leads, rate)
    steps += oddities(recorded, leads, rate)
    x = level(np.stack([leads[name] for name in LEADS]), steps, relative=relative)
    x = fit_length(resample(x, rate, steps), seconds, steps)
    return Ecg(
        signal=x.astype(np.float32), rate=rate, seconds=seconds, unit="relative" if relative else "mV",
        derived=derived, flat=flat, inverted=inverted, ignored=ignored, missing=missing, steps=tuple(steps),
    )  # fmt: skip


def _by_name(
    values: NDArray[np.float64], names: list[str], units: list[str | None], steps: list[str]
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...], tuple[str, ...]]:
    """Leads in mV under their names, NaN where unmeasured; those that were inverted; and channels that are no leads.

    Channels without a single measured sample are left out, so that they can be derived.

    Raises:
        EcgError: a lead given twice, or an unknown unit.
    """
    found: dict[str, NDArray[np.float64]] = {}
    inverted, ignored, empty = [], [], []
    for lead, name, unit in zip(values, names, units, strict=True):
        known = lead_name(name)
        if known is None:
            ignored.append(name)
            continue
        canonical, sign = known
        if canonical in found or canonical in empty:
            raise EcgError(f"Lead {canonical} is given twice among {', '.join(names)}. Name each lead once.")
        factor = _MILLIVOLTS.get((unit or "").strip().lower())
        if factor is None:
            says = f"the unit {unit!r}" if unit else "no unit"
            raise EcgError(
                f"Lead {name} has {says}; known are V, mV, uV and nV. Give unit= if you know it, or unit='relative' if "
                "voltages are known only up to a factor and an offset."
            )
        if sign < 0:
            inverted.append(canonical)
        if np.isfinite(lead).any():
            found[canonical] = np.where(np.isfinite(lead), lead, np.nan) * (sign * factor)
        else:
            empty.append(canonical)
    for what, which in (("ignored channels", ignored), ("inverted", inverted), ("never measured", empty)):
        if which:
            steps.append(f"{what}: {', '.join(which)}")
    return found, tuple(inverted), tuple(ignored)
