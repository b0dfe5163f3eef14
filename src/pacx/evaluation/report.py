"""The report: one page that says what ran and what came out, for readers who know nothing of the project.

* **From results alone.** The report reads `result.json`, `metrics.csv`, figures and per-image tables of finished runs;
  it trains nothing and opens no store. Sections appear for the kinds of runs that are given.
* **As it came out.** What is summed up at the top is chosen by fixed rules (`reporting/findings.py`), not by whether
  it flatters; a difference whose interval includes zero is called unclear.
* **One file.** `report.html` has its style, charts (SVG) and figures (WebP) inside, asks the network for nothing and
  needs no script. `report.json` holds the same numbers; its schema is `templates/report.schema.json`. `report.md` and
  `report.tex` hold the same tables for other texts; with three or more encoders on one store, `arms.md` holds the
  table of these alone.
* **Bad input stays visible** (`reporting/cautions.py`): other splits of one data set, no test images, known patients.
* **It may leave the machine.** All text is escaped; paths outside of the runs lose all but their last part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pacx import __version__
from pacx.evaluation.reporting.all_tables import all_tables, arm_tables
from pacx.evaluation.reporting.arms import arms_part
from pacx.evaluation.reporting.cautions import (
    apart_by_split,
    concerns,
    explained_cautions,
    leak_cautions,
    mark_seen,
    seen_cautions,
    split_cautions,
    validation_cautions,
)
from pacx.evaluation.reporting.collect import Record, Run, collect, judged_by, recipe_of, without_machine_paths
from pacx.evaluation.reporting.encoders import choose_baseline, describe_encoders, encoder_label
from pacx.evaluation.reporting.findings import find_all
from pacx.evaluation.reporting.judged import alignment_part, attention_part, segmentation_part
from pacx.evaluation.reporting.latex import latex_of
from pacx.evaluation.reporting.lineage import control_runs
from pacx.evaluation.reporting.markdown import markdown_of
from pacx.evaluation.reporting.page import render_page
from pacx.evaluation.reporting.physiology import physiology_label, physiology_part, shown_physiology
from pacx.evaluation.reporting.pictures import pictures_of
from pacx.evaluation.reporting.probes import gather_probes, probe_part, shown_probes
from pacx.evaluation.reporting.published import published_part
from pacx.evaluation.reporting.trained import (
    data_part,
    distillation_part,
    pretraining_part,
    step_part,
    teacher_part,
)
from pacx.runs import open_run, plain, write_json, write_text

__all__ = ["REPORT_VERSION", "describe", "report"]

REPORT_VERSION = 1
_JUDGED = ("align", "explain", "segment")


def report(
    runs: list[Path],
    *,
    out: Path,
    title: str = "Physiology in chest X-ray encoders",
    about: str = "",
    baseline: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Merge any number of finished runs into one self-contained HTML page, and its tables into Markdown and LaTeX.

    Example:
        pacx report runs/demo --out runs/demo-report

    Args:
        runs: run folders, or folders that hold some; other reports in them are left out.
        out: the run folder to make; the page is report.html in it, the numbers are report.json, the tables report.md
            and report.tex.
        title: heading of the page.
        about: text below the heading, such as what these data can and cannot show.
        baseline: label of the encoder that the others are compared with; "mae" if there is one.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: num_runs, encoders, baseline, findings, html_bytes.

    Raises:
        PacxError: no finished run is found, one has an unknown schema, or the baseline is not among the encoders.
    """
    config, begun = {**locals()}, time.time()
    found = collect(runs, out=out)
    content = describe(found, title=title, about=about, baseline=baseline)
    with open_run(out, command="report", config=config, overwrite=overwrite) as folder:
        folder.started = begun  # the work was done before the folder was opened, so that a failure leaves none
        write_json(folder.artefact("numbers", "report.json"), content)
        html = render_page(content, pictures=pictures_of(found), recipe=recipe_of(found, title=title))
        write_text(folder.artefact("page", "report.html"), html)
        tables = all_tables(content)
        write_text(folder.artefact("markdown", "report.md"), markdown_of(content, tables))
        write_text(folder.artefact("latex", "report.tex"), latex_of(content, tables))
        if content["arms"]:
            arms = markdown_of(content, arm_tables(content), title=f"{title}: arms side by side")
            write_text(folder.artefact("arms", "arms.md"), arms)
        return folder.finish(
            {
                "num_runs": len(found),
                "encoders": [encoder["label"] for encoder in content["encoders"]],
                "baseline": content["baseline"],
                "findings": [f"{one['topic']}: {one['judgement']}. {one['statement']}" for one in content["findings"]],
                "html_bytes": len(html.encode()),
            }
        )


def describe(runs: Sequence[Run], *, title: str, about: str = "", baseline: str | None = None) -> Record:
    """Make the content of `report.json`: plain JSON values, NaN as null, no paths of this machine."""
    judged = [*shown_probes(runs), *judged_by(runs, *_JUDGED), *shown_physiology(runs)]
    cautions = split_cautions(judged)
    names = {run.name for run in judged}
    renamed = {run.name: run for run in apart_by_split(judged)}
    runs = [renamed[run.name] if run.name in names else run for run in runs]
    shown = shown_probes(runs)
    labels = {encoder_label(run) for run in (*shown, *judged_by(runs, *_JUDGED))}
    labels |= {physiology_label(run) for run in shown_physiology(runs)}
    chosen = choose_baseline(labels, baseline)
    stores = gather_probes(shown)
    probes = probe_part(stores, baseline=chosen)
    content: Record = {
        "steps": step_part(runs),
        "data": data_part(runs),
        "probes": probes,
        "arms": arms_part(stores, probes, runs=runs, baseline=chosen),
        "alignment": alignment_part(runs, baseline=chosen),
        "distillation": distillation_part(runs),
        "teachers": teacher_part(runs),
        "pretraining": pretraining_part(runs),
        "attention": attention_part(runs, baseline=chosen),
        "segmentation": segmentation_part(runs, baseline=chosen),
        "physiology": physiology_part(runs, baseline=chosen),
        "figures": [
            {"run": run.name, "path": figure["path"], "caption": figure.get("caption", "")}
            for run in runs
            for figure in run.content.get("figures") or []
        ],
    }
    content["published"] = published_part(content)
    content = without_machine_paths(plain(content))
    entries = [one for part in content["probes"] for one in part["scores"]]
    entries += [one for kind in _SIDE_BY_SIDE for part in content[kind] for one in part["encoders"]]
    named = [(one["run"], one["encoder"]) for one in entries]
    cautions += leak_cautions([renamed[run.name] for run in judged])
    cautions += validation_cautions(content["segmentation"])
    cautions += explained_cautions(content["attention"])
    content["cautions"] = [*cautions, *seen_cautions(runs, judged, list(dict.fromkeys(named)))]
    _note_cautions(content)
    return {
        "schema_version": REPORT_VERSION,
        "pacx_version": __version__,
        "title": title,
        "about": about,
        "baseline": chosen,
        "encoders": mark_seen(describe_encoders(label for _, label in named), content["cautions"]),
        "findings": find_all(content, controls=control_runs(runs)),
        **content,
    }


_SIDE_BY_SIDE = ("alignment", "attention", "segmentation", "physiology")


def _note_cautions(content: Record) -> None:
    """Repeat a caution about a store in every part that is about it."""
    for kind in ("probes", *_SIDE_BY_SIDE):
        for part in content[kind]:
            part["notes"] += [one["text"] for one in content["cautions"] if concerns(one, part)]
