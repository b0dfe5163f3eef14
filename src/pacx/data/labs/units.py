"""Units of laboratory values: how they are spelt, and how one becomes another.

The same glucose is 126 mg/dL in Boston and 7.0 mmol/L in Hannover. A unit is read as a dimension and a factor, so any
spelling of one dimension converts by itself (g/L to g/dL, 10^9/L to K/uL, kPa to mmHg); between mass, amount and
charge the substance decides, by its molar mass M and charge number z:

    c [g/L] = M [g/mol] c [mol/L],    c [Eq/L] = z c [mol/L]

What cannot be converted is never guessed: `factor` returns None and the value is dropped and counted.

* Case and spaces carry nothing ("MG/DL", "mm Hg"), micro may be u, mc, or either Unicode mu, powers of ten may be
  10^9, 10*9 (UCUM), x10E9 or 10**9.
* "G/L" is giga per litre for a cell count and gram per litre for a concentration: the lab decides, not the spelling.
* U and IU count as one unit; 1 ukat/L = 60 U/L, since a unit turns over 1 umol per minute and a katal 1 mol per second.
* 1 mmHg = 0.133322 kPa (NIST SP 811, appendix B).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

__all__ = ["Dimension", "factor", "parse_unit", "same_number"]

Dimension = Literal[
    "mass/volume", "amount/volume", "charge/volume", "count/volume", "enzyme/volume", "pressure", "share", "volume",
    "mass", "amount", "time", "number",
]  # fmt: skip

_PREFIX = {"": 1.0, "k": 1e3, "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
_PER_VOLUME: dict[str, Dimension] = {
    "g": "mass/volume", "gm": "mass/volume", "mol": "amount/volume", "eq": "charge/volume", "val": "charge/volume",
    "u": "enzyme/volume", "iu": "enzyme/volume", "unit": "enzyme/volume", "units": "enzyme/volume",
    "kat": "enzyme/volume",
}  # fmt: skip
_CONCENTRATION = re.compile(r"(?P<prefix>[kdcmunp]?)(?P<what>gm|g|mol|eq|val|iu|units|unit|u|kat)/(?P<litre>[dcmu]?l)")
_COUNT = re.compile(r"(?P<scale>[a-z0-9^]*)/(?P<litre>l|ml|ul|nl|mm3|cumm|mm\^3)")
_COUNT_SCALES = {
    "": 1.0, "#": 1.0, "cells": 1.0, "cell": 1.0, "k": 1e3, "th": 1e3, "thou": 1e3, "thousand": 1e3, "1000": 1e3,
    "m": 1e6, "mil": 1e6, "mill": 1e6, "million": 1e6, "g": 1e9, "giga": 1e9, "t": 1e12, "tera": 1e12,
}  # fmt: skip
_LITRES = {"l": 1.0, "dl": 1e-1, "cl": 1e-2, "ml": 1e-3, "ul": 1e-6, "nl": 1e-9, "mm3": 1e-6, "cumm": 1e-6}
_KATAL = 6e7  # U per kat
_OTHERS: dict[str, tuple[Dimension, float]] = {
    "mg%": ("mass/volume", 1e-2), "g%": ("mass/volume", 10.0), "mg/100ml": ("mass/volume", 1e-2),
    "g/100ml": ("mass/volume", 10.0), "mol/m3": ("amount/volume", 1e-3), "mmhg": ("pressure", 1.0),
    "torr": ("pressure", 1.0), "kpa": ("pressure", 1 / 0.133322), "%": ("share", 0.01), "percent": ("share", 0.01),
    "pct": ("share", 0.01), "fraction": ("share", 1.0), "l/l": ("share", 1.0), "v/v": ("share", 1.0),
    "fl": ("volume", 1.0), "um3": ("volume", 1.0), "pg": ("mass", 1e-12), "pg/cell": ("mass", 1e-12),
    "fmol": ("amount", 1e-15), "fmol/cell": ("amount", 1e-15), "s": ("time", 1.0), "sec": ("time", 1.0),
    "secs": ("time", 1.0), "second": ("time", 1.0), "seconds": ("time", 1.0), "": ("number", 1.0),
    "units": ("number", 1.0), "unit": ("number", 1.0), "ratio": ("number", 1.0), "index": ("number", 1.0),
    "ph": ("number", 1.0), "phunits": ("number", 1.0), "inr": ("number", 1.0), "1": ("number", 1.0),
    "none": ("number", 1.0),
}  # fmt: skip
_AMOUNT_OF: dict[Dimension, Dimension] = {"mass/volume": "amount/volume", "mass": "amount"}


@cache
def parse_unit(text: str) -> dict[Dimension, float]:
    """Read a unit.

    Args:
        text: as somebody spelt it; empty for a pure number.

    Returns:
        For every dimension that the spelling can stand for, its factor to g/L, mol/L, Eq/L, 1/L, U/L, mmHg, 1, fL, g,
        mol, s or 1; empty if it is no unit that is known.
    """
    spelt = _canonical(text)
    found: dict[Dimension, float] = {}
    if match := _CONCENTRATION.fullmatch(spelt):
        scale = _PREFIX[match["prefix"]] / _LITRES[match["litre"]]
        found[_PER_VOLUME[match["what"]]] = scale * (_KATAL if match["what"] == "kat" else 1.0)
    if match := _COUNT.fullmatch(spelt):
        many = _COUNT_SCALES.get(match["scale"], _power_of_ten(match["scale"]))
        if many is not None:
            found["count/volume"] = many / _LITRES[match["litre"].replace("^", "")]
    if spelt in _OTHERS:
        dimension, scale = _OTHERS[spelt]
        found[dimension] = scale
    return found


def factor(unit: str, target: str, *, molar_mass: float | None = None, charge: int | None = None) -> float | None:
    """Return what to multiply a value in `unit` by to have it in `target`, or None where that is not known.

    Args:
        unit: the value's unit.
        target: the wanted unit.
        molar_mass: of the substance in g/mol, for mass to amount and back.
        charge: charge number of the ion, for mEq to mmol and back.
    """
    if _canonical(unit) == _canonical(target):
        return 1.0
    given, wanted = (_with_amounts(parse_unit(text), molar_mass, charge) for text in (unit, target))
    for dimension, scale in given.items():
        if dimension in wanted:
            # Rounded to what doubles keep exactly, so that g/L to g/dL is 0.1 and K/uL to 10^9/L is 1.
            return float(f"{scale / wanted[dimension]:.14g}")
    return None


def same_number(target: str, *, molar_mass: float | None = None, charge: int | None = None) -> bool:
    """Say whether a value means the same whatever usual unit it came in, so that its unit may be left out.

    True for pure numbers (pH, INR), seconds, fL, and for charges of single ions or sums of them: mEq/L is mmol/L.
    False where two units are in use whose numbers differ.
    """
    dimensions = parse_unit(target)
    if {"number", "time", "volume"} & dimensions.keys():
        return True
    return "charge/volume" in dimensions and charge == 1 and molar_mass is None


def _with_amounts(
    found: dict[Dimension, float], molar_mass: float | None, charge: int | None
) -> dict[Dimension, float]:
    """Add the amount of substance that a mass or a charge amounts to."""
    result = dict(found)
    for dimension, scale in found.items():
        if molar_mass is not None and dimension in _AMOUNT_OF:
            result[_AMOUNT_OF[dimension]] = scale / molar_mass
        if charge is not None and dimension == "charge/volume":
            result["amount/volume"] = scale / charge
    return result


def _canonical(text: str) -> str:
    spelt = re.sub(r"[\s\[\]{}]", "", text.lower().replace("µ", "u").replace("μ", "u").replace("³", "3"))
    spelt = re.sub(r"mc(?=l|g|mol|kat)", "u", spelt).replace("litre", "l").replace("liter", "l").replace("⁹", "^9")
    spelt = re.sub(r"^x?10(\*\*|\*|e|\^)(\d+)", r"10^\2", spelt).replace("#/", "/").replace("cells/", "/")
    return spelt.replace("mcrl", "ul")


def _power_of_ten(text: str) -> float | None:
    match = re.fullmatch(r"10\^(\d{1,2})", text)  # more digits overflow a float, and no laboratory counts so far
    return None if match is None else 10.0 ** int(match[1])
