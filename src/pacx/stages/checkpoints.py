"""Checkpoints: replaced whole, read without running code, and only taken up by the run that made them.

RUN/checkpoints/last.ckpt     everything that is needed to go on; written after each epoch
RUN/checkpoints/best.ckpt     the same, of the epoch with the best monitored value
RUN/checkpoints/made_by.json  the arguments and inputs that these checkpoints belong to
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from pacx.errors import PacxError
from pacx.runs import RunFolder, write_json

__all__ = ["Resume", "SafeCheckpointIO", "best_path", "load_weights", "resume_path"]

Resume = bool | Literal["auto"]

log = logging.getLogger("pacx")

# These change where or how fast a run computes, not what; a run may be continued with other values.
_SPEED_ONLY = frozenset({"resume", "workers", "accelerator", "devices", "strategy"})


def resume_path(run: RunFolder, resume: Resume) -> Path | None:
    """Find the checkpoint to go on from, or clear the way for a fresh start.

    Call it after `run.read(...)`: a checkpoint counts only if it was made with the same arguments and inputs.

    Args:
        run: the open run.
        resume: "auto" = go on where possible, else start anew; true = go on or fail; false = start anew.

    Raises:
        PacxError: `resume` is true and there is nothing to go on from.
    """
    folder = run.path / "checkpoints"
    last = folder / "last.ckpt"
    stamp = _stamp(run)
    for unfinished in folder.glob(".*.ckpt.*"):  # a kill while saving leaves one
        unfinished.unlink()
    if resume is not False and last.is_file():
        changed = _changed(folder / "made_by.json", stamp)
        if not changed:
            return last
        if resume is True:
            raise PacxError(
                f"{last} was made with other settings ({', '.join(changed)}). Use the settings in its made_by.json, "
                "or pass --resume false to start anew."
            )
        log.warning("%s: settings changed (%s); starting anew", run.command, ", ".join(changed))
    elif resume is True:
        raise PacxError(f"There is no checkpoint at {last} to go on from. Use --resume auto, or check --out.")
    shutil.rmtree(folder, ignore_errors=True)
    (run.path / "metrics.csv").unlink(missing_ok=True)
    shutil.rmtree(run.path / "tensorboard", ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "made_by.json", stamp)
    return None


def best_path(run: RunFolder) -> Path:
    """Return the checkpoint of the best epoch, or of the last one where nothing was monitored."""
    best = run.path / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")


def load_weights(module: L.LightningModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into a module; every key must fit."""
    content = _read(checkpoint)
    module.on_load_checkpoint(content)
    module.load_state_dict(content["state_dict"])


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are replaced whole (a kill leaves the old one) and read without running pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then rename onto it.

        Raises:
            PacxError: the disk is full or cannot be written; the older checkpoint is still there.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)  # mkstemp made it private
            Path(temporary).replace(target)
        except OSError as error:
            raise PacxError(
                f"The checkpoint {target} could not be written ({error.strerror}). Free some space there and run the "
                "same command again; it goes on from the last finished epoch."
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; anything but tensors and plain values is refused.

        Raises:
            PacxError: the file is damaged or holds something else.
        """
        return _read(Path(path), map_location)


def _read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PacxError(f"The checkpoint {path} cannot be read: {first} Pass --resume false to start anew.") from error
    return content


def _stamp(run: RunFolder) -> dict[str, Any]:
    config = {key: value for key, value in run.config.items() if key not in _SPEED_ONLY | set(run.inputs)}
    inputs = {name: {key: value for key, value in facts.items() if key != "path"} for name, facts in run.inputs.items()}
    content: dict[str, Any] = json.loads(json.dumps({"command": run.command, "config": config, "inputs": inputs}))
    return content


def _changed(path: Path, stamp: dict[str, Any]) -> list[str]:
    if not path.is_file():
        return ["made_by.json is missing"]
    old = json.loads(path.read_text(encoding="utf-8"))
    flat_old, flat_new = _flat(old), _flat(stamp)
    return sorted(key for key in flat_old | flat_new if flat_old.get(key) != flat_new.get(key))


def _flat(stamp: dict[str, Any]) -> dict[str, Any]:
    return {"command": stamp["command"], **stamp["config"], **{f"input {key}": x for key, x in stamp["inputs"].items()}}
