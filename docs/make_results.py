"""Write docs/results.md from finished runs: `python docs/make_results.py runs/demo runs/open-sample`.

Nothing on that page is typed by hand: its numbers are those of each run's `report/report.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """# Results

What the two recipes that ship gave on two CPU cores. This page is written by `python docs/make_results.py` from the
`report.json` of the runs; nothing on it is typed by hand. AUROC is the area under the ROC curve of a linear probe on
frozen features; brackets are 95 % intervals from a bootstrap over patients, not corrected for the number of questions.

The runs are of 2026-11-27 (commit a300c74). Times are those of a machine that did other work besides.
"""
NOTES = {
    "demo": "The demo is small, to be done in minutes: one student, few steps. [The simulated study](phantom_study.md) "
    "has twice the patients, twice the epochs of pre-training and five students, and finds larger differences."
}
COMMANDS = {
    "demo": "make demo",
    "open-sample": "pacx run recipes/open-sample.yaml --root data=../shared/data",
}


def main(folders: list[str]) -> None:
    """Write the page from run folders of recipes."""
    parts = [HEAD]
    for folder in map(Path, folders):
        report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
        parts += _section(folder.name, report)
    Path(__file__).with_name("results.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _section(name: str, report: dict[str, Any]) -> list[str]:
    seconds = sum(step["seconds"] for step in report["steps"])
    memory = max(step["peak_memory_mib"] or 0 for step in report["steps"]) / 1024
    lines = [
        f"\n## {report['title']}\n",
        f"```console\n{COMMANDS.get(name, f'pacx run {name}')}\n```\n",
        f"{len(report['steps'])} steps took {seconds / 60:.1f} minutes; the largest took {memory:.1f} GiB of memory in "
        f"the main process. {report['about']}\n",
        *([f"{NOTES[name]}\n"] if name in NOTES else []),
        "### In short\n",
        "| question | result | |",
        "|---|---|---|",
        *(finding_row(finding) for finding in report["findings"]),
    ]
    for part in report["probes"]:
        lines += _probes(part)
    return lines


def finding_row(finding: dict[str, Any]) -> str:
    """Write a finding of a report as a row of a table: question, result, statement."""
    digits = ".3f" if finding["kind"] in {"auroc", "dice"} else ".1f"
    scale = 1 if finding["kind"] in {"auroc", "dice"} else 100
    numbers = [finding[key] for key in ("value", "low", "high")]
    shown = "n/a" if None in numbers else "{} [{}, {}]".format(*(format(scale * x, digits) for x in numbers))
    unit = "" if scale == 1 else " %"
    return f"| {finding['topic']}: **{finding['judgement']}** | {shown}{unit} | {finding['statement']} |"


def _probes(part: dict[str, Any]) -> list[str]:
    encoders = list(dict.fromkeys(score["encoder"] for score in part["scores"]))
    found = {(s["task"], s["label"], s["fraction"], s["encoder"]): s for s in part["scores"]}
    order = list(dict.fromkeys((s["task"], s["label"], s["fraction"]) for s in part["scores"]))
    lines = [
        f"\n### Probes on {part['store']}\n",
        f"| task | labels used | positives of tested | {' | '.join(encoders)} |",
        f"|---|---|---|{'---|' * len(encoders)}",
    ]
    for task, label, fraction in order:
        cells = [_score(found.get((task, label, fraction, encoder))) for encoder in encoders]
        any_score = found[(task, label, fraction, encoders[0])]
        counted = f"{any_score['positives']} of {any_score['num_test']}" if any_score.get("positives") else ""
        question = task if label == task else f"{task}: {label}"
        lines.append(f"| {question} | {fraction:.0%} | {counted} | {' | '.join(cells)} |")
    return lines


def _score(score: dict[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "n/a"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
