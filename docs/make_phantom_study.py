"""Write docs/phantom_study.md and docs/phantom_study.json: `python docs/make_phantom_study.py runs/phantom`.

The page's numbers are those of the parts' `report.json` and `arms.md`; none is typed by hand. Parts that did not run
are said to be missing, and so are the claims that rest on them.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from make_results import finding_row

HEAD = """# The simulated study

What the paper claims, tested where the truth is known. In the [simulated cohort](phantom.md) the X-ray, the ECG and
the laboratory values of a patient are computed from one hidden state of heart, lungs and kidneys; nodules, rib
fractures and devices depend on nothing else and are the controls.

**What this is.** Evidence about the method: that it finds the physiology that is there, and keeps its hands off what is
not. It says nothing about real patients, and the sizes of its effects are those of a small network on simple pictures.

This page is written by `python docs/make_phantom_study.py runs/phantom` from the reports of the parts, and
`phantom_study.json` beside it holds the same numbers. AUROC is that of a linear probe on frozen features; brackets are
95 % intervals from a bootstrap over the test patients, differences are paired. Where an arm has several distillation
seeds, the interval is that of the patients and the spread over students (SD) stands beside it. All students of a part
start from one pre-trained encoder and learn from one pair of teachers, so chance in pre-training is not measured.

The part `study` ran at commit aee35b7, where the recipe was called studies/distillation, from 21:32 to 23:26 on
2026-11-26, some of its steps by a second process beside the first."""

PARTS = {
    "study": "one cohort, one encoder, two teachers; five students with true, shuffled and half-forgotten teachers",
    "ablations": "one part of the method changed at a time",
    "judged": "segmentation, alignment, attention",
    "pairs": "100, 300, 1,000 and 3,000 pairs",
    "teachers": "noisy teachers, and teachers that say nearly the same of everybody",
    "pretraining": "75 or 90 % hidden, standard or cross decoder",
}

Expected = Literal["higher", "lower", "no difference", "no gain"]


@dataclass(frozen=True)
class Claim:
    """A sentence that is true or not, and the paired difference that decides it."""

    text: str
    expected: Expected
    report: str
    """PART/report of which the difference is taken"""
    kind: Literal["group_differences", "alignment", "attention", "segmentation"]
    which: Mapping[str, object]
    """what the difference's row must hold"""


def _probe(encoder: str, group: str, fraction: float) -> dict[str, object]:
    return {"encoder": encoder, "group": group, "fraction": fraction}


CLAIMS = (
    Claim(
        "PaCX beats MAE on physiology (all labels)",
        "higher", "study/report", "group_differences", _probe("pacx", "physiology", 1.0),
    ),
    Claim(
        "... with 10 % of the labels",
        "higher", "study/report", "group_differences", _probe("pacx", "physiology", 0.1),
    ),
    Claim(
        "... with 1 % of the labels",
        "higher", "study/report", "group_differences", _probe("pacx", "physiology", 0.01),
    ),
    Claim(
        "It leaves alone what the teachers know nothing of (controls, all labels)",
        "no difference", "study/report", "group_differences", _probe("pacx", "control", 1.0),
    ),
    Claim(
        "... with 10 % of the labels",
        "no difference", "study/report", "group_differences", _probe("pacx", "control", 0.1),
    ),
    Claim(
        "... with 1 % of the labels",
        "no difference", "study/report", "group_differences", _probe("pacx", "control", 0.01),
    ),
    Claim(
        "Shuffled pairs give no gain on physiology (all labels)",
        "no gain", "study/report", "group_differences", _probe("pacx-shuffled", "physiology", 1.0),
    ),
    Claim(
        "Incomplete rows are worth having: against complete triplets alone (ours, not the paper's)",
        "higher", "study/report-holes", "group_differences", _probe("pacx-incomplete", "physiology", 1.0),
    ),
    Claim(
        "... with 10 % of the labels",
        "higher", "study/report-holes", "group_differences", _probe("pacx-incomplete", "physiology", 0.1),
    ),
    Claim(
        "... with 1 % of the labels",
        "higher", "study/report-holes", "group_differences", _probe("pacx-incomplete", "physiology", 0.01),
    ),
    Claim(
        "The contrastive loss alone is as good as both",
        "no difference", "ablations/report-parts", "group_differences", _probe("contrastive-only", "physiology", 1.0),
    ),
    Claim(
        "Regression alone is worse than both",
        "lower", "ablations/report-parts", "group_differences", _probe("regression-only", "physiology", 1.0),
    ),
    Claim(
        "Regression alone falls below MAE",
        "lower", "ablations/report", "group_differences", _probe("regression-only", "physiology", 1.0),
    ),
    Claim(
        "Without the ECG it is worse",
        "lower", "ablations/report-parts", "group_differences", _probe("no-ecg", "physiology", 1.0),
    ),
    Claim(
        "Without the labs it is worse",
        "lower", "ablations/report-parts", "group_differences", _probe("no-labs", "physiology", 1.0),
    ),
    Claim(
        "LoRA is better than tuning all weights (not compared in the paper)",
        "lower", "ablations/report-parts", "group_differences", _probe("full-tuning", "physiology", 1.0),
    ),
    *(
        Claim(
            f"Segmentation stays as it was ({mask}, Dice, first student)",
            "no difference", "judged/report", "segmentation", {"encoder": "pacx-0", "metric": "dice", "mask": mask},
        )
        for mask in ("lung", "heart")
    ),
    *(
        Claim(
            f"The {teacher} embedding can be read off better (centred cosine, first student)",
            "higher", "judged/report", "alignment",
            {"encoder": "pacx-0", "teacher": teacher, "metric": "cosine_centred"},
        )
        for teacher in ("ecg", "labs")
    ),
    Claim(
        "Attention moves to the heart (share of rollout, first student)",
        "higher", "judged/report", "attention", {"encoder": "pacx-0", "region": "heart"},
    ),
    Claim(
        "Hiding 90 % is better than hiding 75 % (MAE, physiology, all labels)",
        "lower", "pretraining/report", "group_differences", _probe("mae-75", "physiology", 1.0),
    ),
    Claim(
        "The cross decoder costs nothing (MAE, physiology, all labels; ours, not the paper's)",
        "no difference", "pretraining/report", "group_differences", _probe("mae-cross", "physiology", 1.0),
    ),
)  # fmt: skip


def main(root: str) -> None:
    """Write page and numbers from the folders of finished parts."""
    reports = {
        f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text(encoding="utf-8"))
        for part in PARTS
        for path in sorted(Path(root).glob(f"{part}/report*/report.json"))
    }
    judged = [_judge(claim, reports) for claim in CLAIMS]
    times = {part: _minutes(Path(root) / part) for part in PARTS}
    lines = [HEAD, *_overview(times), *_claims(judged), *_holes(Path(root) / "study")]
    for name, report in reports.items():
        lines += _section(Path(root) / name, report)
    here = Path(__file__)
    here.with_name("phantom_study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = ("title", "baseline", "findings", "arms", "alignment", "attention", "segmentation", "distillation")
    numbers = {
        "minutes": times,
        "claims": judged,
        "reports": {name: {key: report[key] for key in kept} for name, report in reports.items()},
        "group_differences": {
            name: [row for part in report["probes"] for row in part["group_differences"]]
            for name, report in reports.items()
        },
    }
    text = json.dumps(numbers, indent=1, sort_keys=True)
    here.with_name("phantom_study.json").write_text(text + "\n", encoding="utf-8")


def _overview(times: Mapping[str, float | None]) -> Iterator[str]:
    yield "\n## The parts\n\n| command | what it is about | minutes of its steps |\n|---|---|---|"
    for part, about in PARTS.items():
        minutes = times[part]
        yield f"| `pacx run phantom/{part}` | {about} | {'not run yet' if minutes is None else f'{minutes:.0f}'} |"
    total = sum(minutes for minutes in times.values() if minutes is not None)
    yield f"\nTogether {total:.0f} minutes, one thread each, on two cores that did much else."


def _claims(judged: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "\n## Claim by claim\n\n**Seen**: the interval lies on the side that the claim names, or, where no difference "
        "or no gain is claimed, does not exclude it. **Opposite**: it lies on the other side. **Not seen**: it does "
        "not decide. That an interval holds 0 does not prove that there is no difference; how large one could be is "
        "what its ends say.\n"
    )
    yield "| claim | | difference | decided by |\n|---|---|---|---|"
    for one in judged:
        yield f"| {one['claim']} | **{one['verdict']}** | {one['shown']} | `{one['report']}` |"


def _holes(study: Path) -> Iterator[str]:
    """Say how far the students of incomplete rows and of complete triplets had come when their training ended."""
    falls = {
        arm: [_last_fall(path) for path in sorted(study.glob(f"pacx-{arm}-?"))] for arm in ("incomplete", "complete")
    }
    if not all(falls.values()):
        return
    shown = {arm: sum(one) / len(one) for arm, one in falls.items()}
    yield (
        "\n### Incomplete rows, and how long they are taught\n\nBoth arms take about the same number of steps, so rows "
        "of complete triplets are seen three times as often as incomplete ones. In the last third of the training the "
        f"validation loss of the incomplete rows' students still fell by {shown['incomplete']:.3f}, that of the "
        f"complete triplets' by {shown['complete']:.3f} (means of {len(falls['complete'])} seeds, each on its own "
        "validation rows). What both would reach with more steps is not measured here."
    )


def _last_fall(run: Path) -> float:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row.get("val_loss")]
    return losses[-1 - len(losses) // 3] - losses[-1]


def _judge(claim: Claim, reports: Mapping[str, Any]) -> dict[str, Any]:
    row = _row(claim, reports.get(claim.report))
    found = {"claim": claim.text, "expected": claim.expected, "report": claim.report}
    if row is None or row["low"] is None:
        return {**found, "verdict": "not run yet", "shown": "", "difference": None, "low": None, "high": None}
    scale, digits = (100, 2) if claim.kind == "attention" else (1, 3)
    numbers = {key: row[key] for key in ("difference", "low", "high")}
    shown = "{} [{}, {}]".format(*(f"{scale * value:+.{digits}f}" for value in numbers.values()))
    shown += " percentage points" if claim.kind == "attention" else ""
    return {**found, "verdict": _verdict(claim.expected, row["low"], row["high"]), "shown": shown, **numbers}


def _verdict(expected: Expected, low: float, high: float) -> str:
    if expected == "no difference":
        return "seen" if low <= 0 <= high else "opposite"
    if expected == "no gain":
        return "seen" if low <= 0 else "opposite"
    towards = low > 0 if expected == "higher" else high < 0
    against = high < 0 if expected == "higher" else low > 0
    return "seen" if towards else "opposite" if against else "not seen"


def _row(claim: Claim, report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    if claim.kind == "group_differences":
        rows = [row for part in report["probes"] for row in part["group_differences"]]
    else:
        rows = [{**row, "mask": part.get("mask")} for part in report[claim.kind] for row in part["differences"]]
    return next((row for row in rows if all(row.get(key) == value for key, value in claim.which.items())), None)


def _section(folder: Path, report: dict[str, Any]) -> list[str]:
    lines = [f"\n## {report['title']}\n"]
    if report["findings"]:
        lines += ["| question | result | |", "|---|---|---|", *map(finding_row, report["findings"]), ""]
    arms = folder / "arms.md"
    if arms.is_file():
        lines += [line.replace("# ", "### ", 1) if line.startswith("# ") else line for line in _lines(arms)]
    return lines


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _minutes(folder: Path) -> float | None:
    """Add up the steps' own seconds; None where the part has not come to its report."""
    if not (folder / "report" / "report.json").is_file():
        return None
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json")]
    return sum(float(one.get("seconds") or 0) for one in results) / 60


if __name__ == "__main__":
    main(sys.argv[1])
