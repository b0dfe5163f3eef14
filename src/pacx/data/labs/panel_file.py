"""A panel of one's own, in YAML or CSV: any list of labs.

    - Sodium                       # as in the default panel
    - name: Glucose
      unit: mmol/L                 # in place of mg/dL; limits of the default panel follow
    - name: C-Reactive Protein
      ids: [50889, crp]
      loinc: 1988-5
      unit: mg/L
      low: 0
      high: 1000

The same as CSV has the columns name, ids, loinc, unit, low, high, molar_mass, charge; several ids or codes in a cell
are separated by semicolons. `ids` are item numbers, local codes and other names; `molar_mass` (g/mol) and `charge` let
mass, amount and mEq become one another. What is left out is taken from the default panel's lab of that name, if there
is one; else there are no limits and no codes. The order of the file is the order of the labs in the store and in the
teacher.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import yaml

from pacx.data.labs.panel import PANEL, Lab, LabIndex, item_key
from pacx.errors import PacxError

__all__ = ["read_panel"]

_FIELDS = ("name", "ids", "loinc", "unit", "low", "high", "molar_mass", "charge")


def read_panel(path: Path) -> tuple[Lab, ...]:
    """Read a panel file.

    Raises:
        PacxError: the file is absent or no panel, a field is unknown or not what it should be, a lab has no unit, or
            two labs share a name or code.
    """
    entries = _entries(path)
    if not entries:
        raise PacxError(f"{path} lists no labs. Give a list of names, or of entries with {', '.join(_FIELDS)}.")
    panel = tuple(_lab(path, number, entry) for number, entry in enumerate(entries, start=1))
    LabIndex(panel)
    return panel


def _entries(path: Path) -> Sequence[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                return list(csv.DictReader(file))
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
        raise PacxError(
            f"{path} cannot be read as a panel ({' '.join(str(error).split())}). Give a YAML or CSV file of labs."
        ) from error
    if not isinstance(content, list):
        raise PacxError(f"{path} is not a list of labs. Begin each lab with a dash, e.g. `- name: Sodium`.")
    return content


def _lab(path: Path, number: int, entry: object) -> Lab:
    where = f"Lab {number} of {path}"
    fields = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping) or not str(fields.get("name") or "").strip():
        raise PacxError(f"{where} has no name. Each lab is a name, or an entry with {', '.join(_FIELDS)}.")
    unknown = [str(key) for key in fields if key not in _FIELDS]
    if unknown:
        raise PacxError(f"{where} has the unknown fields {', '.join(unknown)}. Known are {', '.join(_FIELDS)}.")
    name = str(fields["name"]).strip()
    given = {key: value for key, value in fields.items() if value is not None and value != ""}
    default = _default(name)
    unit = str(given.get("unit", default.unit if default else ""))
    if not unit:
        raise PacxError(f"{where}, {name!r}, has no unit, and the default panel does not know it. Write its unit.")
    low, high = _limits(default, unit, name=name, where=where, needed=not {"low", "high"} <= given.keys())
    low, high = _number(where, given, "low", low), _number(where, given, "high", high)
    if not low <= high:
        raise PacxError(f"{where}, {name!r}, has low {low:g} above high {high:g}.")
    mass = _number(where, given, "molar_mass", (default and default.molar_mass) or 0.0) or None
    charge = _number(where, given, "charge", (default and default.charge) or 0)
    if not charge.is_integer():
        raise PacxError(f"{where} has charge {given['charge']!r}; it must be a whole number.")
    loinc = _texts(given["loinc"]) if "loinc" in given else (default.loinc if default else ())
    aliases = _texts(given.get("ids", ())) + (default.aliases if default else ())
    item_id = default.item_id if default else 0
    also, weighed = (default.also, default.weighed) if default else ((), ())
    own = dict(weighed).get(item_key(name))
    if default is not None and own is not None:  # "Urea": by this name the whole molecule is meant, by the others not
        others = {item_key(other) for other in (default.name, *default.aliases, *default.loinc)} - set(dict(weighed))
        weighed = tuple((other, default.molar_mass or own) for other in sorted(others))
        mass = own if "molar_mass" not in given else mass
    return Lab(item_id, name, unit, low, high, loinc, aliases, mass, int(charge) or None, also, weighed)


def _default(name: str) -> Lab | None:
    position = _INDEX.find(name)
    return None if position is None else PANEL[position]


def _limits(default: Lab | None, unit: str, *, name: str, where: str, needed: bool) -> tuple[float, float]:
    """Return the default panel's limits in another unit; none for a lab that it does not know."""
    if default is None:
        return -inf, inf
    scale = default.convert(unit, item=name)
    if scale is None and needed:
        raise PacxError(
            f"{where}, {name!r}, has the unit {unit!r}, which does not fit {default.name} ({default.unit}). "
            "Correct it, or give low and high."
        )
    return (-inf, inf) if scale is None else (default.low / scale, default.high / scale)


def _texts(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).split(";")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _number(where: str, given: Mapping[str, Any], field: str, default: float) -> float:
    try:
        return float(given.get(field, default))
    except (TypeError, ValueError) as error:
        raise PacxError(f"{where} has {field} {given[field]!r}, which is not a number.") from error


_INDEX = LabIndex(PANEL)
