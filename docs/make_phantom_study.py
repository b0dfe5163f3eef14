"""Write docs/phantom_study.md and .json from the runs of the parts.

    python docs/make_phantom_study.py runs/phantom --commits study=COMMIT ablations=COMMIT ...

The page's numbers are those of the parts' `report.json`; none is typed by hand. A part that a commit is named for is
taken from its runs; what is known of the others is kept from phantom_study.json. Parts that did not run are said to be
missing, and so are the claims that rest on them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from make_results import finding_row
from phantom_claims import CLAIMS, SHARES, in_short, judge
from phantom_figures import draw

from pacx.evaluation.reporting.all_tables import arm_tables
from pacx.evaluation.reporting.markdown import markdown_table
from pacx.evaluation.reporting.side_tables import (
    alignment_table,
    attention_table,
    faithfulness_table,
    segmentation_table,
)
from pacx.evaluation.reporting.views import Tones

HEAD = """# The simulated study

What the paper claims, tested where the truth is known. In the [simulated cohort](phantom.md) the X-ray, the ECG and
the laboratory values of a patient are computed from one hidden state of heart, lungs and kidneys; nodules, rib
fractures and devices depend on nothing else and are the controls.

**What this is.** Evidence about the method: that it finds the physiology that is there, and keeps its hands off what is
not. It says nothing about real patients, and the sizes of its effects are those of a small network on simple pictures.

This page is written by `python docs/make_phantom_study.py runs/phantom --commits PART=COMMIT ...` from the reports of
the parts, and `phantom_study.json` beside it holds the same numbers. AUROC is that of a linear probe on frozen
features; brackets are 95 % intervals from a bootstrap over the test patients, differences are paired. Where an arm has
several distillation seeds, the interval is that of the patients and the spread over students (SD) stands beside it. All
students of a part start from one pre-trained encoder and learn from one pair of teachers, so chance in pre-training is
not measured."""

PARTS = {
    "study": "one cohort, one encoder, two teachers; five students with true and with shuffled teachers",
    "ablations": "one part of the method changed at a time; incomplete pairs; the anchor",
    "judged": "segmentation, alignment, attention",
    "pairs": "100, 300, 1,000 and 2,978 pairs",
    "teachers": "noisy teachers, and teachers that say nearly the same of everybody",
    "pretraining": "75 or 90 % hidden, standard or cross decoder",
}
_KEPT = ("title", "baseline", "encoders", "findings", "arms", "alignment", "attention", "segmentation")


def main(root: Path, commits: Mapping[str, str]) -> None:
    """Write page, numbers and figures; parts that no commit is given for stay as they are."""
    target = Path(__file__).with_name("phantom_study.json")
    parts = json.loads(target.read_text(encoding="utf-8")).get("parts", {}) if target.is_file() else {}
    for part in PARTS:
        if part in commits:
            parts[part] = {"commit": commits[part], **_read(root / part)}
    reports = {f"{part}/{name}": one for part in PARTS for name, one in parts.get(part, {}).get("reports", {}).items()}
    claims = [judge(claim, reports) for claim in CLAIMS]
    text = json.dumps({"claims": claims, "parts": parts}, indent=1, sort_keys=True)
    target.write_text(text + "\n", encoding="utf-8")
    figures = draw(reports, target.with_suffix(""))
    lines = [HEAD, *_in_short(claims), *_overview(parts), *_claims(claims)]
    for figure, caption in figures.items():
        lines.append(f"\n![{caption}](phantom_study/{figure})\n\n*{caption}*")
    for part in PARTS:
        lines += _section(part, parts[part]) if part in parts else []
    target.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    """Keep of a part what the page shows."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]
    reports = {}
    for path in sorted(folder.glob("report*/report.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        differences = [row for part in content["probes"] for row in part["group_differences"]]
        reports[path.parent.name] = {**{key: content[key] for key in _KEPT}, "group_differences": differences}
    return {
        "began": min(one["started"] for one in results),
        "steps": len(results),
        "minutes": sum(float(one.get("seconds") or 0) for one in results) / 60,
        "reports": reports,
        "last_falls": _falls(folder),
    }


def _falls(folder: Path) -> dict[str, float]:
    """Say by how much the validation loss still fell in the last third of the trainings with holes."""
    arms = ("incomplete-short", "complete-short", "incomplete", "complete")
    falls = {arm: [_last_fall(path) for path in sorted(folder.glob(f"{arm}-?"))] for arm in arms}
    return {arm: sum(own) / len(own) for arm, own in falls.items() if own}


def _last_fall(run: Path) -> float:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row.get("val_loss")]
    return losses[-1 - len(losses) // 3] - losses[-1]


def _in_short(judged: list[dict[str, Any]]) -> Iterator[str]:
    """Sum up what was found: how many claims of the paper were seen, and the main differences."""
    papers = [one["verdict"] for one in judged if not one["ours"]]
    seen, opposite, open_ = (papers.count(verdict) for verdict in ("seen", "opposite", "not seen"))
    yield (
        f"\n## In short\n\nThe paper's claims pose {len(papers)} questions here (a claim about labels is three: with "
        f"all, 10 % and 1 % of them). {seen} are answered as the paper says, {opposite} the other way, {open_} are not "
        "decided. Numbers are differences; their intervals are below.\n"
    )
    yield from (f"* {sentence}" for sentence in in_short({one["key"]: one for one in judged}))


def _overview(parts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "\n## The parts\n\n| command | what it is about | steps | minutes of its steps | began | commit |\n"
        "|---|---|---:|---:|---|---|"
    )
    for part, about in PARTS.items():
        found = parts.get(part)
        if found is None:
            yield f"| `pacx run phantom/{part}` | {about} | | not run yet | | |"
        else:
            facts = f"{found['steps']} | {found['minutes']:.0f} | {found['began'][:10]} | {found['commit']}"
            yield f"| `pacx run phantom/{part} --jobs 2` | {about} | {facts} |"
    total = sum(found["minutes"] for found in parts.values())
    yield (
        f"\nTogether {total:.0f} minutes of steps, one thread each, two side by side on two cores that did other work "
        "besides."
    )


def _claims(judged: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "\n## Claim by claim\n\n**Seen**: the interval lies on the side that the claim names, or, where no "
        "difference, no gain or no loss is claimed, does not exclude it. **Opposite**: it lies on the other side. "
        "**Not seen**: it does not decide. That an interval holds 0 does not prove that there is no difference; "
        "how large one could be is what its ends say. Intervals are not adjusted for the number of claims. "
        "A difference is the arm that was changed minus what it is compared with: PaCX minus MAE; a part left out "
        "minus the whole method; all weights tuned minus LoRA; 75 % hidden minus 90 %. So a claim that the usual way "
        f"is better is seen where the number is negative. {_OURS}: ours, not claimed in the paper. Each claim is "
        "judged at every share of the labels, so that none is picked.\n"
    )
    yield f"| mean AUROC | {' | '.join(SHARES.values())} | decided by |\n|---|---|---|---|---|"
    probed = [one for one in judged if one["share"] is not None]
    for start in range(0, len(probed), len(SHARES)):
        shares = probed[start : start + len(SHARES)]
        cells = " | ".join(f"**{one['verdict']}** {one['shown']}" for one in shares)
        yield f"| {_text(shares[0])} | {cells} | `{shares[0]['report']}` |"
    yield "\n| outlines, embeddings, attention | | decided by |\n|---|---|---|"
    for one in judged:
        if one["share"] is None:
            yield f"| {_text(one)} | **{one['verdict']}** {one['shown']} | `{one['report']}` |"


def _text(claim: Mapping[str, Any]) -> str:
    return f"{claim['claim']} {_OURS}" if claim["ours"] else str(claim["claim"])


_OURS = "°"


def _section(part: str, found: Mapping[str, Any]) -> Iterator[str]:
    for name, report in found["reports"].items():
        yield f"\n## {report['title']}\n\n`{part}/{name}`\n"
        if report["findings"]:
            yield from ("| question | result | |", "|---|---|---|", *map(finding_row, report["findings"]), "")
        tones = Tones(report["encoders"])
        tables = arm_tables(report)
        tables += [
            table
            for make, key in (
                (alignment_table, "alignment"),
                (attention_table, "attention"),
                (faithfulness_table, "attention"),
                (segmentation_table, "segmentation"),
            )
            for one in report[key]
            if (table := make(one, tones)) is not None
        ]
        for table in tables:
            yield f"### {table.section}\n\n{table.caption}\n\n{markdown_table(table)}\n"
    if found["last_falls"]:
        falls = ", ".join(f"{arm} {fall:.3f}" for arm, fall in found["last_falls"].items())
        yield (
            f"How much the validation loss still fell in the last third of the trainings with holes: {falls} (means "
            "over seeds, each on its own validation rows). Where it no longer falls, the rows are used up and more "
            "steps cannot help; where it does, they can. So the number of steps decides whether incomplete rows show "
            "their worth: compare `report-holes` with `report-holes-short`."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--commits", nargs="*", default=[], help="PART=COMMIT of parts below root to read anew")
    arguments = parser.parse_args()
    main(arguments.root, dict(one.split("=", 1) for one in arguments.commits))
