"""Several runs of one method, judged as one: training seeds, folds of a cross-validation, or both.

One encoder says how good that encoder is. How good the method is that made it takes several: trained with other seeds,
or on other patients. `pool` joins what was found about them; which of the two it is shows in the test images.

* **Seeds**: all runs were tested on the same images. AUROCs are averaged over the runs draw by draw, so the interval is
  that of the test patients for a method's mean; `sd_over_runs` beside it is the luck of training.
* **Folds**: no two runs were tested on the same patient. Log-odds of different classifiers have no common scale, so
  scores are never ranked across folds: each fold's AUROC is taken by itself and the folds are averaged. To that end an
  output becomes one output per fold, `OUTPUT @ fold 0`, unknown for everybody else. All test patients are resampled
  together, so the interval narrows with their number.
* **Both**: every fold has the same number of runs.

What was judged image by image (align, segment, explain) is averaged so: `pacx.evaluation.pool_images`.

The result has the shape of the pooled command's, and the report and paired comparisons take it like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.errors import PacxError
from pacx.evaluation.lab_scores import summarise_physiology
from pacx.evaluation.members import (
    Member,
    arrange_members,
    check_alike,
    design,
    facts,
    read_member,
    store_identity,
    together,
)
from pacx.evaluation.pool_images import TABLES, pool_alignment, pool_attention, pool_segmentation
from pacx.evaluation.pool_measures import pool_measures
from pacx.runs import open_run
from pacx.scoring import MACRO, summarise

__all__ = ["POOLED", "pool"]

_NUMBERED = re.compile(r"(?:[-_.](?:seed|fold)?\d+)+$")
"""what is left off to call pacx-0, pacx-1, pacx-2 by one name"""


def pool(
    *, runs: list[Path], out: Path, name: str | None = None, draws: int = 1000, overwrite: bool = False
) -> dict[str, Any]:
    """Join runs of one method: of several training seeds, of the folds of a cross-validation, or of both.

    Example:
        pacx pool --runs runs/probe-pacx-0 runs/probe-pacx-1 runs/probe-pacx-2 --out runs/pool-pacx

    Args:
        runs: two or more finished runs of the same command (probe, finetune, physiology, align, segment or explain)
            with the same settings.
        out: the run folder to make.
        name: how a report calls the method; pacx for encoders pacx-0, pacx-1, pacx-2 if not given.
        draws: bootstrap draws of the intervals.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results are those of the pooled command, with `of` (that command),
        encoder_name, seen_patients (of all runs; None if no run says) and protocol, which adds pooled (seeds, folds, or
        folds and seeds), num_runs and num_folds.

    Raises:
        PacxError: fewer than two runs, runs of different commands or settings, one encoder given twice, test images
            that overlap in part, a patient in two folds, or encoders whose names have nothing in common.
    """
    config = {**locals()}
    members = [read_member(folder, tables=_TABLES) for folder in runs]
    command = check_alike(members)
    members = arrange_members(members)
    label = name or _common_name(members)
    with open_run(out, command="pool", config=config, overwrite=overwrite) as run:
        run.read("store", **store_identity(members))
        run.read("encoder", name=label)
        run.read("runs", members=[facts(member) for member in members])
        found, tables = POOLED[command](members, draws)
        for table, rows in tables.items():
            rows.to_parquet(run.artefact(table, f"{table}.parquet"))
        protocol = {**members[0].protocol, "draws": draws, **design(members)}
        named = {"of": command, "encoder_name": label, "seen_patients": _seen_patients(members)}
        return run.finish({**found, **named, "protocol": protocol})


def _common_name(members: Sequence[Member]) -> str:
    names = list(dict.fromkeys(member.encoder["name"] for member in members))
    stems = list(dict.fromkeys(_NUMBERED.sub("", name) for name in names))
    if len(names) > 1 and (len(stems) > 1 or not stems[0]):
        raise PacxError(
            f"The runs judged encoders called {', '.join(names)}. If one method made them, say with --name "
            "how to call it."
        )
    return names[0] if len(names) == 1 else stems[0]


def _seen_patients(members: Sequence[Member]) -> dict[str, Any] | None:
    """Say whom the encoders had seen, as a run says it of its own; the counts are those of the run with the most."""
    found = [member.results.get("seen_patients") for member in members]
    said = [one for one in found if one]
    if not said:
        return None
    return {
        **max(said, key=lambda one: int(one["num_patients"])),
        "allowed": any(one.get("allowed") for one in said),
        # A run of an older version says nothing: nobody looked.
        "checked": len(said) == len(found) and all(one.get("checked") for one in said),
        "unknown": list(dict.fromkeys(what for one in said for what in one.get("unknown") or [])),
    }


def _pool_probes(members: Sequence[Member], draws: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Score pooled probes: scores (those of the runs, numbered), summary, and measures."""
    predictions = together(members, [member.predictions for member in members])
    scored = summarise(predictions, draws=draws).mean
    of_key: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in _numbered(members, "summary"):
        of_key.setdefault((row["task"], row["label"], row["fraction"]), []).append(row)
    summary = [_summary_row(rows, scored.get(key, _UNTESTED)) for key, rows in of_key.items()]
    measures = pool_measures(members, predictions, draws=draws)
    found = {"scores": _numbered(members, "scores"), "summary": summary, "measures": measures}
    return found, {"predictions": predictions}


_UNTESTED: Mapping[str, float] = {
    **dict.fromkeys(("value", "low", "high", "sd_over_seeds", "sd_over_runs"), np.nan),
    **dict.fromkeys(("num_seeds", "num_runs", "num_test", "num_test_patients", "positives"), 0),
}


def _numbered(members: Sequence[Member], key: str) -> list[dict[str, Any]]:
    return [{**row, "fold": member.fold, "run": member.run} for member in members for row in member.results[key]]


def _summary_row(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> dict[str, Any]:
    """Sum one question up: what names it, the pooled score, the mean size of the training sets."""
    named = {key: rows[0].get(key) for key in ("task", "label", "group", "fraction", "metric")}
    if named["label"] == MACRO:
        return {**named, **found}
    sizes = {key: float(np.mean([row[key] for row in rows])) for key in ("num_train", "num_train_positives")}
    return {**named, **found, **sizes, "notes": _notes(rows)}


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List what was noted, with the folds where it is not true of all."""
    folds: dict[str, set[int]] = {}
    for row in rows:
        for note in row.get("notes") or []:
            folds.setdefault(note, set()).add(row["fold"])
    num_folds = len({row["fold"] for row in rows})
    return [
        note if len(own) == num_folds else f"{note} (fold {', '.join(map(str, sorted(own)))} of {num_folds})"
        for note, own in folds.items()
    ]


def _pool_physiology(members: Sequence[Member], draws: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    predictions = together(members, [member.predictions for member in members])
    return summarise_physiology(predictions, draws=draws), {"predictions": predictions}


_Pooling = Callable[[Sequence[Member], int], tuple[dict[str, Any], dict[str, pd.DataFrame]]]

POOLED: Mapping[str, _Pooling] = {
    "probe": _pool_probes,
    "finetune": _pool_probes,
    "physiology": _pool_physiology,
    "align": pool_alignment,
    "segment": pool_segmentation,
    "explain": pool_attention,
}
"""What can be pooled: from runs and the number of draws to results and tables."""

_TABLES = {command: TABLES.get(command, "predictions") for command in POOLED}
