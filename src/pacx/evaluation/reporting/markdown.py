"""The report as Markdown: findings, cautions and tables as the page has them, to paste into a text of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pacx.evaluation.reporting.tables import CLEAR, Cell, Table
from pacx.evaluation.reporting.wording import interval, points

__all__ = ["markdown_of", "markdown_table"]


def markdown_of(content: Mapping[str, Any], tables: Iterable[Table], *, title: str | None = None) -> str:
    """Write a report.

    Args:
        content: the content of `report.json`.
        tables: what to show.
        title: heading, without the findings; the report's own title, with them, if not given.
    """
    blocks = [f"# {_plain(title or content['title'])}"]
    blocks += [f"> **Caution.** {_plain(one['text'])}" for one in content["cautions"]]
    if title is None:
        blocks += [_plain(content["about"])] if content["about"] else []
        blocks += [_findings(content["findings"])] if content["findings"] else []
    for table in tables:
        blocks += [f"## {_plain(table.section)}", _plain(table.caption), markdown_table(table)]
        blocks += ["\n".join(f"* {_plain(note)}" for note in table.notes)] if table.notes else []
    blocks.append(f"Made by `pacx report` {content['pacx_version']}. Research use only.")
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Write a table, names at the left and numbers at the right."""
    ruler = [":---"] * table.num_names + ["---:"] * (len(table.columns) - table.num_names)
    lines = [list(table.columns), ruler, *([_text(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _findings(findings: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for one in findings:
        in_percent = one["kind"] in {"share", "points"}
        width = points(one, sign=one["kind"] == "points") if in_percent else interval(one, sign=True)
        caution = f" {one['caution']}" if one["caution"] else ""
        lines.append(f"* **{_plain(one['topic'])}**: {one['judgement']} {width}. {_plain(one['statement'] + caution)}")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    return " ".join(filter(None, [cell.text, cell.detail, CLEAR if cell.clear else ""]))


def _cell(text: str) -> str:
    return _plain(text).replace("|", r"\|")


def _plain(text: str) -> str:
    """Keep text on its line, and keep tags from becoming tags."""
    return " ".join(text.split()).replace("<", "&lt;")
