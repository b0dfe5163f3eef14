"""Predicted physiology in the report: labs read off X-rays, encoders side by side, with paired differences.

* One entry per store. A pool over folds counts as one encoder, and the runs that it joins are not shown beside it.
* The heads of a distillation are listed as an encoder of their own, "pacx (heads)": they had no ridge regression.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from pacx.errors import PacxError
from pacx.evaluation.lab_scores import METRICS, compare_physiology
from pacx.evaluation.reporting.collect import Record, Run, judged_by
from pacx.evaluation.reporting.encoders import describe_encoders, encoder_label, store_key, store_name
from pacx.evaluation.reporting.forests import Forest, Row, difference_mark, mark, number
from pacx.evaluation.reporting.views import Tones, readable
from pacx.evaluation.reporting.wording import count

__all__ = ["embedding_rows", "lab_forest", "physiology_label", "physiology_part", "shown_physiology"]

log = logging.getLogger("pacx")

_TITLES = {
    "spearman": ("rank correlation (dashed: 0)", "How well each lab's order is told from the X-ray (Spearman)."),
    "skill": ("skill (dashed: the training mean)", "How much of the squared error of the training mean is taken away."),
}


def shown_physiology(runs: Sequence[Run]) -> list[Run]:
    """Pick physiology runs and pools of them, without the runs that a pool among them stands for."""
    return judged_by(runs, "physiology")


def physiology_label(run: Run) -> str:
    """Return the label of the encoder, with its read-out where that is not the ridge."""
    read_out = run.results.get("read_out")
    return encoder_label(run) + (f" ({read_out})" if read_out not in {None, "ridge"} else "")


def physiology_part(runs: Sequence[Run], *, baseline: str | None) -> list[Record]:
    """Describe physiology runs, one entry per store: encoders with their labs, differences to the baseline."""
    by_store: dict[str, list[Run]] = {}
    for run in shown_physiology(runs):
        by_store.setdefault(store_key(run), []).append(run)
    return [_describe(own, baseline=baseline) for own in by_store.values()]


def _describe(runs: Sequence[Run], *, baseline: str | None) -> Record:
    labels: dict[str, Run] = {}
    for run in runs:
        label = physiology_label(run)
        labels[f"{label} ({run.name})" if label in labels else label] = run
    labels = {one["label"]: labels[one["label"]] for one in describe_encoders(labels)}
    part: Record = {
        "store": store_name(runs[0]),
        "encoders": [{"encoder": label, "run": run.name, **_entry(run)} for label, run in labels.items()],
        "differences": [],
        "notes": [],
    }
    tables = {label: _predictions(run) for label, run in labels.items()}
    reference = tables.get(baseline or "")
    for label, own in tables.items():
        if label == baseline or own is None or reference is None:
            continue
        try:
            rows = compare_physiology(own, reference).to_dict("records")
        except PacxError as error:
            part["notes"].append(f"{label} could not be compared with {baseline}: {error}")
            log.warning("report: %s could not be compared with %s: %s", label, baseline, error)
            continue
        part["differences"] += [{"encoder": label, "baseline": baseline, **row} for row in rows]
    return part


def _entry(run: Run) -> Record:
    keys = ("lab", "n", "num_patients", "few", *METRICS)
    labs = [{key: lab.get(key) for key in keys} for lab in run.results.get("labs") or []]
    facts = {key: run.results.get(key) for key in ("read_out", "share_above_zero", "num_labs")}
    return {**facts, "labs": labs, "embeddings": run.results.get("embeddings") or {}}


def _predictions(run: Run) -> pd.DataFrame | None:
    path = run.artefact("predictions", "predictions.parquet")
    return None if path is None else pd.read_parquet(path)


def lab_forest(part: Record, tones: Tones, *, metric: str = "spearman") -> Forest:
    """Make the chart of one metric: a row per lab, the ones that are told best over all encoders on top."""
    labels = tones.sort(one["encoder"] for one in part["encoders"])
    by_encoder = {one["encoder"]: {lab["lab"]: lab for lab in one["labs"]} for one in part["encoders"]}
    different = {(row["encoder"], row["lab"]): row for row in part["differences"] if row["metric"] == metric}
    names = list(dict.fromkeys(name for labs in by_encoder.values() for name in labs))
    rows = []
    for name in sorted(names, key=lambda name: -_mean(by_encoder, name)):
        own = {label: by_encoder[label][name] for label in labels if name in by_encoder[label]}
        rows.append(
            Row(
                readable(name),
                _size(next(iter(own.values()))),
                tuple(mark(tones.tone(label), tones.name(label), lab[metric]) for label, lab in own.items()),
                tuple(
                    difference_mark(tones.tone(label), tones.name(label), different[label, name])
                    if (label, name) in different
                    else None
                    for label in own
                )
                if any((label, name) in different for label in own)
                else (),
                reference=0.0,
            )
        )
    baselines = {row["baseline"] for row in part["differences"]}
    value_title, caption = _TITLES[metric]
    return Forest(
        caption=caption,
        groups=[("", rows)],
        value_title=value_title,
        difference_title=f"difference to {tones.name(next(iter(baselines)))}" if baselines else "",
        include=(0.0,),
    )


def embedding_rows(part: Record) -> list[Record]:
    """List the embeddings that heads predicted: encoder, teacher, cosine, cosine_of_mean, difference, n_test."""
    return [
        {"encoder": one["encoder"], "teacher": teacher, **found}
        for one in part["encoders"]
        for teacher, found in one["embeddings"].items()
    ]


def _mean(by_encoder: dict[str, dict[str, Record]], name: str) -> float:
    values = [number((labs[name]["spearman"] or {}).get("value")) for labs in by_encoder.values() if name in labs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else -1.0


def _size(lab: Record) -> str:
    size = f"{count(lab['n'])} values of {count(lab['num_patients'])} patients"
    return f"{size}, too few to judge by" if lab["few"] else size
