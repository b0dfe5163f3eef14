"""Which runs a report is about, and how they are called in it.

* A run's name is its folder relative to the folder that holds all of them: `probe-pacx`, not where it lies on disk.
* A report may leave the machine that made it, so paths outside of that folder lose all but their last part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pacx.errors import PacxError
from pacx.runs import read_result

__all__ = ["Record", "Run", "collect", "judged_by", "of_command", "recipe_of", "without_machine_paths"]

Record = dict[str, Any]

_ABSOLUTE = re.compile(r"(?<![\w.…])(?:[A-Za-z]:)?[/\\]+(?:[^/\\\s:'\"]+[/\\]+)+(?=[^/\\\s])")
_PATH_ARGUMENTS = frozenset({"store", "encoder", "banks", "teacher", "run", "runs", "source"})
"""arguments that name other runs"""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    name: str
    """relative to the folder that holds all runs of the report, with forward slashes"""
    content: Record
    """its `result.json`"""

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.content["command"])

    @property
    def results(self) -> Record:
        """What the command found."""
        return dict(self.content.get("results") or {})

    @property
    def config(self) -> Record:
        """The command's arguments."""
        return dict(self.content.get("config") or {})

    @property
    def inputs(self) -> Record:
        """What the command read."""
        return dict(self.content.get("inputs") or {})

    def artefact(self, name: str, default: str) -> Path | None:
        """Return a file that the run left behind, or None if it is not there or not inside the run's folder."""
        path = self.folder / str((self.content.get("artefacts") or {}).get(name, default))
        inside = path.resolve().is_relative_to(self.folder.resolve())
        return path if inside and path.is_file() else None


def collect(paths: Sequence[Path], *, out: Path) -> list[Run]:
    """Find all finished runs in some folders and below, in the order in which they were started.

    Args:
        paths: run folders, or folders that hold some.
        out: the report's own folder, which is left out, as are other reports.

    Raises:
        PacxError: a folder is absent or holds no finished run, or a run has an unknown schema.
    """
    folders: dict[Path, Record] = {}
    for path in paths:
        if not Path(path).is_dir():
            raise PacxError(f"{path} is no folder. Give folders of finished runs, or a folder that holds some.")
        found = sorted(file.parent for file in Path(path).resolve().rglob("result.json"))
        if not found:
            read_result(path)  # says what is wrong
        own = Path(out).resolve()
        folders |= {folder: read_result(folder) for folder in found if folder != own and own not in folder.parents}
    kept = {folder: content for folder, content in folders.items() if content["command"] != "report"}
    if not kept:
        raise PacxError(
            f"No finished run was found in {', '.join(map(str, paths)) or 'no folder at all'}. "
            "Give --runs at least one folder with a result.json in it or below it."
        )
    root = Path(os.path.commonpath([folder.parent for folder in kept]))
    runs = [Run(folder, folder.relative_to(root).as_posix(), content) for folder, content in kept.items()]
    return sorted(runs, key=lambda run: (str(run.content.get("started", "")), run.name))


def of_command(runs: Sequence[Run], *commands: str) -> list[Run]:
    """Pick the runs of some commands."""
    return [run for run in runs if run.command in commands]


def judged_by(runs: Sequence[Run], *commands: str) -> list[Run]:
    """Pick runs of some commands and pools of such runs, without the runs that a pool among them stands for.

    These are known by name and time of start, wherever they lie now.
    """
    pools = [run for run in runs if run.command == "pool" and run.results.get("of") in commands]
    pooled = {(one["name"], one["started"]) for run in pools for one in run.inputs["runs"]["members"]}
    single = [run for run in of_command(runs, *commands) if (run.folder.name, run.content.get("started")) not in pooled]
    return [run for run in runs if run in single or run in pools]


def without_machine_paths(value: Any) -> Any:
    """Shorten absolute paths in all texts of a JSON value to their last part."""
    if isinstance(value, Mapping):
        return {key: without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith("/") and not re.search(r"\s", value):
        return "…/" + value.rstrip("/").rpartition("/")[2]
    return _ABSOLUTE.sub("…/", value)


def recipe_of(runs: Sequence[Run], *, title: str) -> str:
    """Write the recipe by which `pacx run` makes these runs again, with every argument that was set."""
    steps = {}
    for run in runs:
        arguments = {
            key: _with_references(item, runs) if key in _PATH_ARGUMENTS else item
            for key, item in run.config.items()
            if item is not None
        }
        steps[_step_name(run)] = {"command": run.command, **without_machine_paths(arguments)}
    steps["report"] = {"command": "report", "runs": "{*}"}
    return yaml.safe_dump({"title": title, "steps": steps}, sort_keys=False, allow_unicode=True, width=110)


def _step_name(run: Run) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", run.name.lower())


def _with_references(value: Any, runs: Sequence[Run]) -> Any:
    """Replace paths into other runs by `{step}/...`."""
    if isinstance(value, list):
        return [_with_references(item, runs) for item in value]
    if not isinstance(value, str):
        return value
    prefix, path = ("random:", value[7:]) if value.startswith("random:") else ("", value)
    parts = Path(path.replace("\\", "/")).parts
    for length in range(len(parts), 0, -1):
        head = tuple(part for part in parts[:length] if part not in {".", ".."})
        for run in runs:
            if head and run.folder.parts[-len(head) :] == head:
                return prefix + "/".join(["{" + _step_name(run) + "}", *parts[length:]])
    return value
