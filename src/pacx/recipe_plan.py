"""What a dry run prints: the steps, what they read, what is not there yet."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pacx.recipe_file import Recipe
from pacx.runs import plain

__all__ = ["describe"]


def describe(plans: Sequence[Recipe], *, out: Path) -> str:
    """Return the plan of a recipe, or of several that are chained, as text.

    Args:
        plans: the recipes, in the order in which they run.
        out: folder for their outputs.
    """
    return "\n".join(line for plan in plans for line in _steps(plan))


def _steps(plan: Recipe) -> list[str]:
    lines = [plan.title, f"output: {plan.out}"]
    for number, step in enumerate(plan.steps, start=1):
        lines.append(f"{number:>3}. {step.name:<20} {step.command}")
        if step.reads:
            lines.append(f"{'':5}reads {', '.join(step.reads)}")
        for path in step.outside:
            missing = "" if path.exists() else "  (NOT THERE: say where with --root NAME=PATH)"
            lines.append(f"{'':5}reads {path}{missing}")
        shown = " ".join(f"{key}={_short(step.arguments[key])}" for key in step.given)
        lines += textwrap.wrap(
            shown, width=110, initial_indent=" " * 5, subsequent_indent=" " * 5, break_long_words=False
        )
    return lines


def _short(value: object) -> str:
    return json.dumps(plain(value)) if isinstance(value, list | tuple | dict) else str(value)
