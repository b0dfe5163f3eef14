"""Tables of the probes: arms, groups of tasks, all tasks, and ours beside the paper's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pacx.evaluation.reporting import arm_views
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.probes import DRAWS
from pacx.evaluation.reporting.tables import Cell, Table, difference_cell, number_cell, value_cell
from pacx.evaluation.reporting.views import Tones, group_table, probe_table
from pacx.evaluation.reporting.ways import classifiers, heading
from pacx.evaluation.reporting.wording import count, decimal, share, signed

__all__ = [
    "arms_table",
    "group_differences_table",
    "named",
    "probes_table",
    "published_table",
]

_MARKED = "● marks intervals that exclude 0."
_METRICS = {"auroc": "AUROC", "f1": "F1", "iou": "IoU", "dice": "Dice", "cosine": "centred cosine"}


def named(kind: str, store: str) -> str:
    """Make the name of a table."""
    return "-".join(filter(None, re.split(r"[^a-z0-9]+", f"{kind} {store}".lower())))


def arms_table(part: Mapping[str, Any], tones: Tones) -> Table:
    """Put one method per row."""
    return Table(
        named("arms", part["store"]),
        f"Arms side by side: {part['store']}",
        arm_views.explained(part, tones.name),
        arm_views.heads(part),
        arm_views.cells(part, tones.name),
        num_names=2,
    )


def group_differences_table(part: Record, tones: Tones) -> Table | None:
    """Average differences over groups of tasks; None without a baseline."""
    found = group_table(part, tones)
    if not found["rows"]:
        return None
    rows = [
        [
            Cell(row["group"], f"({row['num_tasks']})"),
            Cell(row["fraction"]),
            number_cell(row["baseline_value"]),
            *(difference_cell(one) for one in row["differences"]),
        ]
        for row in found["rows"]
    ]
    return Table(
        named("groups", part["store"]),
        f"{heading([part])} by group of tasks: {part['store']}",
        f"Mean AUROC of {found['baseline']} over each group of tasks, and by how much the other encoders differ from "
        f"it (paired); p: adjusted (Holm) over the rows of an encoder. {_MARKED}",
        ["tasks", "labels", found["baseline"], *(one["name"] for one in found["compared"])],
        rows,
        num_names=2,
    )


def probes_table(part: Record, tones: Tones) -> Table:
    """List all labels and fractions: encoders, then differences to the baseline."""
    found = probe_table(part, tones)
    rows, notes = [], list(part["notes"])
    for row in found["rows"]:
        positives = row["num_train_positives"]
        detail = "" if positives is None else f"({count(positives)} pos.)"
        names = [Cell(row["task"], row["label"]), Cell(row["fraction"], detail)]
        differences = [difference_cell(one) for one in row["differences"]]
        rows.append([*names, *(value_cell(one) for one in row["cells"]), *differences])
        if row["notes"]:
            label = f" {row['label']}" if row["label"] else ""
            notes.append(f"{row['task']}{label}, {row['fraction']}: {'; '.join(row['notes'])}.")
    notes += _multiplicity(part, tones)
    return Table(
        named("probes", part["store"]),
        f"{heading([part])}: {part['store']}",
        f"AUROC of {classifiers(part)} with patient-level 95 % interval; differences are paired. –: not defined, for "
        f"the reason given below. {_MARKED}",
        [
            "task",
            "labels",
            *(one["name"] for one in found["encoders"]),
            *(f"{one['name']}: difference" for one in found["compared"]),
        ],
        rows,
        num_names=2,
        notes=notes,
    )


def _multiplicity(part: Record, tones: Tones) -> list[str]:
    """Say over which family p-values were adjusted."""
    by_encoder: dict[str, int] = {}
    for row in part["differences"]:
        by_encoder[row["encoder"]] = by_encoder.get(row["encoder"], 0) + (row.get("p_holm") is not None)
    if not any(by_encoder.values()):
        return []
    families = ", ".join(f"{by_encoder[label]} of {tones.name(label)}" for label in tones.sort(by_encoder))
    most = max(by_encoder.values())
    least = 2 * most / (DRAWS + 1)
    text = (
        f"p: two-sided bootstrap p-value, adjusted (Holm) over all questions of an encoder's column ({families}); "
        "intervals are not adjusted, so of twenty true zeros about one excludes 0."
    )
    if least > 0.05:
        text += f" With {count(DRAWS)} draws and {most} questions no adjusted p can fall below {least:.2g}."
    return [text]


def published_table(published: Sequence[Record], tones: Tones) -> Table | None:
    """Set ours beside the paper's; None if nothing matches."""
    if not published:
        return None
    words = {True: "inside", False: "outside", None: "–"}
    rows = [
        [
            Cell(row["data_set"], _which(row)),
            Cell(tones.name(row["encoder"])),
            Cell(_METRICS[row["metric"]], "" if row["fraction"] == 1 else f"{share(row['fraction'])} of labels"),
            Cell(decimal(row["published"]), f"±{row['tolerance']:g}, {row['source']}"),
            value_cell(row),
            Cell(signed(row["difference"])),
            Cell(words[row["inside"]], row["note"]),
        ]
        for row in published
    ]
    return Table(
        "published",
        "Beside the paper",
        "Ours beside the numbers of the paper (arXiv 2606.01537), on stores and tasks named like its data sets. Last "
        "column: whether the published number lies in our 95 % interval. Splits and label sets may differ from those "
        "of the authors, who report one seed and no intervals.",
        ["data set", "encoder", "measure", "published", "ours", "difference", "in our interval"],
        rows,
        num_names=3,
    )


def _which(row: Record) -> str:
    """Say which teacher of a data set, and which split or folds of it."""
    part = row["store"].partition(" (")[2].rstrip(")")
    return ", ".join(filter(None, [row["teacher"], part]))
