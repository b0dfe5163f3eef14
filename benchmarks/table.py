"""Write the table in README.md from the results.

python -m benchmarks.table
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Row

__all__ = ["BEGIN", "END", "NAMES", "render", "update"]

NAMES = (
    "mae_step",
    "distill_step",
    "loader",
    "prepare_scale",
    "teachers",
    "labs_teacher",
    "bootstrap",
    "probe",
    "probe_scale",
    "near_duplicates",
    "serve",
    "soak",
)
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
README = Path(__file__).parent / "README.md"


def main() -> None:
    """Rewrite the section between the markers."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in map(_file, NAMES) if file.is_file()]
    README.write_text(update(README.read_text(encoding="utf-8"), found), encoding="utf-8")


def update(page: str, results: list[dict[str, Any]]) -> str:
    """Return a page with the section between the markers made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{''.join(map(render, results))}{END}{after}"


def render(results: dict[str, Any]) -> str:
    """Make one benchmark's section."""
    rows = importlib.import_module(f"benchmarks.{results['benchmark']}").rows(results)
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"### {results['benchmark']}",
        "",
        f"{results['date']}, commit {results['commit']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{results['threads']} thread(s), {results['rounds']} rounds; Python {machine['python']}, {versions}.",
        "",
        "| What | Figure | Rounds, lowest to highest | Aim | Command |",
        "| --- | ---: | ---: | --- | --- |",
        *(f"| {row.what} | {_figure(row)} | {_extremes(row)} | {_aim(row)} | `{results['command']}` |" for row in rows),
        "",
        "",
    ]
    return "\n".join(lines)


def _file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def _middle(row: Row) -> float:
    if not isinstance(row.value, Mapping):
        return row.value
    return row.value["ratio"] if "ratio" in row.value else row.value["median"]


def _figure(row: Row) -> str:
    return _short(_middle(row))


def _extremes(row: Row) -> str:
    return f"{_short(row.value['lowest'])} to {_short(row.value['highest'])}" if isinstance(row.value, Mapping) else ""


def _aim(row: Row) -> str:
    if row.at_least is not None:
        return f"at least {row.at_least:g}: {'met' if _middle(row) >= row.at_least else 'missed'}"
    if row.at_most is not None:
        return f"at most {row.at_most:g}: {'met' if _middle(row) <= row.at_most else 'missed'}"
    return ""


def _short(value: float) -> str:
    """Three or more significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"


if __name__ == "__main__":
    main()
