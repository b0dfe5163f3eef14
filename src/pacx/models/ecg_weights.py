"""Weights of the ECG network: our teacher folders, and the published ECGFounder checkpoint.

* Both are loaded strictly: every tensor must be there, fit, and be wanted.
* The names of ECGFounder's 150 outputs belong to its authors and are not part of pacx. They are read from a text file
  that the user gives (`read_statements`).
* `with_head` puts a head for other labels on a network; outputs of the same name keep their weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.weights import CONFIG_FILE, WEIGHTS_FILE, new_folder, read_config, save_weights, weights_hash

__all__ = ["load_ecg_net", "load_ecgfounder", "read_statements", "save_ecg_net", "with_head"]


def save_ecg_net(
    net: EcgNet, folder: Path, *, labels: tuple[str, ...], preprocessing: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """Write a teacher folder: weights, architecture, and what the network must be fed.

    Args:
        net: the network; its weights' hash is recorded.
        folder: where to; an older model folder there is replaced.
        labels: name of each logit.
        preprocessing: recipe version and sampling rate of the input.
        training: where the weights come from. Free form, JSON.
    """
    if len(labels) != net.config.num_classes:
        raise ValueError(f"{len(labels)} label names for {net.config.num_classes} logits")
    content = {
        "kind": "ecg",
        "architecture": asdict(net.config),
        "preprocessing": dict(preprocessing),
        "labels": list(labels),
        "training": dict(training),
        "weights_hash": weights_hash(net),
    }
    with new_folder(folder) as filling:
        save_weights(net, filling / WEIGHTS_FILE)
        (filling / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_ecg_net(folder: Path) -> tuple[EcgNet, dict[str, Any]]:
    """Read a teacher folder.

    Returns:
        The network in eval mode, and the folder's configuration.

    Raises:
        PacxError: not an ECG teacher, or weights that do not fit its architecture or its recorded hash.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.get("kind") != "ecg":
        raise PacxError(f"{folder} holds a model of kind {config.get('kind')!r}, not an ECG teacher (kind 'ecg').")
    absent = [key for key in ("architecture", "preprocessing", "labels", "weights_hash") if key not in config]
    if absent:
        raise PacxError(f"{folder / CONFIG_FILE} lacks {', '.join(absent)}. Fit or copy the teacher again.")
    _check_preprocessing(config["preprocessing"], folder / CONFIG_FILE)
    try:
        net = EcgNet(EcgNetConfig.from_dict(config["architecture"]))
    except TypeError as error:
        raise PacxError(
            f"{folder / CONFIG_FILE} describes no network ({error}). Fit or copy the teacher again."
        ) from error
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise PacxError(f"{folder / WEIGHTS_FILE} cannot be read ({error}). Fit the teacher again.") from error
    _fill(net, tensors, str(folder))
    if weights_hash(net) != config.get("weights_hash"):
        raise PacxError(
            f"The weights in {folder} are not those its {CONFIG_FILE} describes. Fit or copy the teacher again."
        )
    return net.eval(), config


def _check_preprocessing(found: object, path: Path) -> None:
    """Make sure that a configuration says what the network must be fed; whether that is known here is not asked."""
    given = found if isinstance(found, dict) else {}
    wrong = [name for name, kind in (("recipe", str), ("rate", int)) if not isinstance(given.get(name), kind)]
    if wrong:
        raise PacxError(
            f"{path} does not say the {' and '.join(wrong)} of its preprocessing. Fit or copy the teacher again."
        )


def load_ecgfounder(path: Path) -> EcgNet:
    """Load the published 12-lead checkpoint, strictly and without running pickled code.

    The tensors may lie in a dictionary under `state_dict`, and their names may begin with `module.`, as training on
    several devices writes them.

    Args:
        path: `12_lead_ECGFounder.pth`, from the Hugging Face repository PKUDigitalHealth/ECGFounder.

    Raises:
        PacxError: the file is absent, holds anything but tensors and plain values, or other tensors than the 509.
    """
    path = Path(path)
    if not path.is_file():
        raise PacxError(f"{path} does not exist. Give the file 12_lead_ECGFounder.pth.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for what it cannot read
        raise PacxError(
            f"{path} cannot be loaded as plain tensors ({type(error).__name__}: {error}). It was not executed. "
            "Download the published checkpoint again."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise PacxError(f"{path} holds no state_dict of tensors. Give the file 12_lead_ECGFounder.pth.")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    net = EcgNet()
    _fill(net, state, str(path))
    return net.eval()


def read_statements(path: Path, count: int = 150) -> tuple[str, ...]:
    """Read the names of a network's outputs from a text file.

    Args:
        path: UTF-8 text, one name per line in the order of the outputs; blank lines at the end are left out.
        count: how many outputs there are.

    Raises:
        PacxError: unreadable, a blank line between names, a name given twice, or another number of names.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except FileNotFoundError as error:
        raise PacxError(f"{path} does not exist. Give a text file with one output name per line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PacxError(f"{path} cannot be read as UTF-8 text ({error}). Give one output name per line.") from error
    if "" in lines:
        raise PacxError(
            f"Line {lines.index('') + 1} of {path} is blank. Each output needs a name on a line of its own."
        )
    if len(lines) != count:
        raise PacxError(f"{path} has {len(lines)} names for {count} outputs. Give one per line, in the outputs' order.")
    twice = next((name for name in lines if lines.count(name) > 1), None)
    if twice is not None:
        where = ", ".join(str(number) for number, name in enumerate(lines, start=1) if name == twice)
        raise PacxError(f"{path} gives the name {twice!r} more than once (lines {where}). Each output needs its own.")
    return tuple(lines)


def with_head(net: EcgNet, old: Sequence[str], new: Sequence[str]) -> EcgNet:
    """Copy a network with a head for other labels.

    Args:
        net: the network.
        old: the names of its outputs; may be empty where they are not known.
        new: the names that the copy's outputs are to have. One that is among `old` keeps its weights, the others start
            afresh; no names, no head.
    """
    made = EcgNet(replace(net.config, num_classes=len(new)))
    tensors = {name: value for name, value in net.state_dict().items() if not name.startswith("dense.")}
    head = {f"dense.{name}": value.clone() for name, value in made.dense.state_dict().items()}
    for row, label in enumerate(new):
        if label in old:
            for name, value in head.items():
                value[row] = net.state_dict()[name][list(old).index(label)]
    made.load_state_dict({**tensors, **head})
    return made.train(net.training)


def _fill(net: EcgNet, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load every tensor; one that is missing, left over or of another shape is an error that names it."""
    expected = net.state_dict()
    faults = [f"missing {name}" for name in expected if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in expected]
    faults += [
        f"{name} has shape {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
        for name, value in tensors.items()
        if name in expected and value.shape != expected[name].shape
    ]
    faults += [
        f"{name} holds {value.dtype}"
        for name, value in tensors.items()
        if name in expected and value.is_floating_point() != expected[name].is_floating_point()
    ]
    faults += [f"{name} is not finite" for name, value in tensors.items() if not torch.isfinite(value).all()]
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise PacxError(f"The weights in {what} do not fit the network: {shown}. Nothing was loaded.")
    net.load_state_dict(tensors)
