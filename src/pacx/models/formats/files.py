"""Read a file of weights without running anything that it holds.

* What a file is, its first bytes say; its name may lie. safetensors holds arrays only. PyTorch's files are pickles,
  programs by nature: they are read with `weights_only=True`, which knows tensors, plain values and the few harmless
  classes below, and refuses the rest instead of running it.
* A training checkpoint holds more than weights (optimiser, arguments, epoch). The weights are the entry `state_dict`
  or `model`; averaged weights (`..._ema`) go first, as in timm. What else there is, is kept for hyper-parameters.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import json
import pathlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.weights import WEIGHTS_FILE, name_some

__all__ = ["FOLDER_FILES", "Weights", "folder_file", "folder_weights", "read_weights"]

ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# Checkpoints keep their command line in these. They only hold values: making one runs nothing else.
_PATHS = (pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath)
HARMLESS: list[Any] = [argparse.Namespace, *_PATHS, collections.defaultdict, datetime.timedelta, list, dict, int]
# Python 3.13 writes paths under another name.
HARMLESS += [(path, f"pathlib._local.{path.__name__}") for path in (*_PATHS[:1], *_PATHS[2:])]
HARMLESS += [(pathlib.PurePosixPath, "pathlib._local.PosixPath")]
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
FOLDER_FILES = (WEIGHTS_FILE, INDEX_FILE, TORCH_FILE)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class Weights:
    """The tensors of one file, under the names that they have there."""

    tensors: dict[str, Tensor]
    path: Path
    sha256: str
    entry: str | None = None
    """the entry of a checkpoint that the tensors were in"""
    others: Mapping[str, Any] = field(default_factory=dict)
    """the checkpoint's other entries"""


def read_weights(path: Path) -> Weights:
    """Read a safetensors or PyTorch file, whatever its name.

    Raises:
        PacxError: the file is absent, damaged, holds no tensors, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise PacxError(f"{path} does not exist or is no file. Give a file of weights.")
    with path.open("rb") as file:
        start = file.read(200)
    _refuse_what_is_no_weights(path, start)
    content = _read_torch(path, start) if start.startswith((_ZIP, _PICKLE)) else _read_safetensors(path)
    entry = next((name for name in ENTRIES if _has_tensors(content.get(name))), None)
    state = content if entry is None else content[entry]
    tensors = {str(name): value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise PacxError(
            f"{path} holds no tensors; its entries are: {name_some([str(name) for name in content]) or 'none'}. "
            f"Weights are looked for at the top and under {', '.join(ENTRIES)}."
        )
    others = {} if entry is None else {str(name): value for name, value in content.items() if name != entry}
    return Weights(tensors, path, _sha256([path]), entry, others)


def folder_file(folder: Path) -> Path:
    """Return the file that says what the weights of a model folder are: safetensors if there is one, else PyTorch's.

    Raises:
        PacxError: there is none.
    """
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise PacxError(f"{folder} has a config.json and no weights beside it: neither {WEIGHTS_FILE} nor {TORCH_FILE}.")


def folder_weights(folder: Path, file: Path | None = None) -> Weights:
    """Read the weights of a model folder, also from several safetensors files; `file` is the one wanted of several.

    Raises:
        PacxError: there are none, or they cannot be read.
    """
    path = file or folder_file(folder)
    return _read_shards(folder) if path.name == INDEX_FILE else read_weights(path)


def _read_shards(folder: Path) -> Weights:
    try:
        names = sorted(set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise PacxError(f"{folder / INDEX_FILE} does not name the files of the weights. Copy it again.") from error
    paths = [folder / Path(name).name for name in names]
    parts = [read_weights(path) for path in paths]
    tensors = {name: value for part in parts for name, value in part.tensors.items()}
    return Weights(tensors, folder / INDEX_FILE, _sha256(paths))


def _has_tensors(entry: object) -> bool:
    """Say whether it is a mapping with tensors: an empty `model_ema` must not hide `model`."""
    return isinstance(entry, Mapping) and any(isinstance(value, Tensor) for value in entry.values())


def _refuse_what_is_no_weights(path: Path, start: bytes) -> None:
    if not start:
        raise PacxError(f"{path} is empty. Copy or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise PacxError(
            f"{path} is not the weights but Git LFS's note of where they are. Fetch them with `git lfs pull`."
        )
    if path.suffix.lower() == ".onnx":
        raise PacxError(
            f"{path} is an exported model, from which no encoder can be had back. Give the encoder's folder; `pacx "
            "features`, `predict`, `similar` and `serve` take the ONNX file itself."
        )
    if start.lstrip().startswith(b"<"):
        raise PacxError(f"{path} is a web page, not weights: the download led to a log-in or an error page.")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise PacxError(
            f"{path} is neither a PyTorch file nor a readable safetensors file ({error}). It may be cut short, or of "
            "another kind. Copy or download it again."
        ) from error


def _read_torch(path: Path, start: bytes) -> dict[str, Any]:
    """Unpickle tensors and plain values.

    A zipped file is mapped: unused tensors take no memory, though the digest reads every byte once.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for what it cannot read
        wanted = re.search(r"(?:GLOBAL|global:?)\s+([\w]+\.[\w.]+)", str(error))
        if wanted and "Unsupported storage" not in str(error):
            raise PacxError(
                f"{path} is a pickle that asks for {wanted[1]}, which is neither a tensor nor a plain value. Loading "
                "it could run any code, so it was not loaded. If you trust its author, load it where it was made and "
                "save its state_dict as safetensors."
            ) from error
        raise PacxError(
            f"{path} cannot be read as a PyTorch file of tensors ({_first_words(error)}). It may be cut short, or hold "
            "more than weights; nothing in it was run. Copy or download it again, or save its state_dict as "
            "safetensors."
        ) from error
    if not isinstance(content, Mapping):
        raise PacxError(f"{path} holds a {type(content).__name__}; weights are a mapping from names to tensors.")
    return dict(content)


def _first_words(error: Exception) -> str:
    """The last paragraph but the advice is torch's reason; before it stands how to switch the protection off."""
    text = " ".join(str(error).split())
    reason = text.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0].strip()
    return f"{type(error).__name__}: {reason[:160]}"


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
