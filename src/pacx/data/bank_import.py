"""Make a bank of embeddings that came in files: find each one's row in the store, and count what fits nowhere.

* Embeddings find their rows by image, study or patient; one of a patient goes to all rows of that patient.
* A row of the store without an embedding is a hole, and so is an embedding with NaN in it. Infinite numbers are an
  error, and so are numbers too large for their squares in float32, an id twice with different numbers, and ids that
  the store does not have unless they may be ignored.
* The files are read twice, ids first and then numbers in pieces: of all that is in them only the ids are in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.bank import Bank, has_length
from pacx.data.bank_writer import BankWriter
from pacx.data.embedding_files import KEYS, EmbeddingFile, file_hash, open_embeddings, read_ids
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["ORDER", "import_bank"]

log = logging.getLogger("pacx")

ORDER = "order"
"""in place of ids: row i of the files is row i of the store"""


@dataclass
class _Counts:
    """What became of the rows of the files."""

    unknown: int = 0
    repeated: int = 0
    with_nan: int = 0
    all_zero: int = 0
    infinite: list[str] = field(default_factory=list)


def import_bank(
    store: Store,
    files: Sequence[Path],
    folder: Path,
    *,
    name: str,
    kind: str | None = None,
    ids: Sequence[str] | None = None,
    match: str = "image_id",
    ignore_unknown: bool = False,
) -> tuple[Bank, dict[str, int]]:
    """Write a bank of the embeddings in files.

    Args:
        store: whose rows they belong to.
        files: `.npy` or `.parquet`, one after the other; see `pacx.data.embedding_files`.
        folder: the bank's folder.
        name: the teacher's name in distillation and reports.
        kind: the modality, e.g. ppg; `name` if not given.
        ids: a column of the tables, as many files of ids as files of numbers, or "order"; None: the column `match`.
        match: what the ids are: image_id, study_id or patient_id.
        ignore_unknown: leave out ids that the store does not have.

    Returns:
        The bank, and how many rows of the files were unknown, repeated, with_nan and all_zero.

    Raises:
        PacxError: what the module's description says, or files that do not fit together.
    """
    if match not in KEYS or match not in store.manifest:
        known = [key for key in KEYS if key in store.manifest]
        raise PacxError(f"--match {match!r}: store {store.name!r} has the ids {', '.join(known)}.")
    id_column = ids[0] if ids and len(ids) == 1 and not _is_file(ids[0]) and ids[0] != ORDER else match
    opened = [open_embeddings(path, id_column=id_column) for path in files]
    if len({file.dim for file in opened}) != 1:
        found = ", ".join(f"{file.path} {file.dim}" for file in opened)
        raise PacxError(f"The embeddings have different lengths: {found}. One bank is of one teacher.")
    targets, keys, first_place, counts = _places(store, opened, ids, match, ignore_unknown=ignore_unknown)
    source = [{"file": file.path.name, "rows": file.num_rows, "sha256": file_hash(file.path)} for file in opened]
    plan = {
        "teacher": name,
        "kind": kind or name,
        "weights_hash": hashlib.sha256("".join(str(item["sha256"]) for item in source).encode()).hexdigest(),
        "preprocessing": {"embeddings": "imported", "match": ORDER if ids and list(ids) == [ORDER] else match},
        "store": {"name": store.name, "hash": store.content_hash},
        "num_rows": len(store),
        "dim": opened[0].dim,
        "source": source,
    }
    writer = BankWriter(folder, plan, resume=False)
    try:
        present = _copy(writer, opened, targets, keys, first_place, counts)
        _refuse_bad(counts, present, store)
        writer.finish(present, list(map(str, store.manifest["image_id"])), _pacx())
    except BaseException:
        writer.discard()
        raise
    return Bank.open(folder), {
        "num_unknown": counts.unknown,
        "num_repeated": counts.repeated,
        "num_with_nan": counts.with_nan,
        "num_all_zero": counts.all_zero,
    }


def _places(
    store: Store, opened: Sequence[EmbeddingFile], ids: Sequence[str] | None, match: str, *, ignore_unknown: bool
) -> tuple[list[NDArray[np.int64]], NDArray[np.str_], NDArray[np.int64], _Counts]:
    """Find the rows of the store for each row of the files.

    Returns:
        The store's rows by row of the files (empty = unknown), the ids, the first row of the files with the same id,
        and the counts so far.
    """
    counts = _Counts()
    total = sum(file.num_rows for file in opened)
    if ids and list(ids) == [ORDER]:
        if total != len(store):
            raise PacxError(
                f"--ids order needs one embedding per row: the files hold {total}, store {store.name!r} {len(store)}. "
                "Give the ids: --ids FILE, or a parquet file with an id column."
            )
        places = np.arange(total)
        return [places[i : i + 1] for i in range(total)], store.manifest["image_id"].to_numpy(str), places, counts
    keys = _ids(opened, ids, match)
    column = store.manifest[match]
    rows_of = {str(key): rows for key, rows in column.dropna().groupby(column.astype(str)).indices.items() if key != ""}
    nowhere = np.empty(0, dtype=np.int64)
    targets = [np.asarray(rows_of.get(str(key), nowhere)) for key in keys]
    missing = [str(key) for key, rows in zip(keys, targets, strict=True) if not len(rows)]
    counts.unknown = len(missing)
    if missing and (not ignore_unknown or len(missing) == len(keys)):
        raise PacxError(
            f"{len(missing)} of {len(keys)} ids are no {match} of store {store.name!r}: {_some(missing)}. The store "
            f"has {_some(sorted(rows_of))}. Choose --match, mend the ids"
            + ("." if len(missing) == len(keys) else ", or leave them out with --ignore-unknown.")
        )
    codes, _ = pd.factorize(keys)
    _, first_of_code = np.unique(codes, return_index=True)
    return targets, keys, first_of_code[codes], counts


def _ids(opened: Sequence[EmbeddingFile], ids: Sequence[str] | None, match: str) -> NDArray[np.str_]:
    """Return the ids of all rows of the files, one after the other."""
    id_files = [Path(item) for item in ids or () if _is_file(item)]
    if id_files:
        if len(id_files) != len(opened) or len(id_files) != len(ids or ()):
            raise PacxError(f"{len(opened)} files of embeddings need as many of ids; --ids names {len(ids or ())}.")
        parts = [read_ids(path, column=match) for path in id_files]
        for file, part, path in zip(opened, parts, id_files, strict=True):
            if len(part) != file.num_rows:
                raise PacxError(f"{file.path} has {file.num_rows} rows, {path} {len(part)} ids. They must agree.")
        return np.concatenate(parts)
    plain = [str(file.path) for file in opened if file.id_column is None]
    if plain:
        raise PacxError(
            f"{_some(plain)} holds numbers without ids. Give --ids FILE (.npy, .txt, .csv or .parquet, one id per "
            "row), or --ids order if row i belongs to row i of the store."
        )
    return np.concatenate([file.ids() for file in opened])


def _copy(
    writer: BankWriter,
    opened: Sequence[EmbeddingFile],
    targets: Sequence[NDArray[np.int64]],
    keys: NDArray[np.str_],
    first_place: NDArray[np.int64],
    counts: _Counts,
) -> NDArray[np.bool_]:
    """Write every embedding to its rows; returns which rows got one."""
    present = np.zeros(int(writer.plan["num_rows"]), dtype=bool)
    place = 0
    for file in opened:
        for block in file.blocks():
            for vector in block:
                rows, key = targets[place], str(keys[place])
                repeated = first_place[place] != place
                place += 1
                if not len(rows):
                    continue
                if repeated:
                    _refuse_conflict(writer, present, rows, vector, key)
                    counts.repeated += 1
                elif np.isnan(vector).any():
                    counts.with_nan += 1
                elif not has_length(vector[None])[0]:
                    counts.infinite.append(key)
                else:
                    counts.all_zero += not vector.any()
                    writer.write(rows, np.broadcast_to(vector, (len(rows), len(vector))))
                    present[rows] = True
    return present


def _refuse_conflict(
    writer: BankWriter, present: NDArray[np.bool_], rows: NDArray[np.int64], vector: NDArray[np.float32], key: str
) -> None:
    """Refuse an id that comes twice with different numbers; two with NaN are both holes."""
    same = np.array_equal(writer.read(int(rows[0])), vector) if present[rows[0]] else bool(np.isnan(vector).any())
    if not same:
        raise PacxError(f"The id {key!r} comes twice, with different embeddings. Keep one of them, or their mean.")


def _refuse_bad(counts: _Counts, present: NDArray[np.bool_], store: Store) -> None:
    if counts.infinite:
        raise PacxError(
            f"{len(counts.infinite)} embeddings hold infinite numbers, or too large ones for float32 to have a length: "
            f"{_some(counts.infinite)}. Mend them, or set them to NaN to leave these rows out."
        )
    if not present.any():
        raise PacxError(f"All embeddings hold NaN: no row of store {store.name!r} would have one.")
    if counts.all_zero:
        log.warning(
            "bank: %d embeddings are all zeros. If zeros stand for missing ones, write NaN instead: a hole teaches "
            "nothing, zeros teach that these patients are alike.", counts.all_zero,
        )  # fmt: skip
    for number, what in (
        (counts.unknown, "rows of unknown ids were left out"),
        (counts.with_nan, "rows hold NaN and became holes"),
        (counts.repeated, "rows repeat an earlier one"),
    ):
        if number:
            log.info("bank: %d %s", number, what)


def _is_file(text: str) -> bool:
    return Path(text).suffix in {".npy", ".txt", ".csv", ".parquet"}


def _pacx() -> Mapping[str, Any]:
    from pacx import __version__

    return {"pacx_version": __version__}


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
