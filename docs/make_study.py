"""Write docs/distillation-study.md: `python docs/make_study.py runs/phantom/study runs/phantom/ablations`.

Its numbers are those of the runs' `report.json` and `arms.md`; none is typed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_results import finding_row

HEAD = """# What distillation does, where the truth is known

Two studies on the simulated cohort. In it the X-ray, the ECG and the laboratory values of a patient are computed from
one hidden state of heart, lungs and kidneys; nodules, rib fractures and devices depend on nothing else and are the
controls. What holds here shows that the method works as built. It says nothing about real patients.

This page is written by `python docs/make_study.py` from the reports of the runs. AUROC is that of a linear probe on
frozen features, brackets are 95 % intervals from a bootstrap over the test patients, differences are paired. Arms are
pools of several students: the interval is that of the patients, and the spread over students (SD) stands beside it. All
students start from one pre-trained encoder and learn from one pair of teachers.
"""


def main(folders: list[str]) -> None:
    """Write the page from the folders of finished studies."""
    lines = [HEAD]
    for folder in map(Path, folders):
        for report in sorted(folder.glob("report*/report.json")):
            lines += _section(folder.name, report.parent, json.loads(report.read_text(encoding="utf-8")))
    Path(__file__).with_name("distillation-study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(name: str, folder: Path, report: dict[str, Any]) -> list[str]:
    lines = [f"\n## {report['title']}\n"]
    if folder.name == "report":
        seconds = _seconds(folder.parent)
        lines += [f"```console\npacx run studies/{name}\n```\n", f"All its steps took {seconds / 60:.0f} minutes.\n"]
    lines += ["| question | result | |", "|---|---|---|", *map(finding_row, report["findings"]), ""]
    arms = folder / "arms.md"
    return [*lines, arms.read_text(encoding="utf-8").replace("\n# ", "\n### ")] if arms.is_file() else lines


def _seconds(folder: Path) -> float:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json")]
    return sum(float(one.get("seconds") or 0) for one in results)


if __name__ == "__main__":
    main(sys.argv[1:])
