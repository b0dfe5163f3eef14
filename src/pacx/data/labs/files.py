"""Read any laboratory table in pieces: CSV, TSV (also .gz) or Parquet, only the columns that are asked for.

MIMIC-IV's labevents has 120 million rows and 15 GB of text; a piece is a few megabytes, and nothing else is held.
Every column comes as text with "" for missing, so that sodium ("NA"), potassium ("K") and "<0.01" survive; a value is
parsed once per distinct text. Numbers of Parquet files become their shortest text, and whole numbers lose their ".0":
a column of ids with a gap was written as floats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = ["Texts", "key_text", "read_batches", "table_columns"]

_BLOCK_BYTES = 2 * 1024**2
_HEADER_BYTES = 1024**2
_BATCH_ROWS = 131_072
_WHOLE = r"^(\d+)\.0$"
_PARQUET = {".parquet", ".pq"}


class Texts(NamedTuple):
    """A column of text, each distinct text once."""

    distinct: list[str]
    codes: NDArray[np.int32]
    """position in `distinct` for every row"""

    def map(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return for every row the entry of `values` that stands for its text."""
        return values[self.codes]

    def take(self, rows: NDArray[Any]) -> Texts:
        """Keep some rows; `distinct` shrinks to what is left."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Texts([self.distinct[code] for code in used], codes.astype(np.int32))


def table_columns(path: Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        PacxError: the file is absent, no table, or names a column twice.
    """
    with _user_errors(path):
        names = pq.read_schema(path).names if _is_parquet(path) else _open_csv(path, None).schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PacxError(f"{path} has several columns named {', '.join(map(repr, twice))}. Rename or remove the copies.")
    return list(names)


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Texts]]:
    """Read a table piece by piece.

    Args:
        path: .csv, .tsv (each also .gz), .parquet or .pq.
        columns: names of the columns to read.

    Yields:
        Column name -> texts of the same number of rows.

    Raises:
        PacxError: the file cannot be read as a table.
    """
    with _user_errors(path):
        wanted = list(dict.fromkeys(columns))
        if _is_parquet(path):
            batches = pq.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
        else:
            batches = _open_csv(path, wanted)
        for batch in batches:
            yield {name: _texts(batch.column(name)) for name in wanted}


def key_text(values: pd.Series) -> pd.Series:
    """Return ids as text, whole floats without ".0"; missing stays missing. The form that `read_batches` gives ids."""
    if pd.api.types.is_float_dtype(values):
        return values.map(lambda number: f"{number:.15g}", na_action="ignore").astype("object")
    return values.map(lambda value: re.sub(_WHOLE, r"\1", str(value).strip()), na_action="ignore").astype("object")


def _texts(column: Any) -> Texts:
    encoded = column.dictionary_encode()
    words = encoded.dictionary
    if pa.types.is_string(words.type) or pa.types.is_large_string(words.type):
        trimmed = pc.utf8_trim_whitespace(words)  # many times faster than Python's strip
        distinct = pc.replace_substring_regex(trimmed, pattern=_WHOLE, replacement=r"\1").to_pylist()
    else:
        distinct = key_text(words.to_pandas()).fillna("").tolist() if len(words) else []
    # Missing rows get a text of their own at the end.
    codes = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False).astype(np.int32)
    return Texts([*distinct, ""], codes)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in _PARQUET


def _open_csv(path: Path, columns: list[str] | None) -> Any:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(block_size=_HEADER_BYTES if columns is None else _BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(delimiter="\t" if ".tsv" in suffixes[-2:] else ",", newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            include_columns=columns,
            column_types=None if columns is None else dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    )


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into a message."""
    if path.is_dir():
        raise PacxError(f"{path} is a folder. Give one table: CSV, TSV (also .gz) or Parquet.")
    try:
        yield
    except FileNotFoundError as error:
        raise PacxError(f"{path} does not exist. Give a table of laboratory values.") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise PacxError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}). "
            "Give a CSV or TSV file in UTF-8 with a header (also .gz), or a Parquet file."
        ) from error
