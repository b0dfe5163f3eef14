"""Embeddings that somebody else's network made: read from files in pieces, with the id of each row.

* `.npy` (N, D), real numbers; the ids come from files of their own, or are the rows of the store in order.
* `.parquet` with an id column and either one column of lists or one column per number. Columns called image_id,
  study_id or patient_id are never taken for numbers.
* Nothing is unpickled: an array of Python objects is refused, since reading it could run code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = ["KEYS", "EmbeddingFile", "file_hash", "open_embeddings", "read_ids"]

KEYS = ("image_id", "study_id", "patient_id")
"""columns of a store by which embeddings can be matched"""

_ROWS_AT_ONCE = 4096
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingFile:
    """A file of embeddings; nothing but its header has been read."""

    path: Path
    num_rows: int
    dim: int
    columns: tuple[str, ...] = ()
    """of a table: the columns that hold the numbers"""
    id_column: str | None = None
    """of a table: the column that holds the ids"""

    def blocks(self) -> Iterator[Embeddings]:
        """Yield the rows in order, (b, D), some thousands at a time; a missing number is NaN."""
        if self.id_column is None:
            array = _map(self.path)
            for start in range(0, self.num_rows, _ROWS_AT_ONCE):
                yield _as_float(array[start : start + _ROWS_AT_ONCE])
            return
        for batch in pq.ParquetFile(self.path).iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(self.columns)):
            yield (
                _list_rows(batch.column(0), self)
                if _is_list(batch.schema.field(0).type)
                else _as_float(np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1))
            )

    def ids(self) -> NDArray[np.str_]:
        """Return the ids of a table's rows, (N,)."""
        column = pq.read_table(self.path, columns=[self.id_column]).column(0)
        return _id_texts(column.to_pandas(), f"column {self.id_column!r} of {self.path}")


def open_embeddings(path: Path, *, id_column: str) -> EmbeddingFile:
    """Look at a file's header.

    Args:
        path: `.npy` or `.parquet`.
        id_column: the column of a table that holds the ids.

    Raises:
        PacxError: no such file, another format, or a content that is not one row of numbers per id.
    """
    path = Path(path)
    if not path.is_file():
        raise PacxError(f"{path} does not exist. --embeddings takes .npy and .parquet files.")
    if path.suffix == ".npy":
        array = _map(path)
        if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
            raise PacxError(
                f"{path} holds {array.dtype} of shape {array.shape}; embeddings are real numbers of shape (N, D)."
            )
        return EmbeddingFile(path, *array.shape)
    if path.suffix == ".parquet":
        return _open_table(path, id_column)
    raise PacxError(f"{path} is neither .npy nor .parquet. Save the embeddings as one of them.")


def read_ids(path: Path, *, column: str) -> NDArray[np.str_]:
    """Read one id per row from a file.

    Args:
        path: `.npy` (N,), `.txt` with one id per line, or `.csv` or `.parquet` with a column of ids.
        column: the column of a table; a table of one column needs none.

    Raises:
        PacxError: no such file, another format, no such column, or empty ids.
    """
    path = Path(path)
    if path.suffix not in {".npy", ".txt", ".csv", ".parquet"}:
        raise PacxError(f"--ids {path}: ids come from .npy, .txt, .csv or .parquet files, or --ids order.")
    if not path.is_file():
        raise PacxError(f"The file of ids {path} does not exist.")
    if path.suffix == ".npy":
        array = _map(path)
        if array.ndim != 1 or array.dtype.kind not in "USiu":
            raise PacxError(f"{path} holds {array.dtype} of shape {array.shape}; ids are text or integers, (N,).")
        return _id_texts(pd.Series(np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array), str(path))
    try:
        if path.suffix == ".txt":
            return _id_texts(pd.Series(path.read_text(encoding="utf-8").splitlines(), dtype=object), str(path))
        table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # ValueError covers Unicode, CSV and Arrow errors
        raise PacxError(
            f"The ids in {path} cannot be read ({' '.join(str(error).split())}). Save them again."
        ) from error
    if column not in table and len(table.columns) != 1:
        raise PacxError(f"{path} has no column {column!r}. It has: {', '.join(map(str, table.columns))}.")
    return _id_texts(table[column] if column in table else table.iloc[:, 0], str(path))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_table(path: Path, id_column: str) -> EmbeddingFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PacxError(f"{path} is no readable parquet file ({error}). Save it again.") from error
    schema = file.schema_arrow
    if id_column not in schema.names:
        raise PacxError(
            f"{path} has no column {id_column!r}. It has: {', '.join(schema.names)}. Name the column with --ids COLUMN."
        )
    left_out = {id_column, *KEYS, *_row_labels(schema)}
    fields = [field for field in schema if field.name not in left_out]
    lists = [field.name for field in fields if _is_list(field.type)]
    if len(lists) == 1:
        _refuse_other_lists(path, schema.field(lists[0]))
        first = next(iter(file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=lists)), None)
        dim = 0 if first is None else max([len(item) for item in first.column(0).to_pylist() if item], default=0)
        return _nonempty(EmbeddingFile(path, file.metadata.num_rows, dim, tuple(lists), id_column))
    others = [field.name for field in fields if not _is_number(field.type)]
    if others:
        raise PacxError(
            f"{path} has columns that are no numbers: {_some(others)}. Leave the id column and the embedding: one "
            "column of lists, or one column per number."
        )
    names = tuple(field.name for field in fields)
    return _nonempty(EmbeddingFile(path, file.metadata.num_rows, len(names), names, id_column))


def _refuse_other_lists(path: Path, field: pa.Field) -> None:
    inner = field.type.value_type
    if not (_is_number(inner) or pa.types.is_null(inner)):  # null: lists without a single value, which are holes
        raise PacxError(
            f"{path}: the lists in column {field.name!r} hold {inner}; an embedding is one list of numbers. Pool "
            "tokens, and turn text into numbers, before they are saved."
        )


def _row_labels(schema: pa.Schema) -> set[str]:
    """Return the columns in which pandas keeps a table's row labels: a number per row, but no part of an embedding."""
    labels = (schema.pandas_metadata or {}).get("index_columns", [])
    return {label for label in labels if isinstance(label, str)} | {
        name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)
    }


def _nonempty(file: EmbeddingFile) -> EmbeddingFile:
    if not file.num_rows or not file.dim:
        raise PacxError(f"{file.path} holds no embeddings ({file.num_rows} rows of {file.dim} numbers).")
    return file


def _map(path: Path) -> NDArray[Any]:
    try:
        _check_beginning(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, EOFError, OSError) as error:
        if "object" in str(error).lower():
            raise PacxError(
                f"{path} holds Python objects, and reading them could run code. Save plain numbers: "
                "np.save(path, np.asarray(x, dtype='float32')); ids as text: np.asarray(ids, dtype=str)."
            ) from error
        raise PacxError(f"{path} is no readable .npy file ({error}). Save it again with np.save.") from error


def _check_beginning(path: Path) -> None:
    """Refuse what NumPy would take for a pickle of Python objects, or for an archive."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("it does not begin as one")


def _as_float(block: NDArray[Any]) -> Embeddings:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
        return np.asarray(block, dtype=np.float32)


def _list_rows(column: pa.Array, file: EmbeddingFile) -> Embeddings:
    """Lists of numbers to rows; a missing list is a row of NaN."""
    rows = np.full((len(column), file.dim), np.nan, dtype=np.float32)
    for place, item in enumerate(column.to_numpy(zero_copy_only=False)):
        if item is None:
            continue
        if len(item) != file.dim:
            raise PacxError(
                f"{file.path}: a list of {len(item)} numbers where others have {file.dim}. Embeddings of one teacher "
                "have one length; pool them before they are saved."
            )
        rows[place] = _as_float(item)
    return rows


def _id_texts(ids: pd.Series[Any], where: str) -> NDArray[np.str_]:
    empty = ids.isna() | (ids.astype(str).str.strip() == "")
    if empty.any():
        raise PacxError(
            f"{where}: {int(empty.sum())} of {len(ids)} ids are empty, first at row {int(np.argmax(empty))}."
        )
    if ids.dtype.kind == "f":
        raise PacxError(f"{where}: the ids are decimal numbers ({ids.iloc[0]}). Save them as integers or text.")
    return ids.astype(str).str.strip().to_numpy(dtype=str)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
