"""Tables of alignment, attention, segmentation and predicted physiology: encoders side by side, then differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.probe_tables import named
from pacx.evaluation.reporting.tables import Cell, Table, difference_cell, number_cell, value_cell
from pacx.evaluation.reporting.views import Tones, readable
from pacx.evaluation.reporting.wording import judged_images, percent, points

__all__ = ["alignment_table", "attention_table", "faithfulness_table", "physiology_table", "segmentation_table"]

_MARKED = "Differences are paired; ● marks intervals that exclude 0."
_OVERLAP = {"dice": "Dice", "iou": "IoU"}
_DISTANCE = {"surface_distance": "surface distance, px", "hausdorff_95": "Hausdorff distance (95 %), px"}


def alignment_table(part: Record, tones: Tones) -> Table:
    """Show the read-out of each teacher off each encoder, with its negative control."""
    rows = []
    for one in part["encoders"]:
        for teacher, found in one["teachers"].items():
            way, other = _way(found), found.get("shuffled") or {}
            rows.append(
                [
                    Cell(display_name(teacher)),
                    Cell(tones.name(one["encoder"])),
                    number_cell(_bare(found.get("r2"))),
                    value_cell(found.get("cosine_centred")),
                    *(value_cell(way.get(k)) for k in ("r1", "r5", "r10")),
                    value_cell(other.get("cosine_centred")),
                    value_cell(_way(other).get("r10")),
                ]
            )
    return Table(
        named("alignment", part["store"]),
        f"Alignment: {part['store']}",
        f"{_fitted(part)} R@k is from X-ray to teacher. R² 0 is what predicting the training mean scores. "
        "“Shuffled” repeats everything after dealing the embeddings of the teacher out anew: it must fall to chance, "
        "else the evaluation leaks.",
        ["teacher", "encoder", "R²", "centred cosine", "R@1", "R@5", "R@10", "shuffled: cosine", "shuffled: R@10"],
        rows,
        num_names=2,
        notes=part["notes"],
    )


def _fitted(part: Record) -> str:
    """Say by which protocol the read-out was fitted, and on whom."""
    protocols = [one["protocol"] for one in part["encoders"] if one.get("protocol")]
    if not protocols:
        return "The read-out in numbers."
    words = []
    for name, rows in dict.fromkeys((one["name"], one["fit_on"]) for one in protocols):
        if name == "paper":
            words.append("as published: penalty 10, fitted on the training rows, centred on the test rows")
        else:
            words.append(f"honest: fitted on {'validation' if rows == 'val' else 'training'} rows, centred on those")
    return f"The read-out in numbers ({'; '.join(words)})."


def _way(found: Mapping[str, Any]) -> Mapping[str, Any]:
    return (found.get("retrieval") or {}).get("image_to_teacher") or {}


def _bare(found: Any) -> Any:
    return found.get("value") if isinstance(found, Mapping) else found


def attention_table(part: Record, tones: Tones) -> Table | None:
    """Show the share of attention by region, in percent; None where the store has no masks."""
    regions = list(dict.fromkeys(region for one in part["encoders"] for region in one.get("mass") or {}))

    def value(entry: Record, region: str) -> Cell:
        found = (entry.get("mass") or {}).get(region)
        return Cell(percent(found["value"]), points(found, sign=False)) if found else Cell("–")

    return _side_by_side(
        part,
        tones,
        kind="attention",
        names={region: readable(region) for region in regions},
        caption=f"Share of attention inside each region; differences in percentage points. {_MARKED}",
        value=value,
        differs=lambda row, region: row["region"] == region,
        factor=100.0,
    )


def faithfulness_table(part: Record, tones: Tones) -> Table | None:
    """Show the areas of deletion and insertion curves; None where no head was asked."""
    judged = [one for one in part["encoders"] if one.get("faithfulness")]
    if not judged:
        return None
    about = dict.fromkeys(str((one.get("head") or {}).get("task")) for one in judged)
    return _side_by_side(
        {**part, "encoders": judged, "differences": part["faithfulness_differences"]},
        tones,
        kind="faithfulness",
        names=_AREAS,
        caption=(
            f"Area under the probability of {', '.join(map(readable, about))} against the share of patches removed "
            f"(deletion) or inserted. A gain is over the random order of the same encoder and head. {_MARKED}"
        ),
        value=lambda entry, key: value_cell(entry["faithfulness"].get(key)),
        differs=lambda row, key: row["metric"] == key,
    )


_AREAS = {
    "deletion": "deletion (low is good)",
    "insertion": "insertion (high is good)",
    "random": "random order",
    "deletion_gain": "deletion: gain over random",
    "insertion_gain": "insertion: gain over random",
}


def segmentation_table(part: Record, tones: Tones) -> Table | None:
    """Show overlap and distance of predicted and true masks."""
    names = _OVERLAP | _DISTANCE
    known = {metric: name for metric, name in names.items() if any(one.get(metric) for one in part["encoders"])}
    return _side_by_side(
        part,
        tones,
        kind=f"segmentation {part['mask']}",
        names=known,
        caption=(
            f"Predicted and true {part['mask']} masks on {judged_images(part['encoders'][0].get('split'))}; per image: "
            f"overlap, 1 = perfect, or distance. {_MARKED}"
        ),
        value=lambda entry, metric: value_cell(entry.get(metric), 3 if metric in _OVERLAP else 2),
        differs=lambda row, metric: row["metric"] == metric,
    )


def physiology_table(part: Record, tones: Tones) -> Table | None:
    """Show the rank correlation of read-off and measured laboratory values."""
    labs = list(dict.fromkeys(lab["lab"] for one in part["encoders"] for lab in one["labs"]))
    by_encoder = {one["encoder"]: {lab["lab"]: lab for lab in one["labs"]} for one in part["encoders"]}
    return _side_by_side(
        part,
        tones,
        kind="physiology",
        names={lab: readable(lab) for lab in labs},
        caption=f"Rank correlation (Spearman) of laboratory values read off the X-ray and measured ones. {_MARKED}",
        value=lambda entry, lab: value_cell((by_encoder[entry["encoder"]].get(lab) or {}).get("spearman")),
        differs=lambda row, lab: row["lab"] == lab and row["metric"] == "spearman",
    )


def _side_by_side(
    part: Record,
    tones: Tones,
    *,
    kind: str,
    names: Mapping[str, str],
    caption: str,
    value: Callable[[Record, str], Cell],
    differs: Callable[[Record, str], bool],
    factor: float = 1.0,
) -> Table | None:
    """One row per thing that was measured: encoders in the order of the legend, then differences to the baseline."""
    if not names:
        return None
    entries = {one["encoder"]: one for one in part["encoders"]}
    labels, compared = tones.sort(entries), tones.sort(row["encoder"] for row in part["differences"])
    rows = []
    for key, name in names.items():
        different = {row["encoder"]: row for row in part["differences"] if differs(row, key)}
        digits = 1 if factor == 100.0 else 3
        differences = [difference_cell(different.get(one), digits, factor=factor) for one in compared]
        rows.append([Cell(name), *(value(entries[one], key) for one in labels), *differences])
    heads = [tones.name(one) for one in labels] + [f"{tones.name(one)}: difference" for one in compared]
    section = f"{readable(kind)}: {part['store']}"
    return Table(named(kind, part["store"]), section, caption, ["", *heads], rows, notes=part["notes"])
