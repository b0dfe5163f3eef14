"""The run folder: what every command leaves behind.

    OUT/
      .lock         held by the process that writes here (`pacx.lock`)
      config.yaml   the resolved arguments, written first
      log.txt       what was said on the way
      result.json   the results, written last: its presence means that the run is finished
      ...           what the command makes (encoder/, metrics.csv, figures/, ...)

A folder without `result.json` is an interrupted run. Starting the same command again continues or redoes it; a
finished folder is never overwritten unless asked.

When several processes train together (`pacx.ranks`), one opens the folder to write; for the others it is a place to
read from, and they say nothing but errors.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pacx.errors import PacxError
from pacx.lock import LOCK_NAME, locked
from pacx.ranks import is_first

__all__ = [
    "RunFolder",
    "check_counts",
    "open_run",
    "peak_memory_mib",
    "plain",
    "read_result",
    "write_json",
    "write_text",
]

SCHEMA_VERSION = 1
_REPLACED, _REPLACING, _RESTORING = ".replaced", ".replacing", ".restoring"
_INPUTS = {
    "encoder", "store", "stores", "banks", "like", "run", "runs", "against", "teacher", "embeddings", "ids", "weights",
    "distilled", "labs_teacher", "images", "shards", "root",
}  # fmt: skip
"""arguments that say as text where something lies; other text is no path, even if it is called like one"""
_FRESH = re.compile(r"random:(.+?)(?::\d+)?")  # random:FOLDER:SEED reads the folder
_ALWAYS_THERE = {"config.yaml", "log.txt", "tensorboard"}
"""what a run makes before it does anything"""
log = logging.getLogger("pacx")


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the whole new content, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically; NaN becomes null, since JSON has no NaN."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def plain(value: object) -> Any:
    """Turn dataclasses, paths, tuples and NumPy values into what JSON and YAML know."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return plain(value.tolist())
    return _plain_scalar(value)


def _plain_scalar(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class RunFolder:
    """An open run: where to write, and what to report at the end."""

    path: Path
    command: str
    config: dict[str, Any]
    started: float = field(default_factory=time.time)
    inputs: dict[str, Any] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)
    figures: list[dict[str, str]] = field(default_factory=list)
    first: bool = True
    """whether this process writes; false for the others of a joint training, which only read here"""

    def read(self, name: str, /, **facts: object) -> None:
        """Note an input (a store, an encoder, a bank) with what identifies it."""
        self.inputs[name] = plain(facts)

    def artefact(self, name: str, relative: str) -> Path:
        """Register an output by name and return its full path; parent folders are made."""
        self.artefacts[name] = relative
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def figure(self, filename: str, *, caption: str) -> Path:
        """Register a figure for the report and return the path to save it under."""
        relative = f"figures/{filename}"
        self.figures.append({"path": relative, "caption": caption})
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Write `result.json`; from then on the run counts as done."""
        from pacx import __version__

        content = plain(
            {
                "schema_version": SCHEMA_VERSION,
                "command": self.command,
                "name": self.path.name,
                "pacx_version": __version__,
                "config": self.config,
                "inputs": self.inputs,
                "started": datetime.fromtimestamp(self.started, tz=UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - self.started, 3),
                "peak_memory_mib": round(peak_memory_mib(), 1),
                "results": dict(results),
                "artefacts": self.artefacts,
                "figures": self.figures,
            }
        )
        write_json(self.path / "result.json", content)
        _remove(self.path / _REPLACED)
        log.info("%s: done in %.1f s -> %s", self.command, content["seconds"], self.path)
        return dict(content)


@contextmanager
def open_run(out: Path, *, command: str, config: Mapping[str, Any], overwrite: bool = False) -> Iterator[RunFolder]:
    """Open a run folder for a command.

    Args:
        out: the folder; made if absent.
        command: the name on the command line.
        config: the resolved arguments, kept in `config.yaml`.
        overwrite: replace what an earlier finished run left there. It is kept aside until the new run is finished, and
            put back if the new one fails before it has made anything. A new folder is removed then if it was the
            user's mistake.

    Raises:
        PacxError: the folder holds a finished run, or something that is not a run, or cannot be written; an input lies
            in a finished run that is to be replaced; or a number that all commands take alike is too small.
    """
    out = Path(out)
    check_counts(config)
    inputs = _input_paths(config, command=command)
    config = {key: item for key, item in plain(config).items() if key not in {"out", "overwrite"}}
    if _is_joint(config) and not is_first():
        with _errors_only():
            yield RunFolder(out, command, config, first=False)
        return
    fresh = not out.exists()
    _claim(out, overwrite=overwrite)
    with locked(out):
        _settle(out)
        _refuse_finished(out, overwrite=overwrite)  # another process may just have finished it
        _refuse_inputs_inside(out, inputs)
        _put_aside(out)
        _reset_peak_memory()
        write_text(out / "config.yaml", yaml.safe_dump({"command": command, **config}, sort_keys=False))
        handler = logging.FileHandler(out / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield RunFolder(out, command, config)
        except BaseException as error:
            _put_back(out)
            if fresh and isinstance(error, PacxError):
                _withdraw(out)
            raise
        finally:
            log.removeHandler(handler)
            handler.close()


def check_counts(config: Mapping[str, Any]) -> None:
    """Refuse numbers that all commands take alike and that are too small; None stands for a default.

    Raises:
        PacxError: says which one.
    """
    for name in ("batch_size", "draws"):
        number = config.get(name)
        if number is not None and number < 1:
            raise PacxError(f"{name} is {number}; it must be 1 or more.")
    workers = config.get("workers")
    if workers is not None and workers < 0:
        raise PacxError(f"workers is {workers}; it must be 0 or more. Leave it out for the default.")


def read_result(run: Path) -> dict[str, Any]:
    """Read a finished run's `result.json`.

    Raises:
        PacxError: the folder holds no finished run, or one of an unknown schema.
    """
    path = Path(run) / "result.json"
    if not path.is_file():
        raise PacxError(
            f"{run} holds no finished run (no result.json in it). Give the --out folder of a finished command."
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema_version") != SCHEMA_VERSION:
        raise PacxError(
            f"{path} has schema version {content.get('schema_version')}, this pacx reads {SCHEMA_VERSION}. "
            "Run the command again with this version."
        )
    return content


def _is_joint(config: Mapping[str, Any]) -> bool:
    """Say whether a command may be run by several processes together; most are not, whatever started them."""
    return "devices" in config and (str(config["devices"]) != "1" or config.get("num_nodes", 1) > 1)


def _claim(out: Path, *, overwrite: bool) -> None:
    _refuse_finished(out, overwrite=overwrite)
    if out.is_file():
        raise PacxError(f"{out} is a file. --out needs a folder that does not exist yet or an interrupted run.")
    if out.is_dir() and _content(out) and not (out / "config.yaml").is_file():
        raise PacxError(
            f"{out} is not empty and was not made by pacx. Choose another --out; nothing was changed there."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PacxError(
            f"{out} cannot be made ({error.strerror}). Choose an --out folder that you may write to."
        ) from error


def _refuse_finished(out: Path, *, overwrite: bool) -> None:
    if (out / "result.json").is_file() and not overwrite:
        raise PacxError(
            f"{out} already holds a finished run. Choose another --out, or pass --overwrite true to replace it."
        )


def _input_paths(config: Mapping[str, Any], *, command: str) -> list[Path]:
    """Return what a command may read: its paths, and text where a path can be given as text."""
    if command == "report":  # it leaves its own folder out of the runs
        return []
    named = _INPUTS | ({"source"} if command == "convert" else set())  # elsewhere the name of a data set
    found = []
    for name, value in config.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if name != "out" and (isinstance(item, Path) or (isinstance(item, str) and name in named)):
                fresh = _FRESH.fullmatch(str(item))
                found.append(Path(fresh[1] if fresh else item))
    return found


def _refuse_inputs_inside(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse to put aside what the new run is to read."""
    if not (out / "result.json").is_file():
        return
    folder = out.resolve()
    for given in inputs:
        path = Path(os.path.abspath(given))  # noqa: PTH100  (without following links, which resolve() would)
        # Neither what a link in the folder leads to nor a link from elsewhere into it may be overlooked.
        places = (path.resolve(), path.parent.resolve() / path.name)
        if os.path.lexists(path) and any(place.is_relative_to(folder) for place in places):
            raise PacxError(f"{given} lies in --out, which --overwrite would replace. Choose another --out.")


def _put_aside(out: Path) -> None:
    """Move a finished run out of the way of the one that replaces it."""
    if not (out / "result.json").is_file():
        return
    _remove(out / _REPLACED)
    (out / _REPLACING).mkdir()
    _move_aside(out)


def _move_aside(out: Path) -> None:
    # result.json first: what is left of a run on the move is not finished. config.yaml last: it says whose it is.
    order = {"result.json": 0, "config.yaml": 2}
    for path in sorted(_content(out), key=lambda path: order.get(path.name, 1)):
        path.rename(out / _REPLACING / path.name)
    (out / _REPLACING).rename(out / _REPLACED)


def _put_back(out: Path) -> None:
    """Restore what was put aside, unless the run that was to replace it has made something that it can go on from."""
    aside = out / _REPLACED
    if not aside.is_dir():
        return
    if {path.name for path in _content(out)} - _ALWAYS_THERE:
        log.warning("The finished run that was to be replaced is in %s until the new one is finished.", aside)
        return
    for path in _content(out):
        _remove(path)
    aside.rename(out / _RESTORING)
    _move_back(out)


def _withdraw(out: Path) -> None:
    """Remove the folder of a command that was refused before it had made anything."""
    if not {path.name for path in _content(out)} - _ALWAYS_THERE:
        shutil.rmtree(out, ignore_errors=True)


def _move_back(out: Path) -> None:
    order = {"config.yaml": 0, "result.json": 2}
    for path in sorted((out / _RESTORING).iterdir(), key=lambda path: order.get(path.name, 1)):
        path.rename(out / path.name)
    (out / _RESTORING).rmdir()


def _settle(out: Path) -> None:
    """Finish the moving of a finished run that a kill broke off; till then nothing else has been written there."""
    if (out / _REPLACING).is_dir():
        _move_aside(out)
    if (out / _RESTORING).is_dir():
        _move_back(out)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _content(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if path.name not in {LOCK_NAME, _REPLACED, _REPLACING, _RESTORING}]


@contextmanager
def _errors_only() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _reset_peak_memory() -> None:
    """Start the peak at the present size, so that each command of a recipe reports its own (Linux)."""
    if _CLEAR.exists():
        with suppress(OSError):  # some containers forbid it; the peak is then that of the whole process
            _CLEAR.write_text("5", encoding="ascii")


def peak_memory_mib() -> float:
    """Peak resident memory of this process since the run began, MiB; worker processes are not counted."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), math.nan)
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
