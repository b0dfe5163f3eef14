"""Which runs may be pooled, and how they belong together: by training seed, by fold, or both.

Two runs with the same test images are two seeds; two runs without a test patient in common are two folds. What overlaps
in part is neither: a patient who tests in two folds was in training for one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from pacx.errors import PacxError
from pacx.runs import read_result
from pacx.scoring import FOLD, MACRO

__all__ = [
    "CURVES",
    "Member",
    "arrange_members",
    "check_alike",
    "design",
    "facts",
    "read_member",
    "store_identity",
    "together",
]

CURVES = "curves"
"""table of deletion curves that `pacx explain --task` leaves"""


@dataclass(frozen=True)
class Member:
    """One of the runs that are pooled, and its place among them."""

    folder: Path
    content: dict[str, Any]
    """its `result.json`"""
    predictions: pd.DataFrame
    """its table of test images"""
    images: pd.DataFrame
    """image_id and patient_id of those images, maybe several times"""
    fold: int = 0
    run: int = 0
    """number within its fold"""

    @property
    def name(self) -> str:
        """The run's folder."""
        return self.folder.name

    @property
    def results(self) -> dict[str, Any]:
        """What the run found."""
        return dict(self.content["results"])

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was judged; some commands note a name alone."""
        noted = self.results.get("protocol") or {}
        return {"name": noted} if isinstance(noted, str) else dict(noted)

    @property
    def store(self) -> dict[str, Any]:
        """Name and hashes of the store that it was tested on."""
        return dict(self.content["inputs"].get("store") or {})

    @property
    def encoder(self) -> dict[str, Any]:
        """Name, path and hash of the encoder that it judged; of a fine-tuned one, the hash that it has now."""
        noted = self.content["inputs"].get("encoder") or {}
        name = self.results.get("encoder_name") or noted.get("name") or self.name
        return {
            "name": str(name),
            "path": noted.get("path"),
            "hash": self.results.get("encoder_hash") or noted.get("hash"),
        }

    @property
    def tested(self) -> frozenset[str]:
        """Ids of its test images."""
        return frozenset(self.images["image_id"].astype(str))

    @property
    def patients(self) -> frozenset[str]:
        """Ids of the patients whom these show."""
        return frozenset(self.images["patient_id"].astype(str))


def read_member(folder: Path, *, tables: Mapping[str, str]) -> Member:
    """Read a run that is to be pooled.

    Args:
        folder: the run.
        tables: command that may be pooled -> its table of test images.

    Raises:
        PacxError: it is not finished, was made by another command, its predictions are gone, or it measured nothing.
    """
    content, known = read_result(folder), list(tables)
    if content["command"] not in known:
        raise PacxError(
            f"{folder} is a run of `{content['command']}`. `pool` joins runs of "
            f"{', '.join(known[:-1])} or {known[-1]}: give these, not what was made of them."
        )
    name = tables[content["command"]]
    path = Path(folder) / str(content["artefacts"].get(name, f"{name}.parquet"))
    if not path.is_file():
        raise PacxError(f"{folder} has no {name} left ({path.name}). Run its command again.")
    predictions = pd.read_parquet(path)
    explained = content["command"] == "explain" and predictions.empty
    images = _images_of_curves(Path(folder)) if explained else predictions[["image_id", "patient_id"]]
    return Member(Path(folder).resolve(), content, predictions, images)


def _images_of_curves(folder: Path) -> pd.DataFrame:
    """Return image_id and patient_id of the images whose attention was measured on a store without masks.

    There no region has a share, and what is left are the curves of a head.
    """
    curves = folder / f"{CURVES}.parquet"
    if not curves.is_file():
        raise PacxError(
            f"{folder} measured nothing that could be pooled: its store has no masks, and no --task was asked. Explain "
            "the encoders with --task, or on a store with masks."
        )
    return pd.read_parquet(curves)[["image_id", "patient_id"]]


def together(members: Sequence[Member], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join a table of each run, with columns fold and run; outputs get their fold's number if there are several."""
    joined = pd.concat(
        [table.assign(fold=member.fold, run=member.run) for member, table in zip(members, tables, strict=True)],
        ignore_index=True,
    )
    if "output" in joined and joined["fold"].nunique() > 1:
        joined["output"] = joined["output"].astype(str) + FOLD + joined["fold"].astype(str)
    return joined


def check_alike(members: Sequence[Member]) -> str:
    """Return the command of all runs.

    Raises:
        PacxError: they are fewer than two, not all different, or not done alike.
    """
    if len(members) < 2:
        raise PacxError(f"A pool needs two runs at least; found {len(members)}. Give --runs one per seed or fold.")
    _check_different(members)
    first = members[0]
    for other in members[1:]:
        for what, ours, theirs in (
            ("command", first.content["command"], other.content["command"]),
            ("settings", _settings(first), _settings(other)),
            ("questions", _questions(first), _questions(other)),
        ):
            if ours != theirs:
                raise PacxError(
                    f"{first.name} and {other.name} cannot be pooled, their {what} differ: {_differing(ours, theirs)}. "
                    "Run both with the same settings."
                )
    return str(first.content["command"])


def _check_different(members: Sequence[Member]) -> None:
    """Refuse what looks like two runs and is one: it would be taken for evidence that training repeats well."""
    seen: dict[tuple[str, str], Member] = {}
    for member in members:
        encoder = member.encoder["hash"] or str(member.folder)
        judged = (str(encoder), str(member.store.get("hash")))
        if judged in seen:
            raise PacxError(
                f"{member.name} and {seen[judged].name} judged the same encoder on the same images: that is one run, "
                "not two. Give each seed or fold once."
            )
        seen[judged] = member


def _settings(member: Member) -> dict[str, Any]:
    """How it was judged; draws may differ, since the pool draws anew."""
    protocol = {key: value for key, value in member.protocol.items() if key != "draws"}
    asked = {key: member.results.get(key) for key in ("mask", "method", "split", "shuffled_teachers")}
    curves, head = member.results.get("faithfulness") or {}, member.results.get("head")
    explained = {"task": head.get("task") if isinstance(head, Mapping) else None}  # a probe lists its tasks instead
    explained |= {key: curves.get(key) for key in _OF_CURVES}
    return {**protocol, **asked, **explained, "seeds": member.content["config"].get("seeds")}


_OF_CURVES = ("removed", "steps")


def _questions(member: Member) -> dict[str, str]:
    """What was asked; without the mean over labels, which is there only where several could be scored."""
    rows = member.results.get("summary") or []
    asked = [f"{row['task']}/{row['label']} at {row['fraction']:g}" for row in rows if row["label"] != MACRO]
    return dict.fromkeys(asked, "asked")


def _differing(ours: object, theirs: object) -> str:
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return f"{ours} and {theirs}"
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    named = [f"{key} ({ours.get(key, 'absent')} and {theirs.get(key, 'absent')})" for key in keys[:3]]
    return ", ".join(named) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def arrange_members(members: Sequence[Member]) -> list[Member]:
    """Number the folds, and the runs within each.

    Folds are numbered by the hash of their store, not by the order in which runs are given, so that two pools over the
    same folds can be compared.

    Raises:
        PacxError: test images overlap in part, a patient tests in two folds, runs with the same test images were probed
            on different stores, or folds have different numbers of runs.
    """
    folds: dict[frozenset[str], list[Member]] = {}
    for member in members:
        folds.setdefault(member.tested, []).append(member)
    ordered = sorted(folds.values(), key=lambda own: (str(own[0].store.get("hash")), min(own[0].tested, default="")))
    _check_folds(ordered)
    return [
        replace(member, fold=fold, run=number) for fold, own in enumerate(ordered) for number, member in enumerate(own)
    ]


def _check_folds(folds: Sequence[Sequence[Member]]) -> None:
    taken: dict[str, Member] = {}
    for own in folds:
        if len({member.store.get("hash") for member in own}) > 1:
            raise PacxError(
                f"{_names(own)} were tested on the same images out of different stores, whose labels may differ. Run "
                "all of them on one store."
            )
        patients = sorted(own[0].patients)
        shared = next((patient for patient in patients if patient in taken), None)
        if shared is not None:
            raise PacxError(
                f"{own[0].name} and {taken[shared].name} were tested on different images, but on some of the same "
                f"patients ({shared!r} for one). Runs to be pooled have the same test images (seeds), or no test "
                "patient in common (folds, as `pacx prepare --folds` deals them)."
            )
        taken |= dict.fromkeys(patients, own[0])
    for one, other in pairwise(folds):
        if len(one) != len(other):
            raise PacxError(
                f"Folds have different numbers of runs: {_names(one)} against {_names(other)}. Give each the same "
                "seeds."
            )


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.name for member in members)


def design(members: Sequence[Member]) -> dict[str, Any]:
    """Say what is pooled: seeds, folds, or folds and seeds; how many runs in all, and how many folds."""
    folds = len({member.fold for member in members})
    pooled = "seeds" if folds == 1 else "folds" if folds == len(members) else "folds and seeds"
    return {"pooled": pooled, "num_runs": len(members), "num_folds": folds}


def store_identity(members: Sequence[Member]) -> dict[str, Any]:
    """Name the data: the store itself, or for folds all of them together, in whatever order they are given."""
    stores = {member.fold: member.store for member in members}
    if len(stores) == 1:
        return members[0].store
    names = list(dict.fromkeys(str(store.get("name")) for store in stores.values()))
    return {"name": f"{' + '.join(names)} ({len(stores)} folds)"} | {
        key: hashlib.sha256(json.dumps(sorted(str(store.get(key)) for store in stores.values())).encode()).hexdigest()
        for key in ("hash", "split_hash")
    }


def facts(member: Member) -> dict[str, Any]:
    """Return what identifies a pooled run, its place, and the encoder that it judged."""
    return {
        "path": member.folder,
        "name": member.name,
        "started": member.content.get("started"),
        "fold": member.fold,
        "run": member.run,
        "encoder": member.encoder,
    }
