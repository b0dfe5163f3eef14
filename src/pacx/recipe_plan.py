"""What a dry run prints: the steps and what they read, what they will take, and what is not there yet.

One recipe is printed with the arguments of its steps; of a chain of recipes the table of costs has a line per step, and
`--dry-run` on one of them says more.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from pacx.costs.gpus import GpuName
from pacx.costs.table import cost_table
from pacx.costs.volumes import card_of
from pacx.data.sources.card import Card
from pacx.recipe_file import Recipe, Root
from pacx.references import ELSEWHERE
from pacx.runs import plain

__all__ = ["describe"]

_WIDTH = 100


def describe(plans: Sequence[Recipe], *, out: Path, gpu: GpuName, utilisation: float) -> str:
    """Return the plan of a recipe, or of several that are chained, as text.

    Args:
        plans: the recipes, in the order in which they run.
        out: folder for their outputs.
        gpu: the GPU whose hours are counted.
        utilisation: share of its peak that is reached.

    Raises:
        PacxError: a utilisation that cannot be.
    """
    steps = _steps(plans[0]) if len(plans) == 1 else [f"{len(plans)} recipes, one after the other", f"output: {out}"]
    costs = cost_table(plans, gpu=gpu, utilisation=utilisation)
    return "\n".join([*steps, "", costs, *_missing(plans)])


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
            shown, width=110, initial_indent=" " * 5, subsequent_indent=" " * 5, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _short(value: object) -> str:
    return json.dumps(plain(value)) if isinstance(value, list | tuple | dict) else str(value)


def _missing(plans: Sequence[Recipe]) -> list[str]:
    """List the roots that are not there and that no recipe before makes, each once, with who has them."""
    found: dict[str, str] = {}
    made: list[Path] = []
    for plan in plans:
        for name, root in plan.roots.items():
            to_come = any(root.path.is_relative_to(place) for place in made)
            if not (to_come or root.path.exists() or str(root.path).startswith(ELSEWHERE)):
                found.setdefault(name, _who_has(plan, name, root))
        made.append(plan.out)
    if not found:
        return ["", "Everything from outside is there."]
    lines = ["", "Not there yet; say where with --root NAME=PATH:"]
    for name, who in found.items():
        lines += textwrap.wrap(f"{name}: {who}", width=_WIDTH, initial_indent="  ", subsequent_indent="      ")
    return lines


def _who_has(plan: Recipe, name: str, root: Root) -> str:
    if root.about:
        return root.about
    card = next(_cards(plan, name, root), None)
    if card is not None:
        return f"{card.title} ({card.access}): {card.where}"
    if root.path.parts[:1] == ("runs",):
        return f"{root.path}, which an earlier recipe makes: `pacx run {'/'.join(root.path.parts[1:3])}`"
    return str(root.path)


def _cards(plan: Recipe, name: str, root: Root) -> Iterator[Card]:
    """Yield the cards of the data sets that may lie there: the one of the root's name, then those prepared from it."""
    prepared = [
        str(step.arguments["source"])
        for step in plan.steps
        if step.command == "prepare" and any(path.is_relative_to(root.path) for path in step.outside)
    ]
    for source in (name, *prepared):
        card = card_of(source)
        if card is not None:
            yield card
