"""The `store merge` command: the parts of a data set, prepared one by one, become one store.

What comes out is what `pacx prepare` makes of the whole, to the last bit: arrays are copied in blocks, and everything
else goes through the same last step. Interrupted, the same command starts its copy over.
"""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.manifest import PRESENCE, Manifest
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.runs import open_run

__all__ = ["merge_stores"]

log = logging.getLogger("pacx")


def merge_stores(shards: list[Path], *, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Join the parts that `pacx prepare --shard` made into one store.

    Example:
        pacx store merge stores/nih-1 stores/nih-2 stores/nih-3 --out stores/nih

    Args:
        shards: all parts of one data set, in any order.
        out: the store folder to make.
        overwrite: replace a finished store there.

    Returns:
        The content of result.json, as of `pacx prepare`.

    Raises:
        PacxError: a part is missing, there twice, or of another data set or other settings; or the disk is full.
    """
    parts = _arrange([Store.open(path) for path in shards])
    config = {"shards": [str(path) for path in shards]}
    with open_run(out, command="store merge", config=config, overwrite=overwrite) as run:
        run.read("shards", paths=shards, name=parts[0].name)
        if not (out / "meta.json").is_file():
            _join(parts, Path(out))
        store = Store.open(out)
        log.info("store merge: %d rows of %d parts of %s", len(store), len(parts), store.name)
        return run.finish(store.summary())


def _arrange(stores: Sequence[Store]) -> list[Store]:
    """Put the parts in their order.

    Raises:
        PacxError: they are not all the parts of one whole.
    """
    whole = [store for store in stores if "shard" not in store.meta]
    if whole or not stores:
        names = ", ".join(str(store.path) for store in whole) or "nothing"
        raise PacxError(f"`store merge` joins stores made with `pacx prepare --shard`; {names} is no such part.")
    first = stores[0].meta["shard"]
    for store in stores[1:]:
        shard = store.meta["shard"]
        if (shard["fingerprint"], shard["of"]) != (first["fingerprint"], first["of"]):
            raise PacxError(
                f"{store.path} is a part of another whole than {stores[0].path}: other files, other settings, or cut "
                f"into {shard['of']} in place of {first['of']} parts. Prepare all parts with the same command."
            )
    numbers = [store.meta["shard"]["number"] for store in stores]
    missing = sorted(set(range(1, first["of"] + 1)) - set(numbers))
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if missing or twice:
        wrong = [f"missing: {', '.join(map(str, missing))}"] * bool(missing)
        wrong += [f"there twice: {', '.join(map(str, twice))}"] * bool(twice)
        raise PacxError(f"Of the {first['of']} parts of {stores[0].name} {'; '.join(wrong)}. Give each part once.")
    return sorted(stores, key=lambda store: int(store.meta["shard"]["number"]))


def _join(parts: Sequence[Store], out: Path) -> None:
    meta = parts[0].meta
    shutil.rmtree(out / ".partial", ignore_errors=True)  # an earlier copy was interrupted
    writer = StoreWriter(
        out,
        name=meta["name"],
        num_rows=sum(len(part) for part in parts),
        image_size=meta["image_size"],
        geometry=meta["geometry"],
        mask_names=meta["mask_names"],
        ecg=any(part.ecg is not None for part in parts),
        fingerprint=meta["shard"]["fingerprint"],
    )
    first = 0
    for part in parts:
        _copy(writer, part, first)
        first += len(part)
    manifest = _manifest(parts)
    # Whether patients may cross the split was decided when the parts were prepared.
    writer.finish(manifest, source=meta["source"], allow_patient_overlap=True)


def _copy(writer: StoreWriter, part: Store, first: int) -> None:
    """Copy a part's rows to their places, with what is noted of them."""
    for row, file, reason in _lines(part.path / "rejects.csv"):
        writer.lose(first + row, file=file, reason=reason)
    ids = {name: row for row, name in enumerate(part.manifest["image_id"].astype(str))}
    steps = part.path / "ecg-steps.csv"
    if steps.is_file():
        table = pd.read_csv(steps, dtype=str, keep_default_na=False)
        for image_id, step in zip(table["image_id"], table["step"], strict=True):
            writer.note_steps(first + ids[image_id], [step])
    has = {name: part.manifest[f"has_{name}"].to_numpy() for name in ("image", "mask", "ecg")}
    for row in range(len(part)):
        masks = None
        if part.masks is not None and has["mask"][row]:
            masks = {name: part.mask(name, [row])[0] for name in part.mask_names}
        writer.write(
            first + row,
            image=np.asarray(part.images[row]) if part.images is not None and has["image"][row] else None,
            masks=masks,
            ecg=np.asarray(part.ecg[row]) if part.ecg is not None and has["ecg"][row] else None,
        )


def _lines(rejects: Path) -> Iterator[tuple[int, str, str]]:
    """Read a part's rejects; all of them are noted at its first row, in their order."""
    with rejects.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield 0, line["file"], line["reason"]


def _manifest(parts: Sequence[Store]) -> Manifest:
    meta = parts[0].meta
    table = pd.concat([part.manifest for part in parts], ignore_index=True).drop(columns=list(PRESENCE))
    labs = [part.labs.set_index(part.manifest["image_id"]) for part in parts if part.labs is not None]
    return Manifest(
        meta["name"],
        table,
        tasks=parts[0].tasks,
        labs=pd.concat(labs) if labs else None,
        lab_units=parts[0].lab_units,
        license=meta["license"],
        citation=meta["citation"],
        about=meta["about"],
        split_about=meta["split_about"],
        patients_of=parts[0].patients_of,
    )
