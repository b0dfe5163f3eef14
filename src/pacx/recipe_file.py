"""What a recipe says: its YAML read, references replaced, every step held against its command's signature.

    title: what the chain shows
    roots:                       # folders outside; given with `--root NAME=PATH`, here their defaults
      data: ../shared/data
      teacher: {path: teacher.pth, from: who has it and how one gets it}
    steps:
      cohort: {command: simulate, patients: 900}
      mae:    {command: pretrain, store: "{cohort}", epochs: 20}
      report: {command: report, runs: "{*}"}

A step's output folder is `OUT/<step>`; `{step}` stands for it in later steps, `{probe-*}` for those of all earlier
steps with such a name, `{*}` for all, `{root:NAME}` for a folder outside.

A step with `for` stands for several, one for each value:

    pacx-{seed}:  {for: {seed: [0, 1, 2]}, command: distill, seed: "{seed}", ...}
    probe-{seed}: {for: {seed: [0, 1, 2]}, command: probe, encoder: "{pacx-{seed}}/encoder", ...}
    pool:         {command: pool, runs: "{probe-*}"}

A file with `recipes` in the place of `steps` chains recipes, see `pacx.recipe_chain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from pacx.commands import check_arguments, load
from pacx.errors import PacxError
from pacx.references import Resolver, expand

__all__ = [
    "Recipe",
    "Root",
    "Step",
    "declared_roots",
    "default_out",
    "load_recipe",
    "locate",
    "read_steps",
    "refuse_unknown",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_KEYS = {"title", "about", "roots", "steps", "recipes"}


@dataclass(frozen=True)
class Step:
    """One command of a recipe, its references resolved and its arguments checked."""

    name: str
    command: str
    arguments: Mapping[str, Any]
    reads: tuple[str, ...]
    """names of the earlier steps that it refers to"""
    outside: tuple[Path, ...] = ()
    """files and folders outside the run that it reads"""
    given: tuple[str, ...] = ()
    """the arguments that the recipe names; the others are defaults"""
    recipe: str = ""
    """the recipe that it belongs to, where several are chained"""

    @property
    def full_name(self) -> str:
        """The name that no other step has: in a chain RECIPE/STEP."""
        return f"{self.recipe}/{self.name}" if self.recipe else self.name


@dataclass(frozen=True)
class Root:
    """Something outside that a recipe asks for."""

    path: Path
    about: str = ""
    """who has it, if the recipe says so"""


@dataclass(frozen=True)
class Recipe:
    """Checked steps, one after the other."""

    title: str
    out: Path
    steps: tuple[Step, ...] = ()
    name: str = ""
    """what it is called where several are chained"""
    roots: Mapping[str, Root] = field(default_factory=dict)


def load_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's YAML.

    Raises:
        PacxError: not YAML, no recipe, or a recipe with unknown keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PacxError(f"{path} is not a YAML file: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not (_has_steps(content) or _has_recipes(content)):
        raise PacxError(
            f"{path} is not a recipe: it needs a mapping `steps` of at least one step (see recipes/demo.yaml), or "
            "a list `recipes` of other recipes in its place (see recipes/paper/all.yaml)."
        )
    if "steps" in content and "recipes" in content:
        raise PacxError(f"{path.name} has both `steps` and `recipes`. Put its steps into a recipe of their own.")
    refuse_unknown(set(content) - _KEYS, f"{path.name} has unknown keys", allowed=())
    return content


def _has_steps(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("steps"), dict) and bool(content["steps"])


def _has_recipes(content: Mapping[str, Any]) -> bool:
    names = content.get("recipes")
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)


def declared_roots(path: Path, content: Mapping[str, Any]) -> dict[str, Root]:
    """Return what a recipe asks for from outside, with its defaults.

    Raises:
        PacxError: `roots` does not map names to folders.
    """
    declared = content.get("roots") or {}
    entries = {name: place if isinstance(place, dict) else {"path": place} for name, place in _pairs(declared)}
    good = all(
        set(entry) <= {"path", "from"} and isinstance(entry.get("path"), str) and isinstance(entry.get("from", ""), str)
        for entry in entries.values()
    )
    if not isinstance(declared, dict) or not good:
        raise PacxError(
            f"{path.name}: `roots` must name folders, as in `roots: {{data: ../shared/data}}` or "
            "`roots: {teacher: {path: teacher.pth, from: who has it}}`."
        )
    return {name: Root(Path(entry["path"]), entry.get("from", "")) for name, entry in entries.items()}


def _pairs(declared: object) -> list[tuple[str, Any]]:
    return [(str(name), place) for name, place in declared.items()] if isinstance(declared, dict) else []


def read_steps(
    path: Path,
    content: Mapping[str, Any],
    *,
    out: Path,
    roots: Mapping[str, Path],
    planned_only: bool = False,
    made: Sequence[Path] = (),
) -> Recipe:
    """Check every step of a recipe before anything runs.

    Args:
        path: its file.
        content: what the file holds.
        out: folder for the steps' outputs.
        roots: folders outside, by name; the recipe's defaults stand for those that are not given.
        planned_only: accept that folders outside are not there yet.
        made: folders that will be there when the recipe's turn has come.

    Raises:
        PacxError: unknown commands, arguments or references, or a root that is not there.
    """
    declared = declared_roots(path, content)
    refuse_unknown(set(roots) - set(declared), f"{path.name} asks for no root named", allowed=declared)
    places = {name: Root(roots.get(name, root.path), root.about) for name, root in declared.items()}
    known: dict[str, str] = {}
    steps = []
    entries = content["steps"].items()
    for name, body in (step for entry, inner in entries for step in expand(str(entry), inner)):
        if name in known:
            raise PacxError(f"{path.name} has two steps called {name!r}. A step with `for` needs its names to differ.")
        paths = {root: place.path for root, place in places.items()}
        resolver = Resolver(name, roots=paths, earlier=known, planned_only=planned_only, made=made)
        steps.append(_read_step(name, body, resolver, out=out))
        known[name] = str(out / name)
    return Recipe(str(content.get("title", path.stem)), out, tuple(steps), roots=places)


def _read_step(name: str, body: object, resolver: Resolver, *, out: Path) -> Step:
    if not _NAME.fullmatch(name):
        raise PacxError(f"Step name {name!r} cannot be a folder name: use a-z, 0-9, '.', '_' and '-'.")
    if not isinstance(body, dict) or "command" not in body:
        raise PacxError(f"Step {name!r} names no command. Write it as `{name}: {{command: pretrain, ...}}`.")
    arguments = {key.replace("-", "_"): resolver(item) for key, item in body.items() if key != "command"}
    command = str(body["command"])
    if command in {"run", "demo"} or "out" in arguments:
        raise PacxError(
            f"Step {name!r}: a step cannot be another recipe and cannot set `out`, which is its own folder."
        )
    try:
        function = load(command)
        checked = check_arguments(command, function, {**arguments, "out": str(out / name)})
    except PacxError as error:
        raise PacxError(f"Step {name!r}: {error}") from error
    reads, outside = tuple(dict.fromkeys(resolver.reads)), tuple(resolver.outside)
    return Step(name, command, checked, reads, outside, given=tuple(arguments))


def locate(recipe: Path, *, beside: Path | None = None) -> Path:
    """Find a recipe's file: a path, or the name of one that lies beside another file or ships with pacx.

    Raises:
        PacxError: there is none; names those that ship.
    """
    if Path(recipe).is_file() and beside is None:
        return Path(recipe)
    name = f"{recipe}.yaml" if Path(recipe).suffix != ".yaml" else str(recipe)
    # In a wheel the recipes lie inside the package; in a checkout they lie beside src.
    shipping = (Path(str(files("pacx"))) / "recipes", Path(__file__).parents[2] / "recipes")
    shipped: list[str] = []
    for folder in (*([beside] if beside else []), *shipping):
        if (folder / name).is_file():
            return folder / name
    for folder in shipping:
        shipped += [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    known = ", ".join(dict.fromkeys(shipped))
    raise PacxError(
        f"There is no recipe {recipe}. Give the path of a YAML file, or the name of one that ships: {known}."
    )


def default_out(path: Path, *, chain: bool = False) -> Path:
    """Return where a recipe writes unless told otherwise.

    That is `runs/<name>`, for those in a subfolder of `recipes` with its name, as in runs/paper/pretrain. A chain
    writes to the folder above, so that each of its recipes lies where it lies when it runs by itself.
    """
    folders = path.resolve().parts[:-1]
    below = folders[folders.index("recipes") + 1 :] if "recipes" in folders else ()
    return Path("runs", *below, *(() if chain else (path.stem,)))


def refuse_unknown(unknown: set[str], what: str, *, allowed: object) -> None:
    """Refuse names that are not known, and say which are.

    Raises:
        PacxError: there are such names.
    """
    if unknown:
        known = ", ".join(allowed) if isinstance(allowed, list | tuple | dict) else ""
        raise PacxError(f"{what}: {', '.join(sorted(unknown))}.{f' Known: {known}.' if known else ''}")
