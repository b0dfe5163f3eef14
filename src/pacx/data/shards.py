"""A part of a data set, prepared by itself: rows of the whole manifest, and what is needed to join the parts again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pacx.data.manifest import Manifest
from pacx.errors import PacxError

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """Which part of what."""

    number: int
    """counted from 1"""
    of: int
    first_row: int
    """of the whole manifest"""
    num_rows: int
    num_rows_of_all: int
    fingerprint: str
    """of the whole: files, their order, how they are read"""

    @classmethod
    def parse(cls, text: str, *, num_rows: int, fingerprint: str) -> Shard:
        """Read `3/8`.

        Args:
            text: number and count.
            num_rows: of the whole manifest.
            fingerprint: of the whole.

        Raises:
            PacxError: it is not of that form, out of range, or would have no rows.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        number, of = (int(one) for one in found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise PacxError(f"--shard {text!r} is not a part: write 1/8 for the first of eight, 8/8 for the last.")
        if of > num_rows:
            raise PacxError(f"--shard {text}: {num_rows} rows cannot be cut into {of} parts. Give at most {num_rows}.")
        first, last = (num_rows * edge // of for edge in (number - 1, number))
        return cls(number, of, first, last - first, num_rows, fingerprint)

    def take(self, manifest: Manifest) -> Manifest:
        """Return this part of the whole manifest."""
        rows = slice(self.first_row, self.first_row + self.num_rows)
        table = manifest.table.iloc[rows].reset_index(drop=True)
        labs = manifest.labs
        return replace(
            manifest, table=table, labs=None if labs is None else labs[labs.index.isin(table["image_id"])]
        )  # fmt: skip
