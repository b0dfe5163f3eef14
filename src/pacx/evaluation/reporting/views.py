"""Charts and tables of what encoders were judged by, made from the content of `report.json`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from pacx.evaluation.reporting.charts import Mark, Series, curves, nice_scale
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.forests import Forest, Row, difference_mark, mark, number
from pacx.evaluation.reporting.probes import headline_labels
from pacx.evaluation.reporting.ways import classifiers, fine_tuned, is_mixed, mark_fine_tuned
from pacx.evaluation.reporting.wording import count, decimal, judged_images, percent, share
from pacx.scoring import MACRO

__all__ = [
    "Panel",
    "Tones",
    "alignment_forests",
    "attention_forest",
    "efficiency_panels",
    "group_table",
    "probe_forests",
    "probe_table",
    "readable",
    "segmentation_forest",
]

_ACRONYMS = {
    "lvh": "LVH", "copd": "COPD", "crp": "CRP", "icu": "ICU", "ldh": "LDH", "ecg": "ECG",
    "po2": "pO2", "ap": "AP", "pa": "PA", "lbbb": "LBBB", "rbbb": "RBBB", "st": "ST",
}  # fmt: skip
_GROUPS = ("physiology", "finding", "control")


class Panel(NamedTuple):
    """One of several small charts."""

    title: str
    detail: str
    chart: Markup


class Tones:
    """How each encoder is drawn and called; in the order of the page's legend."""

    def __init__(self, encoders: Iterable[Mapping[str, Any]]) -> None:
        self.by_label = {one["label"]: one for one in encoders}

    def tone(self, label: str) -> str:
        """Return the class of an encoder's marks."""
        return str(self.by_label[label]["tone"]) if label in self.by_label else "plain"

    def name(self, label: str) -> str:
        """Return an encoder's name."""
        return str(self.by_label[label]["name"]) if label in self.by_label else display_name(label)

    def within(self, part: Mapping[str, Any]) -> Tones:
        """Return the names as they are written in a part: fine-tuned encoders are marked beside probed ones."""
        marked = fine_tuned(part) if is_mixed(part) else set()
        return Tones(
            {**one, "name": mark_fine_tuned(one["name"])} if label in marked else one
            for label, one in self.by_label.items()
        )

    def sort(self, labels: Iterable[str]) -> list[str]:
        """Sort labels as in the legend."""
        order = list(self.by_label)
        return sorted(set(labels), key=lambda label: (order.index(label) if label in order else len(order), label))


def readable(name: str) -> str:
    """Turn a column name into words: lvh_or_dilation becomes LVH or dilation."""
    words = [_ACRONYMS.get(word.lower(), word) for word in name.replace("_", " ").split()]
    text = " ".join(words)
    return text[:1].upper() + text[1:] if words and words[0].lower() not in _ACRONYMS else text


def probe_forests(part: Record, tones: Tones) -> list[Forest]:
    """Make one chart per label fraction, tasks in groups."""
    return [
        Forest(
            caption=(
                f"{share(fraction)} of the training labels: AUROC of {classifiers(part)}, and the paired difference to "
                "the baseline. Bars are patient-level 95 % intervals; hollow markers: the interval includes 0."
            ),
            groups=[(group, _probe_rows(part, group, fraction, tones)) for group in _groups(part)],
            value_title="AUROC (dashed: chance)",
            difference_title=_difference_title(part, tones),
            include=(0.5, *_ends(part["scores"], ("value", "low", "high"))),
            include_differences=_ends(part["differences"], ("difference", "low", "high")),
        )
        for fraction in _fractions(part)
    ]


def _probe_rows(part: Record, group: str, fraction: float, tones: Tones) -> list[Row]:
    rows = []
    for task, label in headline_labels(part["scores"]).items():
        own = _at(part["scores"], task=task, label=label, fraction=fraction, group=group)
        if not own:
            continue
        differences = _at(part["differences"], task=task, label=label, fraction=fraction)
        by_encoder = {score["encoder"]: score for score in own}
        labels = tones.sort(by_encoder)
        rows.append(
            Row(
                readable(task),
                _test_size(own[0]),
                tuple(mark(tones.tone(one), tones.name(one), by_encoder[one]) for one in labels),
                _difference_marks(differences, labels, tones),
                reference=0.5,
                absent="; ".join(sorted({note for score in own for note in score.get("notes") or []})),
            )
        )
    return rows


def _test_size(score: Record) -> str:
    mean = ", mean over labels" if score["label"] == MACRO else ""
    return f"{count(score.get('positives'))} positive of {count(score.get('num_test'))}{mean}"


def _difference_marks(rows: list[Record], labels: Iterable[str], tones: Tones) -> tuple[Mark | None, ...]:
    """Marks in the lines of their encoders; the baseline's own line stays empty."""
    by_encoder = {row["encoder"]: row for row in rows}
    if not by_encoder:
        return ()
    return tuple(
        difference_mark(tones.tone(one), tones.name(one), by_encoder[one]) if one in by_encoder else None
        for one in labels
    )


def group_table(part: Record, tones: Tones) -> Record:
    """Make the table of mean differences by group and label fraction: a column for each encoder.

    Returns:
        baseline and compared (names), and rows with group, num_tasks, fraction, baseline_value, differences.
    """
    compared = tones.sort(row["encoder"] for row in part["group_differences"])
    rows = []
    for group in _groups(part):
        for fraction in _fractions(part):
            own = {row["encoder"]: row for row in _at(part["group_differences"], group=group, fraction=fraction)}
            if own:
                first = next(iter(own.values()))
                rows.append(
                    {
                        "group": readable(group or "all"),
                        "num_tasks": len(first["tasks"]),
                        "fraction": share(fraction),
                        "baseline_value": first["value_b"],
                        "differences": [own.get(one) for one in compared],
                    }
                )
    baseline = part["group_differences"][0]["baseline"] if rows else ""
    return {"baseline": tones.name(baseline), "compared": [tones.by_label[one] for one in compared], "rows": rows}


def probe_table(part: Record, tones: Tones) -> Record:
    """Make the table of all labels and fractions: columns are encoders, then differences.

    Returns:
        encoders and compared (names), and rows with task, label, fraction, num_train_positives, cells, differences,
        notes.
    """
    encoders = tones.sort(score["encoder"] for score in part["scores"])
    compared = tones.sort(row["encoder"] for row in part["differences"])
    keys = dict.fromkeys((row["task"], row["label"], row["fraction"]) for row in part["scores"])
    rows = []
    for task, label, fraction in keys:
        own = {row["encoder"]: row for row in _at(part["scores"], task=task, label=label, fraction=fraction)}
        different = {row["encoder"]: row for row in _at(part["differences"], task=task, label=label, fraction=fraction)}
        first = next(iter(own.values()))
        rows.append(
            {
                "task": readable(task),
                "label": "mean over labels" if label == MACRO else readable(label) if label != task else "",
                "group": first["group"],
                "fraction": share(fraction),
                "num_train_positives": first.get("num_train_positives"),
                "cells": [own.get(one) for one in encoders],
                "differences": [different.get(one) for one in compared],
                "notes": sorted({note for row in own.values() for note in row.get("notes") or []}),
            }
        )
    return {
        "encoders": [tones.by_label[one] for one in encoders],
        "compared": [tones.by_label[one] for one in compared],
        "rows": rows,
    }


def efficiency_panels(part: Record, tones: Tones) -> list[Panel]:
    """Make one small chart per task: AUROC over the label fraction, on a logarithmic scale."""
    fractions = _fractions(part)
    if len(fractions) < 2:
        return []
    headline = headline_labels(part["scores"])
    shown = [score for score in part["scores"] if score["label"] == headline[score["task"]]]
    y = nice_scale([number(score[key]) for score in shown for key in ("value", "low", "high")], include=(0.5,))
    ticks = [(math.log10(fraction), share(fraction)) for fraction in fractions]
    panels = []
    for group in _groups(part):
        for task in headline:
            own = _at(shown, task=task, group=group)
            series = [
                Series(tones.tone(label), tones.name(label), _points(_at(own, encoder=label)))
                for label in tones.sort(score["encoder"] for score in own)
            ]
            words = "; ".join(
                f"{one.name}: {', '.join(decimal(value) for _, value, _, _ in one.points)}" for one in series
            )
            label = f"AUROC of {readable(task)} at {', '.join(text for _, text in ticks)} of labels. {words}"
            chart = curves(series, ticks, y=y, write=lambda tick: f"{tick:g}", label=label, reference=0.5)
            if series:
                panels.append(Panel(readable(task), group, chart))
    return panels


def _points(scores: list[Record]) -> tuple[tuple[float, float | None, float | None, float | None], ...]:
    ordered = sorted(scores, key=lambda score: score["fraction"])
    return tuple(
        (math.log10(score["fraction"]), number(score["value"]), number(score["low"]), number(score["high"]))
        for score in ordered
    )


def alignment_forests(part: Record, tones: Tones) -> list[Forest]:
    """Make the charts of the read-out: centred cosine, and retrieval within the first ten."""
    teachers = list(dict.fromkeys(name for one in part["encoders"] for name in one["teachers"]))
    labels = tones.sort(one["encoder"] for one in part["encoders"])
    by_encoder = {one["encoder"]: one["teachers"] for one in part["encoders"]}
    cosine, found = [], []
    for teacher in teachers:
        numbers = {label: by_encoder[label][teacher] for label in labels if teacher in by_encoder[label]}
        size = f"{count(next(iter(numbers.values())).get('n_test'))} unseen X-rays"
        different = _at(part["differences"], teacher=teacher)
        cosine.append(
            Row(
                display_name(teacher),
                size,
                tuple(mark(tones.tone(x), tones.name(x), own.get("cosine_centred")) for x, own in numbers.items()),
                _difference_marks(_at(different, metric="cosine_centred"), labels, tones),
                reference=number(next(iter(numbers.values())).get("random_pair_cosine_centred")),
            )
        )
        ways = {one: (own.get("retrieval") or {}).get("image_to_teacher") or {} for one, own in numbers.items()}
        found.append(
            Row(
                display_name(teacher),
                size,
                tuple(mark(tones.tone(one), tones.name(one), way.get("r10")) for one, way in ways.items()),
                _difference_marks(_at(different, metric="r10"), labels, tones),
                reference=number((next(iter(ways.values())).get("chance") or {}).get("r10")),
            )
        )
    title = _difference_title(part, tones)
    return [
        Forest(
            caption="How close the embedding read off the X-ray comes to the teacher's own (centred cosine).",
            groups=[("", cosine)],
            value_title="centred cosine (dashed: other patients)",
            difference_title=title,
            include=(0.0,),
        ),
        Forest(
            caption="How often the teacher's embedding of the same patient is among the ten nearest (R@10).",
            groups=[("", found)],
            value_title="R@10 (dashed: chance)",
            difference_title=_difference_title(part, tones, unit=", points"),
            include=(0.0,),
            percent=True,
        ),
    ]


def attention_forest(part: Record, tones: Tones) -> Forest | None:
    """Make the chart of attention by region, or None where the store has no masks."""
    regions = list(dict.fromkeys(region for one in part["encoders"] for region in one.get("mass") or {}))
    labels = tones.sort(one["encoder"] for one in part["encoders"])
    by_encoder = {one["encoder"]: one for one in part["encoders"]}
    rows = []
    for region in regions:
        area = next(((one["area"] or {}).get(region) for one in part["encoders"] if one.get("area")), None)
        marks = (
            mark(tones.tone(one), tones.name(one), (by_encoder[one].get("mass") or {}).get(region)) for one in labels
        )
        rows.append(
            Row(
                readable(region),
                f"{percent(area)} of the image",
                tuple(marks),
                _difference_marks(_at(part["differences"], region=region), labels, tones),
                reference=number(area),
            )
        )
    if not rows:
        return None
    return Forest(
        caption="Share of attention inside each region; the dashed line is the region's share of the image.",
        groups=[("", rows)],
        value_title="share of attention (dashed: share of area)",
        difference_title=_difference_title(part, tones, unit=", points"),
        include=(0.0,),
        percent=True,
    )


def segmentation_forest(part: Record, tones: Tones) -> Forest:
    """Make the chart of Dice and IoU."""
    labels = tones.sort(one["encoder"] for one in part["encoders"])
    by_encoder = {one["encoder"]: one for one in part["encoders"]}
    first = part["encoders"][0]
    size = f"{count(first.get('num_test'))} {judged_images(first.get('split'))}"
    rows = [
        Row(
            title,
            size,
            tuple(mark(tones.tone(one), tones.name(one), by_encoder[one].get(metric)) for one in labels),
            _difference_marks(_at(part["differences"], metric=metric), labels, tones),
        )
        for metric, title in (("dice", "Dice"), ("iou", "IoU"))
    ]
    return Forest(
        caption=(
            f"Overlap of predicted and true {part['mask']} masks on {judged_images(first.get('split'))}; "
            "per image, 1 = perfect."
        ),
        groups=[("", rows)],
        value_title="overlap",
        difference_title=_difference_title(part, tones),
    )


def _difference_title(part: Record, tones: Tones, *, unit: str = "") -> str:
    baselines = {row["baseline"] for row in part["differences"]}
    return f"difference to {tones.name(next(iter(baselines)))}{unit}" if baselines else ""


def _ends(rows: Iterable[Record], keys: Iterable[str]) -> tuple[float, ...]:
    return tuple(value for row in rows for key in keys if (value := number(row[key])) is not None)


def _fractions(part: Record) -> list[float]:
    return sorted({score["fraction"] for score in part["scores"]})


def _groups(part: Record) -> list[str]:
    found = dict.fromkeys(score["group"] for score in part["scores"])
    return [group for group in _GROUPS if group in found] + [group for group in found if group not in _GROUPS]


def _at(rows: Iterable[Record], **wanted: object) -> list[Record]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
