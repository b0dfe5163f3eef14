"""Ours beside the paper's: every number of the report that the paper reports too (`pacx.evaluation.paper`).

An entry says by how much ours differs and whether the published number, as exactly as it is known, lies in our 95 %
interval. Nothing is matched on stores and tasks of other names, such as simulated ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pacx.evaluation.paper import Metric, Published, data_set_of, encoder_of, of_data_set
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.forests import number
from pacx.evaluation.reporting.probes import headline_labels
from pacx.evaluation.reporting.ways import fine_tuned
from pacx.evaluation.reporting.wording import is_known, judged_images
from pacx.scoring import MACRO

__all__ = ["published_part"]


def published_part(content: Mapping[str, Any]) -> list[Record]:
    """Set the report's numbers beside the paper's.

    Args:
        content: the parts `probes`, `segmentation` and `alignment` of `report.json`.

    Returns:
        Entries of data_set, store, encoder, metric, fraction, teacher, published, tolerance, source, value, low, high,
        difference (ours minus the paper's), inside (None without an interval), note.
    """
    return [
        *(row for part in content["probes"] for row in _probes(part)),
        *(row for part in content["segmentation"] for row in _segmentation(part)),
        *(row for part in content["alignment"] for row in _alignment(part)),
    ]


def _probes(part: Record) -> Iterator[Record]:
    headline = headline_labels(part["scores"])
    tuned = fine_tuned(part)
    for task, label in headline.items():
        data_set = _data_set(part["store"], task, alone=len(headline) == 1)
        for one in of_data_set(data_set) if data_set else ():
            if one.metric == "auroc":
                yield from _matched(one, part["store"], _told(_at(part["scores"], task, label, one.fraction), tuned))
            elif one.metric == "f1":
                yield from _matched(one, part["store"], _told(_f1(part, task, label, one.fraction), tuned))


def _told(rows: Iterable[Record], tuned: set[str]) -> list[Record]:
    """Say of fine-tuned encoders that the paper's were not."""
    return [{**row, "note": "fine-tuned, not a linear probe"} if row["encoder"] in tuned else row for row in rows]


def _data_set(store: str, task: str, *, alone: bool) -> str | None:
    """Tell the data set from the task's name; from the store's if it has no other task."""
    return data_set_of(task) or (data_set_of(_stem(store)) if alone else None)


def _stem(store: str) -> str:
    """Leave out what a report adds to a store's name: its split, its folds."""
    return store.partition(" (")[0]


def _at(rows: Iterable[Record], task: str, label: str, fraction: float) -> list[Record]:
    return [row for row in rows if (row["task"], row["label"], row["fraction"]) == (task, label, fraction)]


def _f1(part: Record, task: str, label: str, fraction: float) -> list[Record]:
    """F1 as published: at .5, of classes that of the highest score."""
    rows = [row for row in _at(part["measures"], task, label, fraction) if not row["subgroup_kind"]]
    rows = [row for row in rows if row["metric"] == "f1" and row["output"] in {MACRO, label}]
    classes = [row for row in rows if row["rule"] == "argmax"]
    return classes or [row for row in rows if row["rule"] == "half"]


def _segmentation(part: Record) -> Iterator[Record]:
    metrics: tuple[Metric, Metric] = ("iou", "dice")
    data_set = data_set_of(_stem(part["store"])) or data_set_of(part["mask"])
    for one in of_data_set(data_set) if data_set else ():
        if one.metric in metrics:
            rows = []
            for entry in part["encoders"]:
                pooled = (entry.get("published") or {}).get(one.metric)
                note = f"per image; pooled as published {pooled:.3f}" if is_known(pooled) else "per image, not pooled"
                note += "" if entry.get("split") in {"test", None} else f", on {judged_images(entry.get('split'))}"
                rows.append({"encoder": entry["encoder"], **(entry.get(one.metric) or {}), "note": note})
            yield from _matched(one, part["store"], rows)


def _alignment(part: Record) -> Iterator[Record]:
    data_set = data_set_of(_stem(part["store"]))
    for one in of_data_set(data_set, source="alignment") if data_set else ():
        rows = [
            {"encoder": entry["encoder"], **(found.get("cosine_centred") or {})}
            for entry in part["encoders"]
            for teacher, found in entry["teachers"].items()
            if teacher == one.teacher
        ]
        yield from _matched(one, part["store"], rows)


def _matched(one: Published, store: str, rows: Iterable[Record]) -> Iterator[Record]:
    for row in rows:
        stem, _, _ = row["encoder"].partition(" (")
        if encoder_of(stem) == one.encoder and is_known(row.get("value")):
            low, high = number(row.get("low")), number(row.get("high"))
            inside = None
            if low is not None and high is not None:
                inside = low - one.tolerance <= one.value <= high + one.tolerance
            yield {
                "data_set": one.data_set,
                "store": store,
                "encoder": row["encoder"],
                "metric": one.metric,
                "fraction": one.fraction,
                "teacher": one.teacher,
                "published": one.value,
                "tolerance": one.tolerance,
                "source": one.source,
                "value": row["value"],
                "low": low,
                "high": high,
                "difference": row["value"] - one.value,
                "inside": inside,
                "note": row.get("note") or "",
            }
