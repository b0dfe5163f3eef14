"""The `similar` command: the images of a store, or of a table of features, that an encoder takes for alike."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.image_files import list_images
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.serving.checks import store_batches
from pacx.serving.features import feature_columns
from pacx.serving.gallery import unit_rows
from pacx.serving.opening import open_model
from pacx.serving.runtime import Model
from pacx.serving.sweep import ENCODER_HASH, check_speed, check_table, sweep_in_memory, write_table

__all__ = ["similar"]

log = logging.getLogger("pacx")


def similar(
    images: list[str],
    *,
    among: Path,
    encoder: str = "shipped:phantom-small",
    num: int = 5,
    out: Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Find the nearest known images: largest cosine between embeddings, the mean of the known ones taken off.

    Example:
        pacx similar scan.dcm --among stores/mine --encoder runs/pacx/encoder

    Args:
        images: files (DICOM, PNG, JPEG, TIFF), folders, patterns such as 'scans/*.dcm', or tables with a column `path`.
        among: a store, whose images are embedded now; or a table of `pacx features` of the same encoder, which is
            faster when asked again. Parquet says which encoder made it, CSV cannot.
        encoder: an encoder as `load_encoder` takes it, an ONNX file of `pacx export` (needs no torch), or shipped:NAME.
        num: neighbours per image.
        out: a .csv or .parquet file: image_id, rank, neighbour, similarity; printed as CSV if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        workers: processes that read files; one per core if not given, 0 reads in this process.
        overwrite: replace the table if it is there.

    Returns:
        num_images, num_known and num_rejected.

    Raises:
        PacxError: an image, a store or a table that is not there or of another encoder; no file that can be read; an
            --out that is there already or is no table.
    """
    if num < 1:
        raise PacxError(f"Found --num {num}; allowed: 1 or more neighbours.")
    check_speed(batch_size=batch_size, workers=workers)
    if out is not None:
        check_table(out, overwrite=overwrite)
    model = open_model(encoder)
    known, names = _known(among, model)
    table, num_rejected = sweep_in_memory(
        list_images(images), model, want=("embedding",), columns=feature_columns, batch_size=batch_size, workers=workers
    )
    mean = known.mean(axis=0)
    cosine = unit_rows(_features(table) - mean) @ unit_rows(known - mean).T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :num]
    rows = [
        {
            "image_id": image,
            "rank": rank,
            "neighbour": names[row],
            "similarity": round(float(cosine[place, row]), 6),
        }
        for place, image in enumerate(table["image_id"])
        for rank, row in enumerate(nearest[place], start=1)
    ]
    ranked = pd.DataFrame(rows)
    if out is None:
        print(ranked.to_csv(index=False), end="")
    else:
        write_table(ranked, out)
    return {"num_images": len(table), "num_known": len(known), "num_rejected": num_rejected}


def _known(among: Path, model: Model) -> tuple[NDArray[np.float32], list[str]]:
    """Return embeddings (n, D) and names of the known images."""
    if among.is_file():
        table = pd.read_parquet(among) if among.suffix.lower() == ".parquet" else pd.read_csv(among)
        features = _features(table)
        _check_same_encoder(among, table, model)
        if "image_id" not in table or features.shape[1] != model.facts.width:
            raise PacxError(
                f"{among} has {features.shape[1]} feature columns; this encoder makes {model.facts.width}. Give a "
                "table of `pacx features` made with the same --encoder."
            )
        return features, table["image_id"].astype(str).tolist()
    store = Store.open(among)
    rows = store.rows(needs=("image",))
    batches = store_batches(model.facts.preprocess, store, rows)
    found = [model.run(batch, want=("embedding",)).embedding for batch in batches]
    if not found:
        raise PacxError(f"The store {store.name!r} ({among}) holds no images. Choose a store with X-rays.")
    names = store.manifest["image_id"].astype(str).to_numpy()[rows].tolist()
    return np.concatenate([part for part in found if part is not None]), names


def _check_same_encoder(among: Path, table: pd.DataFrame, model: Model) -> None:
    """Refuse embeddings of another encoder: their numbers mean something else, whatever their width.

    Raises:
        PacxError: they are.
    """
    made_by = table.attrs.get(ENCODER_HASH)
    if made_by is None:
        log.warning("similar: %s does not say which encoder made it; it has to be the one of --encoder.", among)
    elif made_by != model.facts.weights_hash:
        raise PacxError(
            f"{among} was made with another encoder (weights {made_by[:12]}...) than --encoder {model.facts.name} "
            f"({model.facts.weights_hash[:12]}...). Give that one, or make the table again with `pacx features`."
        )


def _features(table: pd.DataFrame) -> NDArray[np.float32]:
    columns = sum(str(column).startswith("feature_") for column in table.columns)
    return table[[f"feature_{number}" for number in range(columns)]].to_numpy(dtype=np.float32)
