"""A trained, calibrated head on disk: a folder beside the encoder that it reads.

    FOLDER/head.safetensors   weight (K, D), bias (K,): log-odds of K yes-or-no questions, calibration included
    FOLDER/head.json          what the K outputs are, how well they were found to work, hash of the encoder

D is the length of what the head reads: the class token, the mean of the patch tokens, or the two side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pacx.errors import PacxError
from pacx.models.weights import new_folder, read_config
from pacx.readout import Readout
from pacx.runs import write_json

__all__ = ["HEAD_FOLDER", "ReadoutHead", "find_head", "load_head", "save_head"]

HEAD_FOLDER, FACTS_FILE, NUMBERS_FILE = "head", "head.json", "head.safetensors"
_FORMAT = "pacx-head-1"


@dataclass(frozen=True, eq=False)
class ReadoutHead:
    """A linear map from an embedding to calibrated log-odds."""

    weight: NDArray[np.float32]
    """(K, D)"""
    bias: NDArray[np.float32]
    """(K,)"""
    readout: Readout
    encoder_hash: str
    """of the encoder whose features it was fitted on"""
    encoder: str
    """where that encoder was, as the user named it; "" if it lies beside the head"""


def save_head(head: ReadoutHead, folder: Path) -> Path:
    """Write a head folder, whole or not at all."""
    with new_folder(folder, marker=FACTS_FILE) as filling:
        save_file({"weight": head.weight, "bias": head.bias}, filling / NUMBERS_FILE)
        (filling / NUMBERS_FILE).chmod(0o644)  # safetensors makes private files
        facts = {"encoder": head.encoder, "encoder_hash": head.encoder_hash, "readout": head.readout.to_dict()}
        write_json(filling / FACTS_FILE, {"format": _FORMAT, **facts})
    return folder


def find_head(source: Path) -> Path | None:
    """Return the head folder in a run folder, or the folder itself if it is one; None if there is none."""
    for folder in (Path(source), Path(source) / HEAD_FOLDER):
        if (folder / FACTS_FILE).is_file():
            return folder
    return None


def load_head(source: Path) -> ReadoutHead:
    """Read a head from its folder, or from the run folder that holds it.

    Raises:
        PacxError: there is none, or its files are damaged or do not fit together.
    """
    folder = find_head(source)
    if folder is None:
        raise PacxError(
            f"{source} holds no trained head ({HEAD_FOLDER}/{FACTS_FILE}). Give the --out folder of `pacx probe` "
            "(protocol honest) or `pacx finetune`."
        )
    facts = read_config(folder, name=FACTS_FILE)
    if facts.get("format") != _FORMAT:
        raise PacxError(f"{folder / FACTS_FILE} has format {facts.get('format')!r}; this pacx reads {_FORMAT!r}.")
    try:
        arrays = load_file(folder / NUMBERS_FILE)
        weight, bias = arrays["weight"], arrays["bias"]
        readout = Readout.from_dict(facts["readout"])
        head = ReadoutHead(weight, bias, readout, str(facts["encoder_hash"]), str(facts["encoder"]))
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise PacxError(f"The head in {folder} cannot be read ({error}). Train it again.") from error
    _check(head, folder)
    return head


def _check(head: ReadoutHead, folder: Path) -> None:
    outputs = len(head.readout.outputs)
    arrays: tuple[Any, ...] = (head.weight, head.bias)
    if head.weight.ndim != 2 or head.weight.shape[0] != outputs or head.bias.shape != (outputs,):
        raise PacxError(
            f"The head in {folder} has a weight {head.weight.shape} and a bias {head.bias.shape} for {outputs} "
            "outputs; they do not belong together. Train it again."
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise PacxError(f"The head in {folder} has weights that are not finite. Train it again.")
