"""Where an encoder looks in one's own images: an overlay per file, nothing measured.

OUT/overlays/NAME.png     the X-ray beside itself with its attention
OUT/attention.parquet     image_id, path, overlay, peak (times even attention), and the map, row by row from the top
OUT/rejects.csv           files that could not be read, with the reason; absent if there are none
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.image_files import ImageFile, list_images
from pacx.data.images import read_cxr
from pacx.errors import PacxError
from pacx.evaluation.overlays import save_overlay
from pacx.evaluation.rollout import HeadFusion, ReadToken, rollout_maps
from pacx.frozen.features import encoder_name, open_encoder
from pacx.models.encoder import Encoder, weights_hash
from pacx.runs import open_run

__all__ = ["explain_images"]

log = logging.getLogger("pacx")


class _Looked(NamedTuple):
    image: ImageFile
    pixels: NDArray[np.float32]
    attention: NDArray[np.float64]


def explain_images(
    images: Sequence[str],
    *,
    encoder: str,
    out: Path,
    head_fusion: HeadFusion,
    start_layer: int,
    token: ReadToken,
    name: str | None,
    batch_size: int,
    overwrite: bool,
) -> dict[str, Any]:
    """Draw the attention rollout of an encoder over every image; arguments as those of `pacx explain`.

    Raises:
        PacxError: an image or encoder that is not there, or no file that can be read.
    """
    listed, network = list_images(images), open_encoder(encoder)
    if not 0 <= start_layer < network.config.depth:
        raise PacxError(
            f"--start_layer {start_layer} was given; the encoder has {network.config.depth} blocks, from 0."
        )
    config = {"images": list(images), "encoder": encoder, "head_fusion": head_fusion, "start_layer": start_layer}
    with open_run(
        out, command="explain", config={**config, "token": token, "batch_size": batch_size}, overwrite=overwrite
    ) as run:
        label = name or encoder_name(encoder)
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        rejected: list[tuple[str, str]] = []
        rows: list[dict[str, Any]] = []
        settings = {"head_fusion": head_fusion, "start_layer": start_layer, "token": token}
        for looked in _look(network, listed, batch_size, rejected, settings):
            overlay = f"overlays/{_unique(looked.image, rows)}.png"
            geometry = network.config.preprocess.geometry
            save_overlay(
                run.artefact(f"overlay-{len(rows)}", overlay), looked.pixels, looked.attention, geometry=geometry,
                title=f"{looked.image.image_id} - {label}",
            )  # fmt: skip
            peak = float(looked.attention.max() * looked.attention.size)
            rows.append({**looked.image._asdict(), "overlay": overlay, "peak": peak, "map": looked.attention.ravel()})
        if not rows:
            raise PacxError(f"None of the {len(rejected)} files can be read. The first: {': '.join(rejected[0])}")
        pd.DataFrame(rows).to_parquet(run.artefact("attention", "attention.parquet"))
        if rejected:
            rejects = pd.DataFrame(rejected, columns=["file", "reason"])
            rejects.to_csv(run.artefact("rejects", "rejects.csv"), index=False)
            log.warning("%d of %d files could not be read: %s", len(rejected), len(listed), run.path / "rejects.csv")
        return run.finish({"encoder_name": label, "num_images": len(rows), "num_rejected": len(rejected)})


def _look(
    encoder: Encoder,
    images: Sequence[ImageFile],
    batch_size: int,
    rejected: list[tuple[str, str]],
    settings: dict[str, Any],
) -> Iterator[_Looked]:
    """Yield the attention of every image that can be read."""
    device = next(encoder.parameters()).device
    for start in tqdm(range(0, len(images), batch_size), desc="attention", unit="batch", leave=False, disable=None):
        found: list[tuple[ImageFile, NDArray[np.float32]]] = []
        for image in images[start : start + batch_size]:
            try:
                found.append((image, read_cxr(image.path).pixels))
            except PacxError as error:
                rejected.append((image.path, str(error).removeprefix(f"{image.path}: ")))
        if found:
            prepared = np.stack([encoder.config.preprocess(pixels) for _, pixels in found])
            maps = rollout_maps(encoder, torch.from_numpy(prepared).to(device), **settings)
            yield from (_Looked(image, pixels, own) for (image, pixels), own in zip(found, maps, strict=True))


def _unique(image: ImageFile, rows: Sequence[dict[str, Any]]) -> str:
    """Name an overlay after its file; several of one name are numbered."""
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(image.path).stem) or "image"
    taken = {row["overlay"] for row in rows}
    numbered = [stem, *(f"{stem}-{number}" for number in range(2, len(rows) + 3))]
    return next(name for name in numbered if f"overlays/{name}.png" not in taken)
