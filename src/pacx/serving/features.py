"""The `features` command: embeddings of one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacx.data.image_files import list_images
from pacx.serving.opening import open_model
from pacx.serving.runtime import Answers
from pacx.serving.sweep import sweep

__all__ = ["feature_columns", "features"]


def features(
    images: list[str],
    *,
    encoder: str = "shipped:phantom-small",
    out: Path,
    batch_size: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embed images: one row per image, ready for any statistics program.

    Files are read on all cores. An interrupted command goes on where it stopped. What cannot be read is listed in
    OUT.rejects.csv with the reason.

    Example:
        pacx features scans/ --encoder runs/pacx/encoder --out features.parquet

    Args:
        images: files (DICOM, PNG, JPEG, TIFF), folders, patterns such as 'scans/*.dcm', or tables with a column `path`.
        encoder: an encoder as `load_encoder` takes it, an ONNX file of `pacx export` (needs no torch), or shipped:NAME.
        out: a .parquet or .csv file: image_id, path, feature_0 to feature_(D-1).
        batch_size: images per forward pass; only speed and memory depend on it.
        workers: processes that read files; one per core if not given, 0 reads in this process.
        overwrite: replace the table if it is there.

    Returns:
        num_images, num_rejected and path.

    Raises:
        PacxError: an image or encoder that is not there, a table that is there already, or no file that can be read.
    """
    model = open_model(encoder)
    swept = sweep(
        list_images(images), model, want=("embedding",), columns=feature_columns, out=out, batch_size=batch_size,
        workers=workers, overwrite=overwrite,
    )  # fmt: skip
    return swept._asdict()


def feature_columns(answers: Answers) -> dict[str, NDArray[np.float32]]:
    """Name the columns of embeddings (B, D)."""
    assert answers.embedding is not None
    return {f"feature_{number}": column for number, column in enumerate(answers.embedding.T)}
