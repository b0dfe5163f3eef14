"""The findings in short, computed from the numbers by fixed rules, whichever way they come out.

Which questions are summed up does not depend on the answers:

* encoders against the baseline: the mean difference on each group of tasks, at the smallest and the largest label
  fraction; negative controls (distilled from shuffled pairs) on the first group at the largest fraction alone;
* the baseline against fresh weights: the same, the first group at the largest fraction;
* segmentation (Dice) and attention inside the heart;
* retrieval of each teacher within the first ten, with the negative control beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.wording import decimal, interval, is_known, percent, share, verdict

__all__ = ["find_all"]

_GROUPS = ("physiology", "finding", "control")
_DIFFERENCE = {
    "higher": "higher",
    "lower": "lower",
    "unclear": "no clear difference",
    "unknown": "not defined on these data",
}
_CHANCE = {
    "higher": "above chance",
    "lower": "below chance",
    "unclear": "not told apart from chance",
    "unknown": "no interval",
}


def find_all(content: Mapping[str, Any]) -> list[Record]:
    """Sum up a report's numbers.

    Returns:
        A list of {topic, statement, kind, value, low, high, verdict, judgement}; kind is "auroc" or "dice" (paired
        differences), "points" (a paired difference of shares) or "share".
    """
    controls = {run["run"] for run in content["distillation"] if run.get("shuffled_teachers")}
    return [
        *_probes(content, controls),
        *_segmentation(content, controls),
        *_attention(content, controls),
        *_retrieval(content),
    ]


def _probes(content: Mapping[str, Any], controls: set[str]) -> Iterator[Record]:
    for part in content["probes"]:
        rows = part["group_differences"]
        groups = sorted({row["group"] for row in rows}, key=lambda name: (_rank(name), name))
        where = f" ({part['store']})" if len(content["probes"]) > 1 else ""
        for number, group in enumerate(groups):
            for kind in ("main", "control", "random"):
                own = [row for row in rows if row["group"] == group and _kind(row["encoder"], controls) == kind]
                if kind != "main" and number > 0:
                    continue
                ends = {row["fraction"] for row in own}
                ends = {min(ends), max(ends)} if kind == "main" and ends else {max(ends, default=None)}
                for row in own:
                    if row["fraction"] in ends:
                        yield _probe(row, where=where, kind=kind)


def _probe(row: Record, *, where: str, kind: str) -> Record:
    tasks = f"{len(row['tasks'])} {row['group']} task{'s' if len(row['tasks']) != 1 else ''}".replace("  ", " ")
    ours, theirs = display_name(row["encoder"]), display_name(row["baseline"])
    topic = f"{row['group'] or 'all'} tasks, {share(row['fraction'])} of the labels"
    if kind == "random":
        row, ours, theirs, topic = _turned(row), theirs, ours, f"pre-training itself, {topic}"
    if kind == "control":
        ours, topic = f"{ours} (negative control: distilled from shuffled pairs)", f"shuffled teachers, {topic}"
    statement = (
        f"{ours} against {theirs} on {tasks}{where}: mean AUROC {decimal(row['value_a'])} against "
        f"{decimal(row['value_b'])}."
    )
    return _difference(topic, statement, row, kind="auroc")


def _segmentation(content: Mapping[str, Any], controls: set[str]) -> Iterator[Record]:
    for part in content["segmentation"]:
        for row in part["differences"]:
            if row["metric"] == "dice" and _kind(row["encoder"], controls) == "main":
                statement = (
                    f"{display_name(row['encoder'])} against {display_name(row['baseline'])}, {part['mask']} masks "
                    f"decoded from frozen features: mean Dice {decimal(row['value_a'])} against "
                    f"{decimal(row['value_b'])} on {row['num_images']} unseen images."
                )
                yield _difference(f"segmentation, {part['mask']}", statement, row, kind="dice")


def _attention(content: Mapping[str, Any], controls: set[str]) -> Iterator[Record]:
    for part in content["attention"]:
        for row in part["differences"]:
            if row["region"] == "heart" and _kind(row["encoder"], controls) == "main":
                statement = (
                    f"{display_name(row['encoder'])} puts {percent(row['value_a'])} of its attention inside the heart, "
                    f"{display_name(row['baseline'])} {percent(row['value_b'])}, on {row['num_images']} images."
                )
                yield _difference("attention on the heart", statement, row, kind="points")


def _retrieval(content: Mapping[str, Any]) -> Iterator[Record]:
    shuffled = [run for run in content["distillation"] if run.get("shuffled_teachers")]
    for run in content["distillation"]:
        for teacher, found in ({} if run in shuffled else run["teachers"]).items():
            way = found.get("image_to_teacher") or {}
            ten, chance = way.get("r10"), (way.get("chance") or {}).get("r10")
            if not ten or not is_known(ten.get("value")):
                continue
            statement = (
                f"{display_name(run['run'])}: an unseen X-ray finds its own {display_name(teacher)} embedding among "
                f"the ten nearest of {way.get('n')}; chance is {percent(chance)}."
            )
            for control in shuffled:
                other = ((control["teachers"].get(teacher) or {}).get("image_to_teacher") or {}).get("r10")
                if other:
                    shares = {key: 100 * other[key] for key in ("low", "high") if is_known(other.get(key))}
                    statement += (
                        f" Trained on shuffled pairs (negative control, {display_name(control['run'])}): "
                        f"{percent(other.get('value'))} {interval(shares, 1)}."
                    )
            shifted = _against(ten, chance)
            yield {
                "topic": f"Retrieval of the {display_name(teacher)} teacher",
                "statement": statement,
                "kind": "share",
                **{key: ten.get(key) for key in ("value", "low", "high")},
                "verdict": shifted,
                "judgement": _CHANCE[shifted],
            }


def _kind(encoder: str, controls: set[str]) -> str:
    stem = encoder.partition(" (")[0]
    return "random" if stem == "random" else "control" if stem in controls or "shuffled" in encoder else "main"


def _rank(group: str) -> int:
    return _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)


def _turned(row: Record) -> Record:
    """The same difference the other way round."""
    minus = {key: -row[key] if is_known(row[key]) else None for key in ("difference", "low", "high")}
    return {
        **row,
        "value_a": row["value_b"],
        "value_b": row["value_a"],
        "difference": minus["difference"],
        "low": minus["high"],
        "high": minus["low"],
    }


def _against(found: Record, chance: Any) -> str:
    if not (is_known(chance) and is_known(found.get("low")) and is_known(found.get("high"))):
        return "unknown"
    return verdict({"low": found["low"] - chance, "high": found["high"] - chance})


def _difference(topic: str, statement: str, row: Record, *, kind: str) -> Record:
    found = verdict(row)
    return {
        "topic": topic[:1].upper() + topic[1:],
        "statement": statement[:1].upper() + statement[1:],
        "kind": kind,
        "value": row["difference"],
        "low": row["low"],
        "high": row["high"],
        "verdict": found,
        "judgement": _DIFFERENCE[found],
    }
