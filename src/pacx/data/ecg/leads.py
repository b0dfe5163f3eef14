"""The twelve leads: their names, the six that follow from any two, and contradictions among them.

The limb leads are voltages between three electrodes, so they span two dimensions. Every one is a mixture of I and II:

    III = II - I      aVR = -(I + II) / 2      aVL = I - II / 2      aVF = II - I / 2

(Einthoven 1913, Goldberger 1942.) That serves twice. From any two of the six the others are computed. And when three
or more are given, whatever does not fit the mixture betrays an exchanged or inverted name. It cannot betray electrodes
that were exchanged on the patient: those leads fit each other. What can be noticed of exchanged arm electrodes is that
lead I runs against V6, which both look from the left. The six chest leads follow from nothing.
"""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = [
    "CHEST",
    "LEADS",
    "LIMB",
    "EcgError",
    "contradiction",
    "derive_limb_leads",
    "lead_name",
    "runs_against_v6",
    "varies",
]

LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
LEADS = (*LIMB, *CHEST)

_MIXTURE = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
"""Limb leads as mixtures of I and II, rows as in `LIMB`."""
_MISFIT = 0.12
"""Largest share of the limb leads that may not fit. On the 456 PTB-XL records of the open sample the share is at most
.087; exchanging two names raises it above .12 in 97 to 100 % of them, whichever two."""
_AGAINST = -0.5
"""Correlation of I and V6. Below it lies 1 of the same 456 records, and 82 % of them when lead I is inverted."""
_ALIASES = (
    {name.upper(): name for name in LEADS}
    | {"DI": "I", "DII": "II", "DIII": "III", "D1": "I", "D2": "II", "D3": "III"}
    | {f"C{i}": f"V{i}" for i in range(1, 7)}
)
# A hyphen that follows a prefix at once joins it ("ECG-II"); one at the start or after a space is a minus.
_NAME = re.compile(
    r"(?:(?:mdc|ecg|ekg|lead)(?:\s+(?=-)|[\s_.:-]*))*(?P<minus>-\s*|minus\s+|inverted\s+)?(?P<lead>[a-z0-9]+)", re.I
)


class EcgError(PacxError):
    """An ECG that cannot be read."""


def lead_name(name: str) -> tuple[str, int] | None:
    """Find the lead that a channel's name stands for, and its sign.

    Case and the prefixes MDC, ECG, EKG and LEAD do not matter: "MDC_ECG_LEAD_AVF", "ecg i" and "Lead V1" are known,
    so are DI, D1 and C1 to C6. A leading minus ("-aVR" of the Cabrera order) is an inverted lead.

    Returns:
        The name as in `LEADS` and 1, or -1 for an inverted lead; None for any other channel.
    """
    match = _NAME.fullmatch(name.strip().replace("−", "-").replace("–", "-"))
    lead = _ALIASES.get(match["lead"].upper()) if match else None
    if match is None or lead is None:
        return None
    return lead, -1 if match["minus"] else 1


def derive_limb_leads(leads: dict[str, NDArray[np.float64]]) -> tuple[str, ...]:
    """Add the missing limb leads, in place, from two that are there.

    A limb lead that never varies while at least two of I, II and III do was not recorded; it is computed too. Where
    more of them are flat, an electrode was off, and computing would only make noise look like a lead.

    Args:
        leads: canonical name to (T,) samples; NaN where unmeasured, and so is then what is computed from them.

    Returns:
        The computed leads, in the order of `LEADS`.

    Raises:
        EcgError: a chest lead is missing, or all limb leads but one.
    """
    flat = {name for name in LIMB if name in leads and not varies(leads[name])}
    if sum(name in leads and name not in flat for name in LIMB[:3]) < 2:
        flat.clear()
    absent = [name for name in LIMB if name not in leads or name in flat]
    sources = [name for name in LIMB if name not in absent][:2]
    lost = [name for name in CHEST if name not in leads] + (absent if len(sources) < 2 else [])
    if lost:
        present = ", ".join(name for name in LEADS if name in leads) or "none"
        raise EcgError(
            f"Leads {', '.join(sorted(lost, key=LEADS.index))} are missing (found: {present}). All six chest leads and "
            "two limb leads are needed; the other limb leads are derived."
        )
    if absent:
        pair = np.stack([leads[name] for name in sources])
        basis = np.linalg.inv(_MIXTURE[[LIMB.index(name) for name in sources]])
        leads |= {name: _MIXTURE[LIMB.index(name)] @ basis @ pair for name in absent}
    return tuple(absent)


def varies(lead: NDArray[np.float64]) -> bool:
    """Say whether a lead takes more than one value; NaN is none."""
    return bool(np.nanmax(lead) > np.nanmin(lead))


def contradiction(leads: dict[str, NDArray[np.float64]]) -> str | None:
    """Say in words that the limb leads do not fit each other, and what would make them fit.

    The share that does not fit is the root mean square of what lies outside the two dimensions of I and II, over that
    of all. Constant offsets do not count. The cure (two names exchanged, or one lead inverted) is named when it
    leaves a share that would pass; it is never applied, since a second reading of the header is better than a guess.

    Args:
        leads: limb leads as recorded, not derived; fewer than three always fit.
    """
    names = [name for name in LIMB if name in leads]
    if len(names) < 3:
        return None
    x = np.stack([leads[name] for name in names])
    x = x[:, np.isfinite(x).all(axis=0)]
    if x.size == 0:
        return None
    x -= np.median(x, axis=1, keepdims=True)
    mixture = _MIXTURE[[LIMB.index(name) for name in names]]
    outside = np.eye(len(names)) - mixture @ np.linalg.pinv(mixture)
    if (misfit := _misfit(x @ x.T, outside)) <= _MISFIT:
        return None
    share, cure = min(_cures(x @ x.T, outside, names))
    hint = f"; {cure} would make them fit" if share <= _MISFIT else ""
    return f"limb leads contradict each other ({misfit:.0%} of them does not fit): names may be swapped{hint}"


def _misfit(products: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    total = np.trace(products)
    return float(np.sqrt(max(np.trace(outside @ products), 0.0) / total)) if total > 0 else 0.0


def _cures(products: NDArray[np.float64], outside: NDArray[np.float64], names: list[str]) -> list[tuple[float, str]]:
    """Every exchange of two names and every inversion, with the misfit that it leaves."""
    cures = []
    for a, b in combinations(range(len(names)), 2):
        order = np.arange(len(names))
        order[[a, b]] = b, a
        cures.append((_misfit(products[np.ix_(order, order)], outside), f"exchanging {names[a]} and {names[b]}"))
    for a, name in enumerate(names):
        sign = np.ones(len(names))
        sign[a] = -1
        cures.append((_misfit(products * np.outer(sign, sign), outside), f"inverting {name}"))
    return cures


def runs_against_v6(leads: dict[str, NDArray[np.float64]]) -> bool:
    """Say whether lead I runs against V6: exchanged arm electrodes, or a heart on the right side."""
    pair = np.stack([leads["I"], leads["V6"]])
    pair = pair[:, np.isfinite(pair).all(axis=0)]
    if pair.shape[1] < 2 or (np.ptp(pair, axis=1) == 0).any():
        return False
    correlation: NDArray[np.float64] = np.asarray(np.corrcoef(pair))
    return bool(correlation[0, 1] < _AGAINST)
