r"""The report's tables as LaTeX, to \input into a paper: needs the packages booktabs and graphicx, and UTF-8 input.

Every table is a `table` environment with a caption and a label `tab:NAME`. Wide ones are scaled to the width of the
text, very wide ones have intervals below their values. All text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pacx.evaluation.reporting.tables import CLEAR, Cell, Table

__all__ = ["escape_latex", "latex_of", "latex_table"]

_WIDE, _VERY_WIDE = 5, 8
"""columns from which a table is scaled to the width of the text; from which intervals move below their values"""
_STACKED = r"\providecommand{\pacxstack}[1]{\begin{tabular}[t]{@{}r@{}}#1\end{tabular}}"
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "●": r"$\bullet$", "†": r"$\dagger$", "≥": r"$\geq$", "≤": r"$\leq$",
    "²": "$^2$", "[": "{[}", "]": "{]}", "–": "--", "…": r"\ldots{}", "“": "``", "”": "''", "\u202f": r"\,", '"': "''",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))


def latex_of(content: Mapping[str, Any], tables: Iterable[Table]) -> str:
    """Write all tables of a report, with its cautions as comments and below each caption that they concern."""
    head = [
        f"% {_line(content['title'])}",
        f"% Made by pacx report {content['pacx_version']}. Put this into the preamble:",
        r"% \usepackage{booktabs} \usepackage{graphicx}",
        _STACKED,
        *(f"% CAUTION: {_line(one['text'])}" for one in content["cautions"]),
    ]
    seen = " ".join(one["text"] for one in content["cautions"] if one["kind"] == "seen_patients")
    return "\n".join(head) + "\n\n" + "\n\n".join(latex_table(table, caution=seen) for table in tables) + "\n"


def latex_table(table: Table, *, caution: str = "") -> str:
    """Write one table.

    Args:
        table: its content.
        caution: put behind the caption if a name in the table carries a dagger.
    """
    marked = any("†" in text for text in (*table.columns, *(cell.text for row in table.rows for cell in row)))
    words = " ".join(filter(None, [table.section + ".", table.caption, *table.notes, caution if marked else ""]))
    columns = "l" * table.num_names + "r" * (len(table.columns) - table.num_names)
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(escape_latex(name) for name in table.columns),
        r"\midrule",
        *(_row(_cells(row, table, span=span)) for row, span in zip(table.rows, table.spans, strict=True)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if len(table.columns) >= _WIDE:
        body = [r"\resizebox{\textwidth}{!}{%", *body[:-1], body[-1] + "}"]
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering",
            rf"\caption{{{escape_latex(words)}}}",
            rf"\label{{tab:{table.name}}}",
            *body,
            r"\end{table}",
        ]
    )


def escape_latex(text: str) -> str:
    """Write text so that LaTeX prints it."""
    return _SIGN.sub(lambda found: _SIGNS[found[0]], _line(text))


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cells(row: Sequence[Cell], table: Table, *, span: int) -> Iterator[str]:
    """Write a row; a name that the row above has too is left out."""
    stacked = len(table.columns) >= _VERY_WIDE
    for place, cell in enumerate(row):
        if place or span:
            yield _cell(cell, stacked=stacked and place >= table.num_names)
        else:
            yield ""


def _cell(cell: Cell, *, stacked: bool) -> str:
    mark = f" {escape_latex(CLEAR)}" if cell.clear else ""
    text, detail = escape_latex(cell.text), escape_latex(cell.detail)
    if not detail:
        return text + mark
    if stacked:
        lines = r"\\".join([text, *(rf"\scriptsize {part}" for part in detail.split("; "))])
        return rf"\pacxstack{{{lines}{mark}}}"
    return rf"{text} {{\footnotesize {detail}}}{mark}"


def _line(text: str) -> str:
    return " ".join(word for word in re.split(r"[ \t\r\n]+", text) if word)
