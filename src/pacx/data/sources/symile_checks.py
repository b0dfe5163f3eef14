"""Do the arrays of a Symile-MIMIC release say the same as its tables?

A pairing that is off by one row, lab columns in the order of the tables, or a mask taken for its opposite train without
complaint and give a wrong answer. Everything that both an array and a table know is therefore compared, over all rows,
before a pixel is read. The big arrays (X-rays, ECGs) are checked here by their headers; their values are checked row by
row when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.array_rows import open_array
from pacx.data.labs import PANEL
from pacx.errors import PacxError

__all__ = ["Part", "check_part"]

_IMAGE, _ECG = (3, 320, 320), (1, 5000, 12)
_ITEMS = [str(lab.item_id) for lab in PANEL]
_TOLERANCE = 1e-5  # the arrays hold float32, the tables decimal text


@dataclass(frozen=True)
class Part:
    """One split of a release."""

    root: Path
    split: str
    table: pd.DataFrame
    """its CSV file; row i describes row i of the arrays"""

    def file(self, stem: str) -> Path:
        """Return the path of an array, e.g. of `cxr`."""
        return self.root / "data_npy" / self.split / f"{stem}_{self.split}.npy"

    def array(self, stem: str, *, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
        """Memory-map an array with as many rows as the table.

        Raises:
            PacxError: the file is missing, damaged, or of another shape or type.
        """
        path = self.file(stem)
        if not path.is_file():
            raise PacxError(f"{path} is missing. Download it again, or check that the folder was copied whole.")
        array = open_array(path)
        if array.shape != (len(self.table), *shape):
            raise PacxError(
                f"{path} has shape {array.shape}; with the {len(self.table)} rows of {self.split}.csv it should be "
                f"{(len(self.table), *shape)}. The two are not of one release; download both again."
            )
        if array.dtype.kind != kind:
            raise PacxError(
                f"{path} holds {array.dtype}; the release has {'float32' if kind == 'f' else 'int64'} there."
            )
        return array

    def queries(self) -> pd.DataFrame:
        """Return the rows that stand for one admission each, with `split` and their `row` in the arrays."""
        rows = self.table[self.table["label"] == 1] if self.split == "test" else self.table
        return rows.assign(split=self.split, row=np.arange(len(rows)))


def check_part(part: Part) -> None:
    """Compare the arrays of one split with its table.

    Raises:
        PacxError: what contradicts what, in which file.
    """
    part.array("cxr", shape=_IMAGE, kind="f")
    part.array("ecg", shape=_ECG, kind="f")
    _check_ids(part, "hadm_id")
    if part.split == "test":
        _check_queries(part)
    admissions = part.queries()["hadm_id"]
    if admissions.duplicated().any():
        raise PacxError(
            f"{part.split}.csv names the admission {admissions[admissions.duplicated()].iloc[0]} more than once. Each "
            "has one row in the release (in test: one with label 1); download the table again."
        )
    _check_labs(part)


def _check_ids(part: Part, column: str) -> None:
    """Rows are paired by position, so the array of ids has to name the table's rows one by one."""
    ids = part.array(column, shape=(), kind="i")
    differs = np.flatnonzero(np.asarray(ids) != part.table[column].to_numpy())
    if len(differs):
        first = differs[0]
        raise PacxError(
            f"{part.file(column)} and {part.split}.csv name different rows: {len(differs)} of {len(ids)} differ, the "
            f"first is row {first} ({ids[first]} and {part.table[column].iloc[first]}). One was sorted or is of "
            "another release; download both again."
        )


def _check_queries(part: Part) -> None:
    """Test begins with the queries, one row each; the distractors follow."""
    missing = [column for column in ("label", "label_hadm_id") if column not in part.table]
    if missing:
        raise PacxError(f"{part.split}.csv lacks the columns {', '.join(missing)}. Give the table as it was published.")
    for column in ("label", "label_hadm_id"):
        _check_ids(part, column)
    is_query = part.table["label"].to_numpy() == 1
    num = int(is_query.sum())
    if not num or not is_query[:num].all():
        raise PacxError(
            f"The first {num} rows of {part.split}.csv should be the {num} queries (label 1), and are not: the rows "
            "are not in the order of the release. Give table and arrays as they were published."
        )
    queries = part.table[is_query]
    if (queries["label_hadm_id"] != queries["hadm_id"]).any():
        raise PacxError(
            f"{part.split}.csv has rows of label 1 whose label_hadm_id is not their hadm_id. It is damaged."
        )


def _check_labs(part: Part) -> None:
    percentiles = np.asarray(part.array("labs_percentiles", shape=(len(PANEL),), kind="f"))
    mask = np.asarray(part.array("labs_missingness", shape=(len(PANEL),), kind="i"))
    path = part.file("labs_percentiles")
    outside = ~((percentiles >= 0) & (percentiles <= 1))  # NaN too
    if outside.any():
        worst = percentiles[outside][0]
        raise PacxError(
            f"{path} holds {int(outside.sum())} values outside [0, 1], e.g. {worst:g}; percentiles are shares there. "
            "Values from 0 to 100 have to be divided by 100; better download the file again."
        )
    _check_columns(part, percentiles)
    _check_mask(part, mask)


def _check_columns(part: Part, percentiles: NDArray[Any]) -> None:
    """Find each column's item in the table; the arrays ascend by item id."""
    expected = part.table[[f"{item}_percentile" for item in _ITEMS]].to_numpy(dtype=np.float64)
    wrong = [column for column in range(len(_ITEMS)) if not _agree(percentiles[:, column], expected[:, column])]
    if not wrong:
        return
    items = [str(column).removesuffix("_percentile") for column in part.table if str(column).endswith("_percentile")]
    unsorted = part.table[[f"{item}_percentile" for item in items]].to_numpy(dtype=np.float64)
    if len(items) == len(_ITEMS) and all(_agree(percentiles[:, i], unsorted[:, i]) for i in range(len(items))):
        reason = "its columns are in the order of the table, where the release has ascending item ids"
    else:
        names = [f"{_ITEMS[column]} ({PANEL[column].name})" for column in wrong[:4]]
        reason = f"{len(wrong)} columns differ: {', '.join(names)}{' ...' if len(wrong) > 4 else ''}"
    raise PacxError(f"{part.file('labs_percentiles')} contradicts the percentiles of {part.split}.csv: {reason}.")


def _agree(array: NDArray[Any], column: NDArray[np.float64]) -> bool:
    known = ~np.isnan(column)
    return bool(np.allclose(array[known], column[known], rtol=0, atol=_TOLERANCE))


def _check_mask(part: Part, mask: NDArray[Any]) -> None:
    observed = part.table[_ITEMS].notna().to_numpy()
    path = part.file("labs_missingness")
    if not np.isin(mask, (0, 1)).all():
        raise PacxError(f"{path} holds other values than 0 and 1. Download it again.")
    if np.array_equal(mask == 1, observed):
        return
    if np.array_equal(mask == 0, observed):
        raise PacxError(
            f"{path} is 1 where {part.split}.csv has no value: it is the opposite of the release's, in which 1 means "
            "observed, whatever its name says. Give the file as it was published."
        )
    wrong = int(((mask == 1) != observed).sum())
    raise PacxError(
        f"{path} and the raw values of {part.split}.csv disagree on what was measured in {wrong} of {mask.size} "
        "entries. They are not of one release; download both again."
    )
