"""Linear probes and fine-tuned encoders: which of the two a part of the report holds, and what it is called then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["classifiers", "fine_tuned", "has_probes", "heading", "is_fine_tuning", "is_mixed", "mark_fine_tuned"]

_MARK = "fine-tuned"


def is_fine_tuning(protocol: Mapping[str, Any] | None) -> bool:
    """Say whether a protocol, of a run or of a pool, is that of `pacx finetune`."""
    return (protocol or {}).get("name") == "finetune"


def fine_tuned(part: Mapping[str, Any]) -> set[str]:
    """Return the labels of a part's fine-tuned encoders; the others were probed."""
    return {label for label, protocol in part["protocols"].items() if is_fine_tuning(protocol)}


def has_probes(part: Mapping[str, Any]) -> bool:
    """Say whether any encoder of a part was probed."""
    return len(fine_tuned(part)) < len(part["protocols"])


def is_mixed(part: Mapping[str, Any]) -> bool:
    """Say whether fine-tuned encoders stand beside probed ones."""
    return bool(fine_tuned(part)) and has_probes(part)


def heading(parts: Iterable[Mapping[str, Any]]) -> str:
    """Name the section of some parts."""
    parts = list(parts)
    names = ["linear probes"] if any(map(has_probes, parts)) else []
    names += ["fine-tuning"] if any(map(fine_tuned, parts)) else []
    return " and ".join(names).capitalize()


def classifiers(part: Mapping[str, Any]) -> str:
    """Name what was scored."""
    names = ["linear probes"] if has_probes(part) else []
    return " and ".join([*names, *(["fine-tuned encoders"] if fine_tuned(part) else [])])


def mark_fine_tuned(name: str) -> str:
    """Mark an encoder's name as that of a fine-tuned one, unless it says so itself."""
    return name if _MARK in name else f"{name} ({_MARK})"
