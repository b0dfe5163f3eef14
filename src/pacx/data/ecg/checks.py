"""What makes a decoded ECG unusable, and what is only strange about it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pacx.data.ecg.leads import CHEST, LEADS, LIMB, EcgError, contradiction, runs_against_v6

__all__ = ["oddities", "refuse_flat", "refuse_short", "refuse_unmeasured"]

_MIN_SECONDS = 2.5  # one column of a standard 12-lead printout; shorter holds too few beats for any statement
_SILENT_SECONDS = 0.5  # an end without a wave; the 500 Hz records of PTB-XL all hold their last value for 0.1 s


def refuse_short(what: str, seconds: float) -> None:
    """Refuse a record that lasts less than 2.5 s."""
    if seconds < _MIN_SECONDS:
        raise EcgError(f"{what} lasts {seconds:.2f} s; at least {_MIN_SECONDS} s are needed.")


def refuse_flat(flat: list[str]) -> None:
    """Refuse more than six flat leads, or a plane of the heart (limb or chest leads) that nobody saw."""
    if len(flat) == len(LEADS):
        raise EcgError("All 12 leads are constant: the record holds no signal.")
    if len(flat) > 6 or set(flat) >= set(LIMB) or set(flat) >= set(CHEST):
        raise EcgError(
            f"Leads {', '.join(flat)} are constant. At most six may be, and neither all limb nor all chest leads."
        )


def refuse_unmeasured(leads: dict[str, NDArray[np.float64]], rate: float) -> None:
    """Refuse a record of which less than 2.5 s are measured, or with a lead that could not be computed anywhere."""
    measured = {name: int(np.isfinite(lead).sum()) / rate for name, lead in leads.items()}
    if (longest := max(measured.values())) < _MIN_SECONDS:
        raise EcgError(f"Only {longest:.2f} s are measured; at least {_MIN_SECONDS} s are needed.")
    if never := [name for name, seconds in measured.items() if seconds == 0]:
        raise EcgError(f"Leads {', '.join(never)} are missing, and what they follow from was never measured together.")


def oddities(recorded: dict[str, NDArray[np.float64]], leads: dict[str, NDArray[np.float64]], rate: float) -> list[str]:
    """What is strange in leads that can be used, in words.

    Args:
        recorded: the leads of the source that vary.
        leads: all twelve.
        rate: Hz.
    """
    first = {lead.tobytes(): name for name, lead in reversed(recorded.items())}
    said = [f"{a} and {b} are identical" for b, lead in recorded.items() if (a := first[lead.tobytes()]) != b]
    if (clash := contradiction(recorded)) is not None:
        said.append(clash)
    elif runs_against_v6(leads):
        said.append("lead I runs against V6: arm electrodes may be swapped, or the heart lies on the right")
    changes = [np.flatnonzero(np.diff(lead)) for lead in recorded.values()]
    size = len(next(iter(recorded.values())))
    silent = (size - 2 - max((int(change[-1]) for change in changes if len(change)), default=0)) / rate
    if silent >= _SILENT_SECONDS:
        said.append(f"the last {silent:.2f} s hold no signal")
    return said
