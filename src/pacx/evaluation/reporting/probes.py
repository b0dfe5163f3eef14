"""Probes of several encoders side by side, with paired differences to a baseline.

* One entry per store and protocol (`encoders.same_store`). A task stands for itself by its only label, or by `macro`,
  the mean over its labels.
* Fine-tuned encoders (`pacx finetune`) stand beside probed ones: their results have the same form. `protocols` tells
  them apart.
* A pool of probes (`pacx pool`) counts as one encoder, and the runs that it joins are not shown beside it.
* Differences are drawn patient by patient, the same draws for both encoders (`pacx.evaluation.comparison`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_questions
from pacx.evaluation.reporting.collect import Record, Run, judged_by
from pacx.evaluation.reporting.encoders import encoder_label, same_store, store_name
from pacx.evaluation.reporting.group_scores import GroupScores
from pacx.evaluation.reporting.measured import calibration_curves, measures_of
from pacx.evaluation.reporting.ways import is_fine_tuning
from pacx.scoring import MACRO
from pacx.statistics import holm

__all__ = ["DRAWS", "StoreProbes", "gather_probes", "headline_labels", "probe_part", "shown_probes"]

log = logging.getLogger("pacx")
DRAWS = 1000
"""bootstrap draws of a comparison"""
_PROBED = ("probe", "finetune")
"""commands whose results are predictions of a store's tasks"""


@dataclass
class StoreProbes:
    """All probes on one store, by encoder."""

    store: str
    scores: list[Record] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    """by label of the encoder; several where its tasks were probed one by one"""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """predictions, by label of the encoder"""
    notes: list[str] = field(default_factory=list)

    @property
    def protocols(self) -> dict[str, Record]:
        """How each encoder was judged, by its label."""
        return {label: dict(own[0].results.get("protocol") or {}) for label, own in self.runs.items()}

    def __post_init__(self) -> None:
        self._group_scores: GroupScores | None = None

    @property
    def group_scores(self) -> GroupScores:
        """Means over groups of tasks; what one part of the report has scored, another need not score again."""
        if self._group_scores is None:
            self._group_scores = GroupScores(self.tables, draws=DRAWS)
        return self._group_scores


def shown_probes(runs: Sequence[Run]) -> list[Run]:
    """Pick probes and pools of probes, without the probes that a pool among them stands for."""
    return judged_by(runs, *_PROBED)


def gather_probes(runs: Sequence[Run]) -> list[StoreProbes]:
    """Collect probes and pools of probes, one entry per store and protocol."""
    return [_gather(own) for own in same_store(runs)]


def _gather(runs: Sequence[Run]) -> StoreProbes:
    found = StoreProbes(store_name(runs[0]))
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        rows = _summary(run)
        label = _free_label(run, rows, found)
        found.scores += [{"encoder": label, "run": run.name, **row} for row in rows]
        found.runs.setdefault(label, []).append(run)
        path = run.artefact("predictions", "predictions.parquet")
        if path is None:
            found.notes.append(f"{run.name} has no predictions left, so it could not be compared with the others.")
        else:
            parts.setdefault(label, []).append(pd.read_parquet(path))
    found.tables = {label: pd.concat(own, ignore_index=True) for label, own in parts.items()}
    return found


def probe_part(stores: Sequence[StoreProbes], *, baseline: str | None) -> list[Record]:
    """Describe all probes, one entry per store: scores, differences, measures, calibration, notes."""
    return [_describe(probes, baseline=baseline) for probes in stores]


def headline_labels(scores: Sequence[Record]) -> dict[str, str]:
    """Return the label by which each task is summed up."""
    labels: dict[str, list[str]] = {}
    for score in scores:
        labels.setdefault(score["task"], []).append(score["label"])
    return {task: MACRO if MACRO in own else own[0] for task, own in labels.items()}


def _describe(probes: StoreProbes, *, baseline: str | None) -> Record:
    part: Record = {
        "store": probes.store,
        "protocol": _first_protocol(probes.protocols),
        "protocols": probes.protocols,
        "scores": probes.scores,
        "differences": [],
        "group_differences": [],
        "measures": [],
        "calibration": calibration_curves(probes.tables),
        "notes": list(probes.notes),
    }
    headline = headline_labels(probes.scores)
    for label, runs in probes.runs.items():
        part["measures"] += measures_of(label, runs, headline)
    if baseline in probes.tables:
        for label in probes.tables:
            if label != baseline:
                _compare(part, probes, label, baseline)
    return part


def _first_protocol(protocols: Mapping[str, Record]) -> Record:
    """Return how the first probed encoder was judged, or the first of all where none was probed.

    Runs come in the order in which they began, to the second, which alone must not decide between the two.
    """
    return next((one for one in protocols.values() if not is_fine_tuning(one)), next(iter(protocols.values())))


def _compare(part: Record, probes: StoreProbes, label: str, baseline: str) -> None:
    """Add the differences of one encoder to the baseline."""
    names = {"encoder": label, "baseline": baseline}
    groups = {score["task"]: score["group"] for score in part["scores"]}
    try:
        asked, scorer = probes.group_scores.questions, probes.group_scores.scorer
        rows = compare_questions(asked[label], asked[baseline], scorer=scorer).to_dict("records")
    except PacxError as error:
        part["notes"].append(f"{label} could not be compared with {baseline}: {error}")
        log.warning("report: %s could not be compared with %s: %s", label, baseline, error)
        return
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        part["notes"].append(f"{label} (first) against {baseline} (second): {note}")
    part["differences"] += [{**names, "group": groups.get(row["task"], ""), **row} for row in rows]
    headline = headline_labels(part["scores"])
    defined = [row for row in rows if row["label"] == headline[row["task"]] and np.isfinite(row["difference"])]
    keys: dict[tuple[str, float], list[str]] = {}
    for row in defined:
        keys.setdefault((groups.get(row["task"], ""), row["fraction"]), []).append(row["task"])
    for (group, fraction), tasks in keys.items():
        stands = {task: headline[task] for task in tasks}
        found = probes.group_scores.difference(label, baseline, stands, fraction=fraction)
        part["group_differences"].append({**names, "group": group, "fraction": fraction, **found})
    own = [row for row in part["group_differences"] if row["encoder"] == label]
    for row, adjusted in zip(own, holm([row["p_value"] for row in own]), strict=True):
        row["p_holm"] = float(adjusted)


def _summary(run: Run) -> list[Record]:
    """The mean over seeds of each question; runs without it give their first seed."""
    rows = run.results.get("summary")
    if rows is None:
        scores = run.results.get("scores", [])
        first = min((row["seed"] for row in scores), default=0)
        rows = [row for row in scores if row["seed"] == first]
    return [{"notes": [], "group": "", **row} for row in rows]


def _free_label(run: Run, rows: Sequence[Record], found: StoreProbes) -> str:
    """The encoder's label, with the run's folder added if it is taken.

    It is taken if another run answers one of the same questions under it, or if one of the two was fine-tuned.
    """
    label = encoder_label(run)
    questions_of = {(row["task"], row["label"], row["fraction"]) for row in rows}
    clash = any(
        score["encoder"] == label and (score["task"], score["label"], score["fraction"]) in questions_of
        for score in found.scores
    )
    tuned = is_fine_tuning(run.results.get("protocol"))
    clash = clash or any(is_fine_tuning(one.results.get("protocol")) != tuned for one in found.runs.get(label, []))
    return f"{label} ({run.name})" if clash else label
