"""What is known of a public data set beside its files: who may get it, how much there is, how to check it.

The prose (what, label meaning, citation, known faults) is the docstring of the source's module; `pacx data show` prints
both. Counts are those of the full release and are held against what was read, so that half a download is noticed
before hours are spent on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pacx.data.manifest import SPLITS, Manifest
from pacx.errors import PacxError

__all__ = ["Access", "Card", "Expected", "check_counts"]

log = logging.getLogger("pacx")

Access = Literal["open", "registration", "restricted", "credentialed"]
"""open: anybody; registration: an account and a click; restricted: a signed agreement; credentialed: training and a
signed agreement, as PhysioNet asks for MIMIC"""


@dataclass(frozen=True)
class Expected:
    """Counts of a full release, as far as they are published."""

    rows: int | None = None
    """images"""
    splits: Mapping[str, int] = field(default_factory=dict)
    """of the official split, where there is one"""
    positives: Mapping[str, int] = field(default_factory=dict)
    """label column -> rows where it is 1; for a multiclass column "column=3" counts class 3"""
    source: str = ""
    """where the counts are from"""


@dataclass(frozen=True)
class Card:
    """What `pacx data list` shows of a data set."""

    title: str
    access: Access
    where: str
    """how one gets it, in a phrase, with its DOI or the name of the place"""
    license: str
    citation: str
    files: tuple[str, ...]
    """what has to lie below the root, as glob patterns; the first line of help when something else was given"""
    expected: Expected = Expected()
    expected_of_part: Mapping[str, Expected] = field(default_factory=dict)
    """the same for each `--part`, where there are some"""
    patients_of: str = ""
    """namespace of the patient ids, see `Manifest.patients_of`; "" where ids are unknown"""
    use: str = ""
    """what the paper uses it for"""
    reference_split: str = ""
    """what `--split reference` does; "" where there is no other split than the own one"""
    holds: tuple[Literal["image", "mask", "ecg", "labs"], ...] = ("image",)
    """what a row has, for plans"""
    usual_splits: Mapping[str, int] = field(default_factory=dict)
    """rows of the published split, for plans; the own split has about as many, and nothing is held against them"""


def check_counts(
    manifest: Manifest, card: Card, *, partial: bool, own_split: bool = True, part: str | None = None
) -> None:
    """Hold what was read against the counts of the full release.

    Args:
        manifest: what the source made.
        card: what it should be.
        partial: only say what is missing.
        own_split: the manifest has the official split, so that the counts of its parts hold.
        part: which part of the data set was read.

    Raises:
        PacxError: counts differ and `partial` is off; names each of them.
    """
    expected = card.expected if part is None else card.expected_of_part.get(part, Expected())
    differing = list(_differing(manifest, expected, own_split=own_split))
    if not differing:
        return
    what = f"This is not the full release of {manifest.name}: {'; '.join(differing)}"
    if not partial:
        raise PacxError(
            f"{what}. Complete the download, or pass --partial true to prepare what is there"
            f"{f' (counts: {expected.source})' if expected.source else ''}."
        )
    log.warning("%s (accepted because of --partial)", what)


def _differing(manifest: Manifest, expected: Expected, *, own_split: bool) -> Iterator[str]:
    table = manifest.table
    if expected.rows is not None and len(table) != expected.rows:
        yield f"{len(table)} images in place of {expected.rows}"
    if own_split:
        for split in SPLITS:
            found, wanted = int((table["split"] == split).sum()), expected.splits.get(split)
            if wanted is not None and found != wanted:
                yield f"{found} {split} images in place of {wanted}"
    for label, wanted in expected.positives.items():
        column, _, number = label.partition("=")
        found = int((table[column] == float(number or 1)).sum())
        if found != wanted:
            yield f"{label} is there {found} times in place of {wanted}"
