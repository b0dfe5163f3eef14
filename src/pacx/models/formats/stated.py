"""Values out of other people's configurations, each of the kind that it must have, or refused in one paragraph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pacx.errors import PacxError

__all__ = ["entries", "number", "numbers", "whole"]


def number(values: Mapping[str, Any], name: str, *, source: str) -> float:
    """Return a positive finite number.

    Raises:
        PacxError: it is anything else.
    """
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _wrong(source, name, value, "a positive number")
    return float(value)


def whole(values: Mapping[str, Any], name: str, *, source: str, least: int = 1, most: int = 1 << 16) -> int:
    """Return a whole number within bounds.

    Raises:
        PacxError: it is anything else.
    """
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(source, name, value, f"a whole number from {least} to {most}")
    return value


def numbers(values: Mapping[str, Any], name: str, *, source: str) -> tuple[float, ...]:
    """Return a list of finite numbers.

    Raises:
        PacxError: it is anything else.
    """
    value = values[name]
    if isinstance(value, list | tuple) and value:
        right = [item for item in value if isinstance(item, int | float) and not isinstance(item, bool)]
        if len(right) == len(value) and all(abs(item) < math.inf for item in right):
            return tuple(map(float, right))
    raise _wrong(source, name, value, "a list of finite numbers, one per channel")


def entries(values: Mapping[str, Any], name: str, *, source: str) -> dict[str, Any]:
    """Return a group of entries; one that is absent or null is empty.

    Raises:
        PacxError: it is anything else.
    """
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(source, name, value, "an object with entries")
    return dict(value)


def _wrong(source: str, name: str, value: object, allowed: str) -> PacxError:
    return PacxError(
        f"{source}: its configuration has {name} = {str(value)[:80]!r}; allowed: {allowed}. Copy the configuration "
        "again, or give the weights file alone."
    )
