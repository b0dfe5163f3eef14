"""Checkpoints: replaced whole, read without running code, and only taken up by the run that made them.

RUN/checkpoints/last.ckpt           everything that is needed to go on: the newest (`pacx.stages.saving` says when)
RUN/checkpoints/step-00001234.ckpt  older ones, where more than one is kept
RUN/checkpoints/best.ckpt           the same, of the epoch with the best monitored value, in stages that keep that epoch
RUN/checkpoints/made_by.json        the arguments and inputs that these checkpoints belong to
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import tempfile
import zipfile
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
_SPEED_ONLY = frozenset(
    {
        "resume", "workers", "accelerator", "devices", "num_nodes", "strategy", "compile", "keep_checkpoints",
        "checkpoint_minutes",
    }
)  # fmt: skip


def resume_path(run: RunFolder, resume: Resume) -> Path | None:
    """Find the checkpoint to go on from, or clear the way for a fresh start.

    Call it after `run.read(...)`: a checkpoint counts only if it was made with the same arguments and inputs.

    Args:
        run: the open run.
        resume: "auto" = go on where possible, else start anew; true = go on or fail; false = start anew.

    Raises:
        PacxError: `resume` is true and there is nothing to go on from.
    """
    if not run.first:  # `fit` tells the others of a joint training what this one decides
        return None
    folder = run.path / "checkpoints"
    stamp = _stamp(run)
    for unfinished in folder.glob(".*.ckpt.*"):  # a kill while saving leaves one
        unfinished.unlink()
    found = _newest_first(folder)
    if resume is not False and found:
        changed = _changed(folder / "made_by.json", stamp)
        if not changed:
            return _first_undamaged(found, command=run.command)
        if resume is True:
            raise PacxError(
                f"{found[0]} was made with other settings ({', '.join(changed)}). Use the settings in its "
                "made_by.json, or pass --resume false to start anew."
            )
        aside = folder.with_name("checkpoints.old")  # a mistyped flag must not cost days of work
        shutil.rmtree(aside, ignore_errors=True)
        folder.replace(aside)
        log.warning(
            "%s: settings changed (%s); starting anew. The older checkpoints are in %s; move them back and use their "
            "settings (made_by.json) to go on with them.",
            run.command, ", ".join(changed), aside,
        )  # fmt: skip
    elif resume is True:
        raise PacxError(f"There is no checkpoint in {folder} to go on from. Use --resume auto, or check --out.")
    (folder / "made_by.json").unlink(missing_ok=True)  # first: a folder half removed is not gone on from
    shutil.rmtree(folder, ignore_errors=True)
    (run.path / "metrics.csv").unlink(missing_ok=True)
    shutil.rmtree(run.path / "tensorboard", ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "made_by.json", stamp)
    return None


def best_path(run: RunFolder) -> Path:
    """Return the checkpoint of the best epoch, or of the last one where nothing could choose."""
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
                "same command again; it goes on from the checkpoint before."
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; anything but tensors and plain values is refused.

        Raises:
            PacxError: the file is damaged or holds something else.
        """
        return _read(Path(path), map_location)


def _newest_first(folder: Path) -> list[Path]:
    last = folder / "last.ckpt"
    return [last] * last.is_file() + sorted(folder.glob("step-*.ckpt"), reverse=True)


def _first_undamaged(found: list[Path], *, command: str) -> Path:
    """Return the newest checkpoint whose checksums hold; what is damaged is put aside.

    Raises:
        PacxError: none is whole.
    """
    damages: dict[Path, str] = {}
    for path in found:
        damage = _damage(path)
        if damage is None:
            for bad, reason in damages.items():
                log.warning("%s: %s is damaged (%s); going on from the one before", command, bad, reason)
                bad.replace(bad.with_name(f"{bad.name}.damaged"))
            return path
        damages[path] = damage
    raise PacxError(f"The checkpoint {found[0]} cannot be read: {damages[found[0]]} Pass --resume false to start anew.")


def _damage(path: Path) -> str | None:
    """Check a checkpoint, which is a zip archive, against its checksums; `torch.load` does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return f"{error}."
    return None if bad is None else f"{bad} does not have the checksum that it was written with."


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
