"""The table of arms: heads and columns as the page shows them, and as text for Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.tables import ABSENT, CLEAR, Cell
from pacx.evaluation.reporting.wording import (
    adjusted_p,
    count,
    decimal,
    interval,
    is_known,
    percent,
    points,
    share,
    signed,
    verdict,
)

__all__ = ["arm_columns", "arm_facts", "arm_groups", "cells", "explained", "heads", "made_of"]

_GROUPS = ("physiology", "finding", "control")


def arm_columns(part: Mapping[str, Any]) -> list[Record]:
    """List the columns of scores in the order of the page.

    Returns:
        place (in each arm's scores), group, fraction, num_tasks.
    """
    columns = [
        {"place": place, "group": one["group"], "fraction": one["fraction"], "num_tasks": len(one["tasks"])}
        for place, one in enumerate(part["columns"])
    ]
    rank = {name: number for number, name in enumerate(_GROUPS)}
    return sorted(columns, key=lambda one: (rank.get(one["group"], len(rank)), one["group"], one["fraction"]))


def arm_groups(part: Mapping[str, Any]) -> list[Record]:
    """List the heads above the columns: group, num_columns, num_tasks (as text, for it may differ by fraction)."""
    columns = arm_columns(part)
    heads = []
    for group in dict.fromkeys(one["group"] for one in columns):
        own = [one for one in columns if one["group"] == group]
        numbers = sorted({one["num_tasks"] for one in own})
        tasks = f"{' or '.join(map(str, numbers))} task{'s' if numbers[-1] != 1 else ''}"
        heads.append({"group": group, "num_columns": len(own), "num_tasks": tasks})
    return heads


def made_of(arm: Mapping[str, Any]) -> str:
    """Say how many runs stand behind an arm, and if they were fine-tuned."""
    return ", ".join([_num_runs(arm), *(["fine-tuned"] if arm.get("fine_tuned") else [])])


def _num_runs(arm: Mapping[str, Any]) -> str:
    if not arm["pooled"]:
        return "1 run"
    folds, seeds = arm["num_folds"], arm["num_runs"] // arm["num_folds"]
    counted = [f"{folds} folds"] if folds > 1 else []
    return " × ".join([*counted, *([f"{seeds} seeds"] if seeds > 1 else [])])


def arm_facts(part: Mapping[str, Any]) -> bool:
    """Say whether any arm was distilled, so that there are costs and retrieval to show."""
    return any(arm["training"] for arm in part["arms"])


def explained(part: Mapping[str, Any], name: Callable[[str], str]) -> str:
    """Say what the columns hold.

    Args:
        part: a table of arms.
        name: how an encoder's label is written.
    """
    text = "Mean AUROC over a group of tasks (number of tasks in brackets) at a share of the training labels"
    if part["baseline"]:
        text += f"; then the paired difference to {name(part['baseline'])}"
        text += f", {CLEAR} if its interval excludes 0, and p adjusted (Holm) over the columns of a row"
    text += ". Brackets: 95 % interval over test patients. SD: between training seeds."
    if arm_facts(part):
        text += " R@10: how often an X-ray finds its own patient among the ten nearest; mean over runs."
    return text


def heads(part: Mapping[str, Any]) -> list[str]:
    """Name the columns of the table as text."""
    names = [f"{one['group'] or 'all'} ({one['num_tasks']}), {share(one['fraction'])}" for one in arm_columns(part)]
    if arm_facts(part):
        names += ["trainable parameters", "images/s", *(f"R@10 {display_name(name)}" for name in part["teachers"])]
    return ["arm", "runs", *names]


def cells(part: Mapping[str, Any], name: Callable[[str], str]) -> list[list[Cell]]:
    """Fill the table as text: an arm per row."""
    return [
        [
            Cell(name(arm["encoder"])),
            Cell(made_of(arm)),
            *(_score(arm["scores"][one["place"]]) for one in arm_columns(part)),
            *(_facts(arm["training"], part["teachers"]) if arm_facts(part) else []),
        ]
        for arm in part["arms"]
    ]


def _score(found: Record | None) -> Cell:
    if not found:
        return Cell(ABSENT)
    detail = interval(found)
    if is_known(found["sd_over_runs"]):
        detail += f" SD {decimal(found['sd_over_runs'])}"
    different = found["difference"]
    if not different:
        return Cell(decimal(found["value"]), detail)
    detail += f"; {signed(different['difference'])} {interval(different, sign=True)}"
    detail += f", {adjusted_p(different)}" if adjusted_p(different) else ""
    return Cell(decimal(found["value"]), detail, clear=verdict(different) in {"higher", "lower"})


def _facts(training: Record | None, teachers: Sequence[str]) -> list[Cell]:
    if training is None:
        return [Cell(ABSENT)] * (2 + len(teachers))
    learned = training["trainable_encoder_parameters"] or training["trainable_parameters"]
    sizes = [Cell(count(learned)), Cell(decimal(training["images_per_second"], 0))]
    return [*sizes, *(_retrieval(training, one) for one in teachers)]


def _retrieval(training: Record, teacher: str) -> Cell:
    found = training["retrieval"].get(teacher)
    if not found:
        return Cell(ABSENT)
    sd = f"SD {decimal(100 * found['sd_over_runs'], 1)}" if is_known(found["sd_over_runs"]) else ""
    chance = f"(chance {percent(found['chance'])})" if is_known(found["chance"]) else ""
    return Cell(percent(found["value"]), " ".join(filter(None, (points(found, sign=False), sd, chance))))
