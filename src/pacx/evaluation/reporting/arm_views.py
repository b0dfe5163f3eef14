"""The table of arms as the page shows it, and as Markdown to paste into a paper's or a repository's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.wording import (
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

__all__ = ["arm_columns", "arm_facts", "arm_groups", "arms_markdown", "made_of"]

_GROUPS = ("physiology", "finding", "control")
_MARK = "●"


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
    """Say how many runs stand behind an arm."""
    if not arm["pooled"]:
        return "1 run"
    folds, seeds = arm["num_folds"], arm["num_runs"] // arm["num_folds"]
    counted = [f"{folds} folds"] if folds > 1 else []
    return " × ".join([*counted, *([f"{seeds} seeds"] if seeds > 1 else [])])


def arm_facts(part: Mapping[str, Any]) -> bool:
    """Say whether any arm was distilled, so that there are costs and retrieval to show."""
    return any(arm["training"] for arm in part["arms"])


def arms_markdown(content: Mapping[str, Any]) -> str:
    """Write all tables of arms as one Markdown text; numbers as on the page."""
    names = {one["label"]: one["name"] for one in content["encoders"]}
    tables = [f"## {part['store']}\n\n{_explained(part, names)}\n\n{_table(part, names)}\n" for part in content["arms"]]
    head, tail = f"# {content['title']}: arms side by side\n", f"Made by `pacx report` {content['pacx_version']}.\n"
    return "\n".join([head, *tables, tail])


def _explained(part: Mapping[str, Any], names: Mapping[str, str]) -> str:
    text = "Mean AUROC over a group of tasks (number of tasks in brackets) at a share of the training labels"
    if part["baseline"]:
        baseline = names.get(part["baseline"], part["baseline"])
        text += f"; after the semicolon the paired difference to {baseline}, {_MARK} if its interval excludes 0"
    text += ". Brackets: 95 % interval over test patients. SD: between training seeds."
    if arm_facts(part):
        text += " R@10: how often an X-ray finds its own patient among the ten nearest; mean over runs."
    return text


def _table(part: Mapping[str, Any], names: Mapping[str, str]) -> str:
    columns = arm_columns(part)
    heads = ["arm", "runs"]
    heads += [f"{one['group'] or 'all'} ({one['num_tasks']}), {share(one['fraction'])}" for one in columns]
    if arm_facts(part):
        heads += ["trainable parameters", "images/s", *(f"R@10 {display_name(name)}" for name in part["teachers"])]
    rows = [
        [
            names.get(arm["encoder"], arm["encoder"]),
            made_of(arm),
            *(_score(arm["scores"][one["place"]]) for one in columns),
            *(_facts(arm["training"], part["teachers"]) if arm_facts(part) else []),
        ]
        for arm in part["arms"]
    ]
    ruler = [":---", ":---", *("---:" for _ in heads[2:])]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (heads, ruler, *rows))


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _score(found: Record | None) -> str:
    if not found:
        return "n/a"
    text = f"{decimal(found['value'])} {interval(found)}"
    if is_known(found["sd_over_runs"]):
        text += f" SD {decimal(found['sd_over_runs'])}"
    different = found["difference"]
    if not different:
        return text
    mark = f" {_MARK}" if verdict(different) in {"higher", "lower"} else ""
    return f"{text}; {signed(different['difference'])} {interval(different, sign=True)}{mark}"


def _facts(training: Record | None, teachers: Sequence[str]) -> list[str]:
    if training is None:
        return ["–"] * (2 + len(teachers))
    learned = training["trainable_encoder_parameters"] or training["trainable_parameters"]
    return [count(learned), decimal(training["images_per_second"], 0), *(_retrieval(training, one) for one in teachers)]


def _retrieval(training: Record, teacher: str) -> str:
    found = training["retrieval"].get(teacher)
    if not found:
        return "–"
    sd = f" SD {decimal(100 * found['sd_over_runs'], 1)}" if is_known(found["sd_over_runs"]) else ""
    text = " ".join(filter(None, (percent(found["value"]), points(found, sign=False)))) + sd
    return f"{text} (chance {percent(found['chance'])})" if is_known(found["chance"]) else text
