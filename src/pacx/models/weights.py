"""Weights on disk: written whole or not at all, read key by key or not at all.

* A model folder is `config.json` + `model.safetensors`; safetensors holds arrays only, so a file cannot run code.
* A folder is filled under a temporary name and then renamed: a reader never sees a part of it.
* A weight that is missing, left over or of another shape is an error that names it (`audit`). A partly loaded network
  gives plausible and wrong numbers, which is worse than none.
* Files of other projects come in through `pacx.models.formats`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pacx.errors import PacxError

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "audit",
    "fill",
    "load_weights",
    "name_some",
    "new_folder",
    "read_config",
    "save_tensors",
    "save_weights",
    "weights_hash",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
NAMES_SHOWN = 12


@contextmanager
def new_folder(folder: Path, *, marker: str = CONFIG_FILE) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving without an error it takes the place of `folder`.

    Args:
        folder: the final place. An older one is replaced if it is empty or holds `marker`.
        marker: a file whose presence says that the folder is one of ours.

    Raises:
        PacxError: the place is a file or a folder of something else, or it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise PacxError(
            f"{folder} exists and is no model folder (it has no {marker}), so it is not replaced. Choose another place."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        filling = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise PacxError(f"{folder} cannot be written ({error.strerror}). Choose another place.") from error
    try:
        yield filling
        _move_in(filling, folder)
    except (OSError, SafetensorError) as error:
        raise PacxError(f"{folder} could not be written: {error}. Nothing was changed there.") from error
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of a module, in its own precision, as safetensors."""
    save_tensors(module.state_dict(), path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, each in its own precision, as safetensors."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})  # transformers refuses files without this entry
    path.chmod(0o644)  # safetensors makes private files


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module, which may be on the meta device, from a safetensors file.

    Raises:
        PacxError: the file is absent or damaged, or its names and shapes are not exactly the module's.
    """
    if not path.is_file():
        raise PacxError(f"{path} does not exist. A model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise PacxError(f"{path} is no readable safetensors file ({error}). Copy or save it again.") from error
    audit(
        found,
        module.state_dict(),
        what=f"The weights in {path} do not fit the architecture in its {CONFIG_FILE}",
        advice="Use the configuration that was saved with these weights.",
    )
    fill(module, found)


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make audited tensors the weights of a module, which may be on the meta device; the tensors are used, not copied.

    Half-precision files are computed with in float32; counters, as BatchNorm has them, stay whole numbers.
    """
    values = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    module.load_state_dict(values, strict=True, assign=True)


def read_config(folder: Path, *, name: str = CONFIG_FILE) -> dict[str, Any]:
    """Read the `config.json`, or another JSON object, of a model folder.

    Raises:
        PacxError: it is absent or not a JSON object.
    """
    path = Path(folder) / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PacxError(f"{path} does not exist. A model folder holds {name} and {WEIGHTS_FILE}.") from error
    except (OSError, ValueError) as error:
        raise PacxError(f"{path} cannot be read as JSON ({error}). Copy or save the model folder again.") from error
    if not isinstance(content, dict):
        raise PacxError(f"{path} holds a JSON {type(content).__name__}; a model's configuration is a JSON object.")
    return content


def weights_hash(module: nn.Module) -> str:
    """Digest names, types, shapes and values of all weights: equal exactly when the networks are.

    Returns:
        SHA-256 in hexadecimal, 64 characters.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def audit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, what: str, advice: str) -> None:
    """Compare names and shapes of tensors with those that a network has.

    Args:
        found: what is there.
        expected: what the network needs; tensors on the meta device will do.
        what: first words of the message, without a full stop.
        advice: its last words.

    Raises:
        PacxError: a tensor is missing, left over or of another shape; they are listed.
    """
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    complaints = [
        f"{len(names)} {fault}: {name_some(names)}"
        for fault, names in (
            ("missing", [name for name in expected if name not in found]),
            ("unexpected", [name for name in found if name not in expected]),
            ("of another shape", shapes),
        )
        if names
    ]
    if complaints:
        raise PacxError(f"{what}. {'; '.join(complaints)}. Nothing was loaded. {advice}")


def name_some(names: Sequence[str]) -> str:
    """List names, cut with their number when there are many."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, and {len(names) - NAMES_SHOWN} more"


def _move_in(filling: Path, folder: Path) -> None:
    for path in filling.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    filling.chmod(0o755)  # mkdtemp made it private
    if not folder.exists():
        filling.replace(folder)
        return
    # A folder cannot be renamed onto one with content: the old one steps aside, and back if the move fails.
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.replace(aside)
    try:
        filling.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
