"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "adjusted_p", "count", "decimal", "duration", "interval", "is_known", "judged_images", "memory", "percent",
    "points", "share", "signed", "times", "verdict",
]  # fmt: skip


_MINUS = "−"  # a true minus sign is as wide as a plus


def is_known(value: Any) -> bool:
    """Tell whether there is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def judged_images(split: str | None) -> str:
    """Say which images something was scored on that chose its epoch on validation images."""
    return "unseen images" if split in {"test", None} else "validation images, which also chose the epoch"


def decimal(value: Any, digits: int = 3) -> str:
    """Write a number with a fixed number of digits, `n/a` where there is none."""
    return f"{value:.{digits}f}".replace("-", _MINUS) if is_known(value) else "n/a"


def signed(value: Any, digits: int = 3) -> str:
    """Write a difference with its sign."""
    if not is_known(value):
        return "n/a"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def interval(found: Mapping[str, Any] | None, digits: int = 3, *, sign: bool = False) -> str:
    """Write an interval in brackets, nothing where it is undefined."""
    if not found or not (is_known(found.get("low")) and is_known(found.get("high"))):
        return ""
    write = signed if sign else decimal
    return f"[{write(found['low'], digits)}, {write(found['high'], digits)}]"


def adjusted_p(found: Mapping[str, Any]) -> str:
    """Write the adjusted p-value of a difference: 0.012, or < .001; nothing where there is none."""
    if not is_known(found.get("p_holm")):
        return ""
    return f"p {found['p_holm']:.2g}" if found["p_holm"] >= 0.001 else "p < .001"


def percent(value: Any, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return f"{decimal(100 * value, digits)} %" if is_known(value) else "n/a"


def points(found: Mapping[str, Any], *, sign: bool = True) -> str:
    """Write the interval of a share, or of a difference of shares, in percent."""
    known = {key: 100 * found[key] for key in ("low", "high") if is_known(found.get(key))}
    return interval(known, 1, sign=sign)


def share(fraction: float) -> str:
    """Write a label fraction: 1 %, 0.5 %, 100 %."""
    return f"{100 * fraction:g} %"


def count(value: Any) -> str:
    """Write a whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f") if is_known(value) else "n/a"


def duration(seconds: Any) -> str:
    """Write a time in the two largest units."""
    if not is_known(seconds):
        return "n/a"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(mib: Any) -> str:
    """Write an amount of memory given in MiB."""
    if not is_known(mib):
        return "n/a"
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def times(value: Any, factor: float) -> float | None:
    """Multiply a known number, for display in another unit."""
    return factor * value if is_known(value) else None


def verdict(found: Mapping[str, Any]) -> str:
    """Say on which side of zero an interval lies: higher, lower, unclear (it includes zero), or unknown."""
    low, high = found.get("low"), found.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and is_known(low) and is_known(high)):
        return "unknown"
    return "higher" if low > 0 else "lower" if high < 0 else "unclear"
