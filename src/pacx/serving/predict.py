"""The `predict` command: calibrated probabilities of one's own images, by a trained head."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pacx.data.image_files import list_images
from pacx.errors import PacxError
from pacx.readout import Readout
from pacx.serving.opening import open_model
from pacx.serving.runtime import Answers
from pacx.serving.sweep import Columns, sweep, sweep_in_memory

__all__ = ["predict"]


def predict(
    images: list[str],
    *,
    model: str = "shipped:phantom-small",
    encoder: str | None = None,
    out: Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict with a trained head: for every question a calibrated probability, and whether it reaches the threshold.

    Research use only; not a medical device.

    Example:
        pacx predict scans/ --model runs/probe-pacx --out predictions.csv

    Args:
        images: files (DICOM, PNG, JPEG, TIFF), folders, patterns such as 'scans/*.dcm', or tables with a column `path`.
        model: the run folder of `pacx probe` (protocol honest) or `pacx finetune`, an ONNX file of `pacx export` (needs
            no torch), or shipped:NAME.
        encoder: where the head's encoder is now, if it was moved.
        out: a .csv or .parquet file: image_id, path, and two columns for each output, NAME (probability) and
            NAME_positive; printed as CSV if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        workers: processes that read files; one per core if not given, 0 reads in this process.
        overwrite: replace the table if it is there.

    Returns:
        num_images, num_rejected and path.

    Raises:
        PacxError: a model without a head, an image that is not there, a table that is there already, or no file that
            can be read.
    """
    opened = open_model(model, encoder=encoder)
    readout = opened.facts.readout
    if readout is None:
        raise PacxError(
            f"{model} is an encoder without a trained head: it embeds (`pacx features`) and predicts nothing. Train a "
            "head with `pacx probe` and give its run folder."
        )
    listed, columns = list_images(images), _columns(readout)
    if out is not None:
        swept = sweep(
            listed, opened, want=("probability",), columns=columns, out=out, batch_size=batch_size, workers=workers,
            overwrite=overwrite,
        )  # fmt: skip
        return swept._asdict()
    table, num_rejected = sweep_in_memory(
        listed, opened, want=("probability",), columns=columns, batch_size=batch_size, workers=workers
    )
    table.to_csv(sys.stdout, index=False, float_format="%.4f")
    return {"num_images": len(table), "num_rejected": num_rejected, "path": ""}


def _columns(readout: Readout) -> Columns:
    def columns(answers: Answers) -> dict[str, NDArray[Any]]:
        assert answers.probability is not None
        found: dict[str, NDArray[Any]] = {}
        for output, column in zip(readout.outputs, answers.probability.T, strict=True):
            found |= {output.name: column, f"{output.name}_positive": column >= output.threshold}
        return found

    return columns
