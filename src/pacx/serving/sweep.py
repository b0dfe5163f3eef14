"""A model over many files: read on all cores, answered in batches, written in parts, joined at the end.

    OUT                  the table, there only when it is whole
    OUT.parts/           finished parts of an interrupted sweep, and what was asked for; gone when OUT is there
                         (Parquet's metadata say which encoder answered: `ENCODER_HASH` of the table's `attrs`)
    OUT.rejects.csv      files that could not be read, with the reason; absent if there are none

The same command after an interruption goes on with the first part that is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.image_files import ImageFile
from pacx.data.images import read_cxr
from pacx.data.pixels import MAX_PIXELS
from pacx.data.workers import available_cores, worker_pool
from pacx.errors import PacxError
from pacx.preprocess import Preprocess
from pacx.runs import check_counts, write_text
from pacx.serving.runtime import Answers, Model

__all__ = ["ENCODER_HASH", "Swept", "check_speed", "check_table", "sweep", "sweep_in_memory", "write_table"]

ENCODER_HASH = "encoder_hash"
"""hash of the encoder's weights, among the attributes of a table"""
_PART = 512
"""images per part: what an interruption can cost"""
_TABLES = (".parquet", ".csv")
log = logging.getLogger("pacx")

Columns = Callable[[Answers], Mapping[str, NDArray[Any]]]


class Swept(NamedTuple):
    """What came of a sweep."""

    num_images: int
    num_rejected: int
    path: str


def sweep(
    images: Sequence[ImageFile],
    model: Model,
    *,
    want: Collection[str],
    columns: Columns,
    out: Path,
    batch_size: int,
    workers: int | None,
    overwrite: bool,
) -> Swept:
    """Answer for files and write a table: image_id, path, then `columns` of the answers.

    Args:
        images: the files.
        model: answers.
        want: what the model is asked for.
        columns: turns the answers for B images into columns of length B.
        out: a .parquet or .csv file.
        batch_size: images per forward pass.
        workers: processes that read; None for one per core, 0 or 1 to stay in this process.
        overwrite: replace a finished table.

    Raises:
        PacxError: the table is there already, or cannot be written, none of the files can be read, or a number is too
            small.
    """
    check_table(out, overwrite=overwrite)
    check_speed(batch_size=batch_size, workers=workers)
    parts = out.with_name(f"{out.name}.parts")
    _claim(parts, _plan(images, model, want))
    starts = range(0, len(images), _PART)
    todo = [start for start in starts if not (parts / f"{start}.rejects.json").is_file()]
    if len(todo) < len(starts):
        log.info("goes on: %d of %d parts are done", len(starts) - len(todo), len(starts))
    with tqdm(total=len(images), initial=_PART * (len(starts) - len(todo)), unit="image", disable=None) as bar:
        for start, (table, rejected) in zip(
            todo, _answers(images, todo, model, want, columns, batch_size, workers, bar), strict=True
        ):
            table.to_parquet(parts / f"{start}.parquet")
            write_text(parts / f"{start}.rejects.json", json.dumps(rejected))  # last: with it the part counts as done
    return _join(parts, starts, out, encoder_hash=model.facts.weights_hash)


def sweep_in_memory(
    images: Sequence[ImageFile],
    model: Model,
    *,
    want: Collection[str],
    columns: Columns,
    batch_size: int,
    workers: int | None,
) -> tuple[pd.DataFrame, int]:
    """Answer for files without writing.

    Returns:
        The table, and how many files could not be read; the log says which, and why.

    Raises:
        PacxError: none of the files can be read, or a number is too small.
    """
    check_speed(batch_size=batch_size, workers=workers)
    bar = tqdm(total=len(images), unit="image", leave=False, disable=None)
    found = list(_answers(images, range(0, len(images), _PART), model, want, columns, batch_size, workers, bar))
    bar.close()
    table, rejected = (
        pd.concat([own for own, _ in found], ignore_index=True),
        [one for _, lost in found for one in lost],
    )
    for path, reason in rejected:
        log.warning("%s: %s", path, reason)
    if not len(table):
        raise PacxError(f"None of the {len(rejected)} files can be read.")
    return table, len(rejected)


def check_table(out: Path, *, overwrite: bool) -> None:
    """Refuse a place where no table can be written.

    Raises:
        PacxError: its name has another ending than a table's, or something is there that is not to be replaced.
    """
    if out.suffix.lower() not in _TABLES:
        raise PacxError(f"{out} does not end in {' or '.join(_TABLES)}. Choose another --out.")
    if out.exists() and not (overwrite and out.is_file()):
        raise PacxError(f"{out} is there already. Choose another --out, or pass --overwrite true to replace it.")


def check_speed(*, batch_size: int, workers: int | None) -> None:
    """Refuse numbers of images at a time and of processes that cannot be.

    Raises:
        PacxError: a batch of less than one image, or a negative number of processes.
    """
    check_counts({"batch_size": batch_size})
    if workers is not None and workers < 0:
        raise PacxError(
            f"workers is {workers}; it must be 0 or more (0 reads in this process). Leave it out for one per core."
        )


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table in the form that its name says, whole or not at all.

    Args:
        table: any.
        out: a .parquet or .csv file; folders above it are made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        draft = Path(folder) / out.name
        if out.suffix.lower() == ".csv":
            table.to_csv(draft, index=False)
        else:
            table.to_parquet(draft)
        draft.replace(out)


def _answers(
    images: Sequence[ImageFile],
    starts: Sequence[int],
    model: Model,
    want: Collection[str],
    columns: Columns,
    batch_size: int,
    workers: int | None,
    bar: Any,
) -> Iterator[tuple[pd.DataFrame, list[tuple[str, str]]]]:
    """Answer part by part."""
    wanted = [image for start in starts for image in images[start : start + _PART]]
    read = _read_all(wanted, model.facts.preprocess, workers)
    for start in starts:
        part = images[start : start + _PART]
        tables, rejected = [], []
        for first in range(0, len(part), batch_size):
            names, pixels = [], []
            for image in part[first : first + batch_size]:
                found = next(read)
                bar.update()
                if isinstance(found, str):
                    rejected.append((image.path, found))
                else:
                    names.append(image)
                    pixels.append(found)
            if names:
                values = columns(model.run(np.stack(pixels), want=want))
                tables.append(pd.DataFrame({**_named(names), **values}))
        yield pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(_named([])), rejected


def _named(images: Sequence[ImageFile]) -> dict[str, list[str]]:
    return {"image_id": [image.image_id for image in images], "path": [image.path for image in images]}


def _read_all(
    images: Sequence[ImageFile], preprocess: Preprocess, workers: int | None
) -> Iterator[NDArray[np.float32] | str]:
    """Yield each image preprocessed, or why it cannot be read, in order."""
    num = min(available_cores() if workers is None else workers, max(1, len(images) // 4))
    if num <= 1:
        yield from (_read(image.path, preprocess) for image in images)
        return
    with worker_pool(num) as pool:
        # A window of jobs, not all of them: a million results must not wait in memory.
        window = 8 * num
        running = [pool.submit(_read, image.path, preprocess) for image in images[:window]]
        for place in range(len(images)):
            found = running[place % window].result()
            if place + window < len(images):
                running[place % window] = pool.submit(_read, images[place + window].path, preprocess)
            yield found


def _read(path: str, preprocess: Preprocess) -> NDArray[np.float32] | str:
    try:
        return preprocess(read_cxr(path, max_pixels=MAX_PIXELS).pixels)
    except PacxError as error:
        return str(error).removeprefix(f"{path}: ")


def _plan(images: Sequence[ImageFile], model: Model, want: Collection[str]) -> str:
    """Digest all that the parts depend on."""
    facts = {"model": model.facts.to_json(), "want": sorted(want), "images": [list(image) for image in images]}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _claim(parts: Path, plan: str) -> None:
    """Open the folder of parts; what another question left there is not mixed with this one's."""
    parts.mkdir(parents=True, exist_ok=True)
    note = parts / "plan.txt"
    if not note.is_file() and any(parts.iterdir()):
        raise PacxError(
            f"{parts} is not empty and was not made by pacx. Choose another --out; nothing was changed there."
        )
    if note.is_file() and note.read_text(encoding="utf-8").strip() != plan:
        log.info(
            "what an earlier command left in %s was asked of another model or of other files: it begins anew", parts
        )
        shutil.rmtree(parts)
        parts.mkdir()
    write_text(note, plan + "\n")


def _join(parts: Path, starts: Sequence[int], out: Path, *, encoder_hash: str) -> Swept:
    table = pd.concat([pd.read_parquet(parts / f"{start}.parquet") for start in starts], ignore_index=True)
    rejected = [one for start in starts for one in json.loads((parts / f"{start}.rejects.json").read_text("utf-8"))]
    if not len(table):
        shutil.rmtree(parts)
        raise PacxError(f"None of the {len(rejected)} files can be read. The first: {rejected[0][0]}: {rejected[0][1]}")
    rejects = out.with_name(f"{out.name}.rejects.csv")
    rejects.unlink(missing_ok=True)
    if rejected:
        write_text(rejects, pd.DataFrame(rejected, columns=["file", "reason"]).to_csv(index=False))
        log.warning("%d of %d files could not be read: %s", len(rejected), len(rejected) + len(table), rejects)
    table.attrs[ENCODER_HASH] = encoder_hash
    write_table(table, out)
    shutil.rmtree(parts)
    return Swept(len(table), len(rejected), str(out))
