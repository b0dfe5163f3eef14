"""The findings in short, computed from the numbers by fixed rules, whichever way they come out.

Which questions are summed up does not depend on the answers. Where there are more than two encoders beside the
baseline, fresh weights and negative controls, "pacx" alone speaks for them (all are in the table of arms):

* encoders against the baseline: the mean difference on each group of tasks, at the smallest and the largest label
  fraction; negative controls (distilled from shuffled pairs) on the first group at the largest fraction alone;
* the baseline against fresh weights: the same, the first group at the largest fraction;
* segmentation (Dice) and attention inside the heart;
* retrieval of each teacher within the first ten, with the negative control beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pacx.evaluation.reporting.cautions import concerns
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.ways import fine_tuned, mark_fine_tuned
from pacx.evaluation.reporting.wording import decimal, interval, is_known, judged_images, percent, share, verdict

__all__ = ["find_all"]

_GROUPS = ("physiology", "finding", "control")
_FEW = 2
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


def find_all(content: Mapping[str, Any], *, controls: Collection[str]) -> list[Record]:
    """Sum up a report's numbers.

    Args:
        content: the content of `report.json`.
        controls: names of the runs that judged an encoder distilled from shuffled pairs.

    Returns:
        A list of {topic, statement, kind, value, low, high, verdict, judgement, encoders, caution}; kind is "auroc" or
        "dice" (paired differences), "points" (a paired difference of shares) or "share". caution says what speaks
        against a finding, mostly nothing.
    """
    found = [
        *_probes(content, controls),
        *_segmentation(content, controls),
        *_attention(content, controls),
        *_retrieval(content),
    ]
    return [{**one, "caution": _caution(one, content["cautions"])} for one in found]


def _caution(finding: Record, cautions: Sequence[Record]) -> str:
    """Say if a finding is about scores of validation images, or of patients whom one of its encoders had seen."""
    texts = [one["text"] for one in cautions if set(one["encoders"]) & set(finding["encoders"])]
    return " ".join(dict.fromkeys([*finding.get("caution", []), *texts]))


def _probes(content: Mapping[str, Any], controls: Collection[str]) -> Iterator[Record]:
    for part in content["probes"]:
        rows = part["group_differences"]
        kinds = _kinds(part["scores"], controls)
        groups = sorted({row["group"] for row in rows}, key=lambda name: (_rank(name), name))
        spoken = _spokesmen({row["encoder"] for row in rows if kinds.get(row["encoder"], "main") == "main"})
        where = f" ({part['store']})" if len(content["probes"]) > 1 else ""
        for number, group in enumerate(groups):
            for kind in ("main", "control", "random"):
                own = [row for row in rows if row["group"] == group and kinds.get(row["encoder"], "main") == kind]
                own = [row for row in own if kind != "main" or row["encoder"] in spoken]
                if kind != "main" and number > 0:
                    continue
                ends = {row["fraction"] for row in own}
                ends = {min(ends), max(ends)} if kind == "main" and ends else {max(ends, default=None)}
                for row in own:
                    if row["fraction"] in ends:
                        yield _probe(row, where=where, kind=kind, tuned=fine_tuned(part))


def _probe(row: Record, *, where: str, kind: str, tuned: Collection[str]) -> Record:
    tasks = f"{len(row['tasks'])} {row['group']} task{'s' if len(row['tasks']) != 1 else ''}".replace("  ", " ")
    ours, theirs = (_written(row[key], tuned) for key in ("encoder", "baseline"))
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


def _written(label: str, tuned: Collection[str]) -> str:
    return mark_fine_tuned(display_name(label)) if label in tuned else display_name(label)


def _segmentation(content: Mapping[str, Any], controls: Collection[str]) -> Iterator[Record]:
    for part in content["segmentation"]:
        kinds = _kinds(part["encoders"], controls)
        splits = {one["encoder"]: one.get("split") for one in part["encoders"]}
        own = [one for one in content["cautions"] if one["kind"] == "validation_split" and concerns(one, part)]
        for row in part["differences"]:
            if row["metric"] == "dice" and kinds.get(row["encoder"], "main") == "main":
                statement = (
                    f"{display_name(row['encoder'])} against {display_name(row['baseline'])}, {part['mask']} masks "
                    f"decoded from frozen features: mean Dice {decimal(row['value_a'])} against "
                    f"{decimal(row['value_b'])} on {row['num_images']} "
                    f"{judged_images(splits[row['encoder']])}."
                )
                found = _difference(f"segmentation, {part['mask']}", statement, row, kind="dice")
                yield {**found, "caution": [one["text"] for one in own]}


def _attention(content: Mapping[str, Any], controls: Collection[str]) -> Iterator[Record]:
    for part in content["attention"]:
        kinds = _kinds(part["encoders"], controls)
        own = [one["text"] for one in content["cautions"] if one["kind"] == "explained_split" and concerns(one, part)]
        for row in part["differences"]:
            if row["region"] == "heart" and kinds.get(row["encoder"], "main") == "main":
                statement = (
                    f"{display_name(row['encoder'])} puts {percent(row['value_a'])} of its attention inside the heart, "
                    f"{display_name(row['baseline'])} {percent(row['value_b'])}, on {row['num_images']} images."
                )
                yield {**_difference("attention on the heart", statement, row, kind="points"), "caution": own}


def _retrieval(content: Mapping[str, Any]) -> Iterator[Record]:
    arms = _distilled_arms(content)
    true = {name: own for name, own in arms.items() if not own[0].get("shuffled_teachers")}
    shuffled = {name: own for name, own in arms.items() if name not in true}
    for name in _spokesmen(set(true)):
        for teacher in dict.fromkeys(teacher for run in true[name] for teacher in run["teachers"]):
            ten = _first_ten(true[name], teacher)
            if ten is None:
                continue
            seeds = (
                f" (mean of {ten['num_runs']} runs, and the widest of their intervals)" if ten["num_runs"] > 1 else ""
            )
            statement = (
                f"{display_name(name)}{seeds}: an unseen X-ray finds its own {display_name(teacher)} embedding among "
                f"the ten nearest of {ten['n']}; chance is {percent(ten['chance'])}."
            )
            for control, own in shuffled.items():
                other = _first_ten(own, teacher)
                if other:
                    shares = {key: 100 * other[key] for key in ("low", "high") if is_known(other[key])}
                    statement += (
                        f" Trained on shuffled pairs (negative control, {display_name(control)}): "
                        f"{percent(other['value'])} {interval(shares, 1)}."
                    )
            shifted = _against(ten, ten["chance"])
            yield {
                "topic": f"Retrieval of the {display_name(teacher)} teacher",
                "statement": statement,
                "kind": "share",
                **{key: ten[key] for key in ("value", "low", "high")},
                "verdict": shifted,
                "judgement": _CHANCE[shifted],
                "encoders": [],  # judged on the pairs of its own run, not by a run that could be mistaken
            }


def _distilled_arms(content: Mapping[str, Any]) -> dict[str, list[Record]]:
    """Gather distillation runs by the arm that they belong to; a run of no arm stands for itself."""
    arm_of = {run: arm["encoder"] for arm in _trained_arms(content) for run in arm["training"]["runs"]}
    arms: dict[str, list[Record]] = {}
    for run in content["distillation"]:
        arms.setdefault(arm_of.get(run["run"], run["run"]), []).append(run)
    return arms


def _first_ten(runs: list[Record], teacher: str) -> Record | None:
    """R@10 from image to teacher: the mean over runs, and an interval that holds those of all runs."""
    ways = [(run["teachers"].get(teacher) or {}).get("image_to_teacher") or {} for run in runs]
    ways = [way for way in ways if is_known((way.get("r10") or {}).get("value"))]
    if not ways:
        return None
    tens = [way["r10"] for way in ways]
    bounded = all(is_known(ten.get("low")) and is_known(ten.get("high")) for ten in tens)
    return {
        "value": sum(ten["value"] for ten in tens) / len(tens),
        "low": min(ten["low"] for ten in tens) if bounded else None,
        "high": max(ten["high"] for ten in tens) if bounded else None,
        "chance": (ways[0].get("chance") or {}).get("r10"),
        "n": ways[0].get("n"),
        "num_runs": len(ways),
    }


def _trained_arms(content: Mapping[str, Any]) -> list[Record]:
    return [arm for part in content["arms"] for arm in part["arms"] if arm["training"]]


def _spokesmen(encoders: set[str]) -> list[str]:
    """Choose who speaks for many encoders: all of a few, else "pacx", whatever they scored; nobody without it."""
    return sorted(encoders if len(encoders) <= _FEW else encoders & {"pacx"})


def _kinds(judged: Iterable[Record], controls: Collection[str]) -> dict[str, str]:
    """Tell fresh weights and negative controls from the encoders that a part is about, by their labels there."""
    kinds: dict[str, str] = {}
    for one in judged:
        label = one["encoder"]
        control = one["run"] in controls or "shuffled" in label or kinds.get(label) == "control"
        kinds[label] = "random" if label.partition(" (")[0] == "random" else "control" if control else "main"
    return kinds


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
        "encoders": [row["encoder"], row["baseline"]],
    }
