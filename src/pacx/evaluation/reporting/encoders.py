"""How encoders are told apart and called.

An encoder's label is what the run that judged it says (`encoder_name`), else it follows from the encoder's path:

    runs/demo/mae/encoder           mae      shown as "MAE"
    runs/demo/pacx/encoder          pacx     shown as "PaCX"
    runs/demo/pacx-shuffled/encoder pacx-shuffled, shown as "PaCX shuffled"
    random:runs/demo/mae/encoder    random   shown as "random init"

so the step names of a recipe are the names in its report. Two runs that answer the same question about the same store
under one label are told apart by their folder.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from pacx.errors import PacxError
from pacx.evaluation.reporting.collect import Record, Run

__all__ = [
    "choose_baseline",
    "describe_encoders",
    "display_name",
    "encoder_label",
    "same_store",
    "store_key",
    "store_name",
]

_WORDS = {
    "mae": "MAE",
    "pacx": "PaCX",
    "ecg": "ECG",
    "vit": "ViT",
    "lora": "LoRA",
    "labs": "labs",
    "finetuned": "fine-tuned",
}
_TONES = {"mae": "mae", "pacx": "pacx", "random": "random"}
_NUM_OTHER_TONES = 4
_ORDER = ("random", "mae", "pacx")


def encoder_label(run: Run) -> str:
    """Return the label of the encoder that a run judged."""
    named = run.results.get("encoder_name") or run.inputs.get("encoder", {}).get("name")
    if named:
        return str(named)
    source = str(run.config.get("encoder") or run.results.get("encoder") or run.name)
    if source.startswith("random:"):
        return "random"
    path = PurePosixPath(source.replace("\\", "/"))
    return path.parent.name if path.name == "encoder" else path.name


def display_name(label: str) -> str:
    """Return how a label is written for people."""
    stem, bracket, rest = label.partition(" (")
    words = stem.replace("_", "-").split("-")
    name = "random init" if stem == "random" else " ".join(_WORDS.get(word, word) for word in words if word)
    return name + bracket + rest


def describe_encoders(labels: Iterable[str]) -> list[Record]:
    """List encoders in the order of the charts, each with its name and the tone (colour and marker) of its marks."""
    unique = sorted(set(labels), key=_place)
    others = [label for label in unique if label not in _TONES]
    return [
        {
            "label": label,
            "name": display_name(label),
            "tone": _TONES[label] if label in _TONES else f"other{others.index(label) % _NUM_OTHER_TONES + 1}",
        }
        for label in unique
    ]


def _place(label: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort known arms first, then by name with numbers by their value: pairs-300 before pairs-1000."""
    known = _ORDER.index(label) if label in _ORDER else len(_ORDER)
    return known, [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", label)]


def choose_baseline(labels: Iterable[str], baseline: str | None) -> str | None:
    """Return the encoder that the others are compared with: as asked, else "mae" if there is one.

    Raises:
        PacxError: the one asked for is not among the runs.
    """
    known = sorted(set(labels))
    if baseline is None:
        return "mae" if "mae" in known else None
    if baseline not in known:
        raise PacxError(
            f"No run is about an encoder labelled {baseline!r}. Labels in these runs: {', '.join(known) or 'none'}. "
            "Choose --baseline among them."
        )
    return baseline


def store_key(run: Run) -> str:
    """Return what identifies the store that a run used, and the split of it."""
    store = run.inputs.get("store", {})
    key = str(store.get("hash") or store.get("name") or run.config.get("store"))
    return f"{key} {store.get('split_hash') or ''}".strip()


def same_store(runs: Sequence[Run]) -> list[list[Run]]:
    """Gather runs that may be set side by side: on one store and split, by one protocol.

    Where a store was judged by the paper's protocol and by the honest one, the former's runs get a store of another
    name, as in `nih (paper protocol)`: they answer another question.
    """
    by_key: dict[tuple[str, bool], list[Run]] = {}
    for run in runs:
        by_key.setdefault((store_key(run), _is_paper(run)), []).append(run)
    return [
        [_with_store(run, f"{store_name(run)} (paper protocol)") for run in own]
        if paper and (key, False) in by_key
        else own
        for (key, paper), own in by_key.items()
    ]


def _is_paper(run: Run) -> bool:
    protocol = run.results.get("protocol")
    return isinstance(protocol, dict) and protocol.get("name") == "paper"


def _with_store(run: Run, name: str) -> Run:
    store = {**run.inputs.get("store", {}), "name": name}
    return dataclasses.replace(run, content={**run.content, "inputs": {**run.inputs, "store": store}})


def store_name(run: Run) -> str:
    """Return the name of the store that a run used."""
    named = run.inputs.get("store", {}).get("name")
    return str(named or PurePosixPath(str(run.config.get("store", "data"))).name)
