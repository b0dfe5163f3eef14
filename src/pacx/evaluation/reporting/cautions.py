"""What must not be overlooked: different splits of one data set, splits that leak, no test images, known test patients.

* **Splits.** Runs on stores of one name with different splits are shown apart (`phantom (split 3fa9c2)`) and never
  compared: a test patient of one may be a training patient of the other. The stores of a cross-validation are such
  stores too, unless `pacx pool` joins them.
* **Leaking splits.** In some stores patients are in several splits (`crossing_patients`), such as those made with a
  published split by image. Every score on them is too good.
* **Validation images.** Where a store has no test images with masks, `pacx segment` scores on the validation images.
  They chose the decoder's epoch, so these scores are too good.
* **Explained images.** `pacx explain --split` may look at training or validation images, which the head knows.
* **Seen patients.** A run may be allowed to judge an encoder on patients that it was trained on (`seen_patients` in its
  results). Such an encoder's name carries a dagger wherever it is shown, and findings about it say why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pacx.evaluation.reporting.collect import Record, Run
from pacx.evaluation.reporting.encoders import display_name, encoder_label, store_name

__all__ = [
    "DAGGER",
    "apart_by_split",
    "concerns",
    "explained_cautions",
    "leak_cautions",
    "mark_seen",
    "seen_cautions",
    "split_cautions",
    "validation_cautions",
]

DAGGER = "†"
_DIGITS = 6
"""of a split's hash in the name of a store"""


def apart_by_split(runs: Sequence[Run]) -> list[Run]:
    """Rename the stores of runs that used different splits of one data set."""
    ambiguous = _ambiguous(runs)
    return [_renamed(run) if store_name(run) in ambiguous and _split(run) else run for run in runs]


def split_cautions(runs: Sequence[Run]) -> list[Record]:
    """Describe each data set of which runs used different splits; runs as they were before `apart_by_split`."""
    return [
        {
            "kind": "splits",
            "text": (
                f"Runs on {store} used different splits of it: "
                + "; ".join(f"{split[:_DIGITS]} by {_list(names)}" for split, names in splits.items())
                + ". They are shown apart and not compared: a test patient of one may be a training patient of the "
                "other. Prepare the data once and judge all encoders on that store, or join the folds of a "
                "cross-validation with pacx pool."
            ),
            "stores": [f"{store} (split {split[:_DIGITS]})" for split in splits],
            "encoders": [],
        }
        for store, splits in _ambiguous(runs).items()
    ]


def leak_cautions(runs: Sequence[Run]) -> list[Record]:
    """Describe each store whose split has patients in several parts; runs as they are shown."""
    crossing = {store_name(run): int(run.inputs.get("store", {}).get("crossing_patients") or 0) for run in runs}
    return [
        {
            "kind": "leaking_split",
            "text": (
                f"The split of {store} has {number} patients in several parts: images of people who test were trained "
                "or chosen on. All scores on it are too good. Splits by image are for comparison with published "
                "numbers that were made on such a split."
            ),
            "stores": [store],
            "encoders": [],
        }
        for store, number in crossing.items()
        if number
    ]


def validation_cautions(segmentation: Sequence[Record]) -> list[Record]:
    """Describe each store whose masks were scored on validation images; parts as `segmentation_part` makes them."""
    masks: dict[str, list[str]] = {}
    for part in segmentation:
        if _is_validated(part):
            masks.setdefault(_bare_store(part), []).append(part["mask"])
    return [
        {
            "kind": "validation_split",
            "text": (
                f"Masks of {store} ({_list(list(dict.fromkeys(names)))}) were scored on its validation images, for "
                "want of test images with masks. The same images chose the epoch of each decoder, so Dice and IoU are "
                "too good. Prepare the store with a test split to score on images that chose nothing."
            ),
            "stores": [store],
            "encoders": [],
        }
        for store, names in masks.items()
    ]


def explained_cautions(attention: Sequence[Record]) -> list[Record]:
    """Describe each store whose training or validation images were explained; parts as `attention_part` makes them."""
    return [
        {
            "kind": "explained_split",
            "text": (
                f"Attention on {_bare_store(part)} was looked at on other than test images: "
                f"{_list([f'{name} on {split} images' for name, split in _untested(part)])}. Encoders may have been "
                "trained on them and heads were fitted or chosen on them, so it may be different on images of others."
            ),
            "stores": [_bare_store(part)],
            "encoders": [],
        }
        for part in attention
        if _untested(part)
    ]


def concerns(caution: Record, part: Record) -> bool:
    """Say whether a caution about a store is about a part of the report."""
    if _bare_store(part) not in caution["stores"]:
        return False
    about = {"validation_split": _is_validated, "explained_split": _is_explained}.get(caution["kind"])
    return about is None or about(part)


def _is_validated(part: Record) -> bool:
    return "mask" in part and bool(_untested(part))


def _is_explained(part: Record) -> bool:
    return "faithfulness_differences" in part and bool(_untested(part))


def _untested(part: Record) -> list[tuple[str, str]]:
    """Return name and split of each encoder that was judged on other than test images."""
    named = [(display_name(one["encoder"]), one.get("split")) for one in part["encoders"]]
    return [(name, split) for name, split in named if split not in {"test", None}]


def _bare_store(part: Record) -> str:
    return str(part["store"]).removesuffix(" (paper protocol)")


def seen_cautions(runs: Sequence[Run], judged: Sequence[Run], shown: Sequence[tuple[str, str]]) -> list[Record]:
    """Describe each run that judged an encoder on patients whom it had seen.

    Args:
        runs: all runs; the members of a pool are found among them.
        judged: the runs that the report shows.
        shown: run and label of each encoder as the report shows them.
    """
    found = []
    for run in judged:
        seen = [one for one in (_seen(member) for member in (run, *_members(run, runs))) if one]
        if seen:
            labels = [label for name, label in shown if name == run.name] or [encoder_label(run)]
            most = max(seen, key=lambda one: one["num_patients"])
            whole = f" of {most['num_test_patients']}" if most.get("num_test_patients") else ""
            found.append(
                {
                    "kind": "seen_patients",
                    "text": (
                        f"{display_name(labels[0])} {DAGGER} was judged by {run.name} on patients that it had been "
                        f"trained on: {most['num_patients']}{whole} test patients. Its scores may show what it "
                        "remembers of them, not what it can tell of others."
                    ),
                    "stores": [],
                    "encoders": list(dict.fromkeys(labels)),
                }
            )
    return found


def mark_seen(encoders: Sequence[Record], cautions: Sequence[Record]) -> list[Record]:
    """Put a dagger behind the names of encoders that were judged on patients whom they had seen."""
    seen = {label for one in cautions if one["kind"] == "seen_patients" for label in one["encoders"]}
    return [{**one, "name": one["name"] + (f" {DAGGER}" if one["label"] in seen else "")} for one in encoders]


def _seen(run: Run) -> Record | None:
    seen = run.results.get("seen_patients")
    return dict(seen) if isinstance(seen, dict) and seen.get("allowed") and seen.get("num_patients") else None


def _members(run: Run, runs: Sequence[Run]) -> list[Run]:
    if run.command != "pool":
        return []
    pooled = {(one["name"], one["started"]) for one in (run.inputs.get("runs") or {}).get("members") or []}
    return [one for one in runs if (one.folder.name, one.content.get("started")) in pooled]


def _ambiguous(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """By name of the store, then by split: names of the runs; stores of one split are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        if _split(run):
            found.setdefault(store_name(run), {}).setdefault(_split(run), []).append(run.name)
    return {store: splits for store, splits in found.items() if len(splits) > 1}


def _split(run: Run) -> str:
    return str(run.inputs.get("store", {}).get("split_hash") or "")


def _renamed(run: Run) -> Run:
    store = {**run.inputs["store"], "name": f"{store_name(run)} (split {_split(run)[:_DIGITS]})"}
    return dataclasses.replace(run, content={**run.content, "inputs": {**run.inputs, "store": store}})


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
