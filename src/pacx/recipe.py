"""Recipes: a chain of commands in one YAML file, run once, resumed at will.

    title: what the chain shows
    roots:                       # folders outside; given with `--root NAME=PATH`, here their defaults
      data: ../shared/data
    steps:
      cohort: {command: simulate, patients: 900}
      mae:    {command: pretrain, store: "{cohort}", epochs: 20}
      report: {command: report, runs: "{*}"}

A step's output folder is `OUT/<step>`; `{step}` stands for it in later steps, `{probe-*}` for those of all earlier
steps with such a name, `{*}` for all, `{root:NAME}` for a folder outside. Every step is checked against its command's
signature before the first one runs.

A step with `for` stands for several, one for each value:

    pacx-{seed}:  {for: {seed: [0, 1, 2]}, command: distill, seed: "{seed}", ...}
    probe-{seed}: {for: {seed: [0, 1, 2]}, command: probe, encoder: "{pacx-{seed}}/encoder", ...}
    pool:         {command: pool, runs: "{probe-*}"}

A step is skipped when it has finished with the same fingerprint: the hash of its command, its arguments with all
defaults, the fingerprints of the steps that it reads and the state of the files outside that it reads. Changing one
step therefore runs again just what depends on it.

A recipe is run by one process. A step that trains on several devices starts the others itself; they read the recipe
again, run that step and nothing else.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from pacx import __version__
from pacx.commands import check_arguments, load
from pacx.errors import PacxError
from pacx.ranks import is_first, num_started
from pacx.references import Resolver, expand
from pacx.runs import plain, write_json
from pacx.step_pool import run_side_by_side

__all__ = ["Recipe", "Step", "demo", "read_recipe", "run"]

log = logging.getLogger("pacx")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


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


@dataclass(frozen=True)
class Recipe:
    """A checked chain of steps."""

    title: str
    out: Path
    steps: tuple[Step, ...] = field(default_factory=tuple)


def run(
    recipe: Path,
    *,
    out: Path | None = None,
    root: list[str] | None = None,
    redo: list[str] | None = None,
    jobs: int = 1,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run a recipe: a chain of commands in one YAML file.

    Steps that are done with the same configuration and inputs are skipped; an interrupted recipe goes on where it was.

    Example:
        pacx run recipes/open-sample.yaml --root data=../shared/data --out runs/open-sample

    Args:
        recipe: the YAML file, or the name of one that ships with pacx (`demo`, `paper/pretrain`).
        out: folder for the steps' outputs; `runs/<recipe name>` unless given, such as runs/paper/pretrain.
        root: folders outside that the recipe asks for, as NAME=PATH.
        redo: steps to run again although they are done, with all that read them.
        jobs: how many steps may run side by side, each in a process of its own with its share of the cores' threads; a
            step waits for those that it reads. For many small trainings on one computer.
        dry_run: print the plan, run nothing.

    Raises:
        PacxError: the recipe is ill-formed, refers to something absent, or a step cannot use its input.
    """
    path = _locate(recipe)
    out = Path("runs") / _name(path) if out is None else Path(out)
    plan = read_recipe(path, out=out, roots=_parse_roots(root or []), planned_only=dry_run)
    _check_names(redo or [], plan)
    if dry_run:
        print(_describe(plan))
        return {"steps": [step.name for step in plan.steps]}
    if jobs < 1:
        raise PacxError(f"--jobs {jobs} can run nothing. Give 1, or as many steps as may run side by side.")
    return _run_steps(plan, redo=frozenset(redo or []), jobs=jobs)


def demo(*, out: Path = Path("runs/demo"), redo: list[str] | None = None) -> dict[str, Any]:
    """Run the whole method on a simulated cohort, from X-rays to a report.

    The same as `pacx run demo`: simulates patients, pre-trains, fits both teachers, distils, probes, reports.

    Example:
        pacx demo

    Args:
        out: folder for the steps' outputs.
        redo: steps to run again although they are done.
    """
    return run(Path("demo"), out=out, redo=redo)


def read_recipe(path: Path, *, out: Path, roots: Mapping[str, Path], planned_only: bool = False) -> Recipe:
    """Read a recipe and check every step before anything runs.

    Args:
        path: the YAML file.
        out: folder for the steps' outputs.
        roots: folders outside, by name; the recipe's defaults stand for those that are not given.
        planned_only: accept that folders outside are not there yet.

    Raises:
        PacxError: not YAML, unknown keys, commands, arguments or references, or a root that is not there.
    """
    content = _load_yaml(path)
    declared = content.get("roots") or {}
    if not isinstance(declared, dict) or not all(isinstance(place, str) for place in declared.values()):
        raise PacxError(f"{path.name}: `roots` must name folders, as in `roots: {{data: ../shared/data}}`.")
    _refuse_unknown(set(roots) - set(declared), f"{path.name} asks for no root named", allowed=declared)
    places = {name: Path(roots.get(name, default)) for name, default in declared.items()}
    known: dict[str, str] = {}
    steps = []
    entries = content["steps"].items()
    for name, body in (step for entry, content in entries for step in expand(str(entry), content)):
        if name in known:
            raise PacxError(f"{path.name} has two steps called {name!r}. A step with `for` needs its names to differ.")
        step = _read_step(name, body, out=out, roots=places, earlier=known, planned_only=planned_only)
        steps.append(step)
        known[step.name] = str(out / step.name)
    return Recipe(str(content.get("title", path.stem)), out, tuple(steps))


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PacxError(f"{path} is not a YAML file: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("steps"), dict) or not content["steps"]:
        raise PacxError(
            f"{path} is not a recipe: it needs a mapping `steps` of at least one step (see recipes/demo.yaml)."
        )
    _refuse_unknown(set(content) - {"title", "about", "roots", "steps"}, f"{path.name} has unknown keys", allowed=())
    return content


def _read_step(
    name: str,
    body: object,
    *,
    out: Path,
    roots: Mapping[str, Path],
    earlier: Mapping[str, str],
    planned_only: bool,
) -> Step:
    if not _NAME.fullmatch(name):
        raise PacxError(f"Step name {name!r} cannot be a folder name: use a-z, 0-9, '.', '_' and '-'.")
    if not isinstance(body, dict) or "command" not in body:
        raise PacxError(f"Step {name!r} names no command. Write it as `{name}: {{command: pretrain, ...}}`.")
    resolver = Resolver(name, roots=roots, earlier=earlier, planned_only=planned_only)
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
    return Step(
        name, command, checked, tuple(dict.fromkeys(resolver.reads)), tuple(resolver.outside), given=tuple(arguments)
    )


_UNDER_WAY = "PACX_STEP"
"""the environment variable by which a process that a step starts knows the step"""


def _join_step(plan: Recipe) -> dict[str, Any]:
    """Be one of the other processes of a step; training ends this process."""
    step = next((step for step in plan.steps if step.name == os.environ.get(_UNDER_WAY)), None)
    if step is None:
        raise PacxError(
            "A recipe is run by one process, which starts those that a step on several devices needs. Start it without "
            "torchrun or srun. To train on several computers, run that step by itself (`pacx pretrain ...`) and have "
            "the recipe read its folder as a root."
        )
    _call(step)
    return {"steps": [step.name]}


def _run_steps(plan: Recipe, *, redo: frozenset[str], jobs: int) -> dict[str, Any]:
    if not is_first() or num_started() > 1:
        return _join_step(plan)
    if plan.out.exists() and not plan.out.is_dir():
        raise PacxError(f"{plan.out} is a file. --out needs a folder, which is made if it is not there.")
    plan.out.mkdir(parents=True, exist_ok=True)
    ledger = _Ledger(plan.out / "steps.json")
    prints: dict[str, str] = {}
    again = set(redo)
    titles: dict[str, str] = {}
    todo = []
    for number, step in enumerate(plan.steps, start=1):
        prints[step.name] = _fingerprint(step, prints)
        titles[step.name] = f"[{number}/{len(plan.steps)}] {step.name} ({step.command})"
        if again.intersection(step.reads):
            again.add(step.name)  # what it reads is made anew
        if ledger.is_done(step.name, prints[step.name], plan.out / step.name) and step.name not in again:
            log.info("%s: done before, skipped", titles[step.name])
        else:
            todo.append(step)

    def begin(step: Step) -> None:
        log.info("%s", titles[step.name])
        if not ledger.is_begun(step.name, prints[step.name]) or step.name in again:
            shutil.rmtree(plan.out / step.name, ignore_errors=True)
        ledger.begin(step.name, prints[step.name])

    begun = time.monotonic()
    if jobs > 1 and len(todo) > 1:
        run_side_by_side(todo, jobs=jobs, call=_call, begin=begin)
    else:
        for step in todo:
            begin(step)
            _call(step)
    log.info("%s: all %d steps done in %.0f s -> %s", plan.title, len(plan.steps), time.monotonic() - begun, plan.out)
    for page in sorted(plan.out.glob("*/report.html")):
        log.info("report: %s", page)
    return {"out": str(plan.out), "steps": [step.name for step in plan.steps]}


def _call(step: Step) -> None:
    function: Callable[..., Any] = load(step.command)
    parameters = inspect.signature(function).parameters
    positional = [key for key in parameters if parameters[key].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    named = {key: item for key, item in step.arguments.items() if key not in positional}
    os.environ[_UNDER_WAY] = step.name
    try:
        function(*(step.arguments[key] for key in positional), **named)
    except PacxError as error:
        raise PacxError(f"Step {step.name!r} ({step.command}): {error}") from error
    finally:
        os.environ.pop(_UNDER_WAY, None)


class _Ledger:
    """Which step was begun with which fingerprint; whether it finished is told by its own `result.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def is_begun(self, step: str, fingerprint: str) -> bool:
        return self.begun.get(step) == fingerprint

    def is_done(self, step: str, fingerprint: str, target: Path) -> bool:
        return self.is_begun(step, fingerprint) and (target / "result.json").is_file()

    def begin(self, step: str, fingerprint: str) -> None:
        self.begun[step] = fingerprint
        write_json(self.path, self.begun)


def _fingerprint(step: Step, prints: Mapping[str, str]) -> str:
    content = {
        "pacx": __version__,
        "command": step.command,
        "arguments": {key: item for key, item in plain(step.arguments).items() if key not in _NO_EFFECT},
        "reads": {name: prints[name] for name in step.reads},
        "outside": {str(path): _state(path) for path in step.outside},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_NO_EFFECT = frozenset({"workers", "overwrite", "resume", "keep_checkpoints", "checkpoint_minutes"})
"""arguments that change speed or handling, never results"""


def _state(path: Path) -> str:
    """Hash the names, sizes and modification times below a path: cheap, and enough to notice a change."""
    entries = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for entry in entries:
        if entry.is_file():
            status = entry.stat()
            digest.update(f"{entry.relative_to(path)}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _locate(recipe: Path) -> Path:
    if Path(recipe).is_file():
        return Path(recipe)
    name = f"{recipe}.yaml" if Path(recipe).suffix != ".yaml" else str(recipe)
    # In a wheel the recipes lie inside the package; in a checkout they lie beside src.
    shipped: list[str] = []
    for folder in (Path(str(files("pacx"))) / "recipes", Path(__file__).parents[2] / "recipes"):
        if (folder / name).is_file():
            return folder / name
        shipped += [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    known = ", ".join(dict.fromkeys(shipped))
    raise PacxError(
        f"There is no recipe {recipe}. Give the path of a YAML file, or the name of one that ships: {known}."
    )


def _name(path: Path) -> Path:
    """Return a recipe's name; those in a subfolder of `recipes` are called by it too, as in paper/pretrain."""
    folders = path.resolve().parts[:-1]
    below = folders[folders.index("recipes") + 1 :] if "recipes" in folders else ()
    return Path(*below, path.stem)


def _parse_roots(pairs: list[str]) -> dict[str, Path]:
    roots = {}
    for pair in pairs:
        name, sign, place = pair.partition("=")
        if not sign or not name or not place:
            raise PacxError(f"--root {pair!r} is not NAME=PATH, for instance --root data=../shared/data.")
        roots[name] = Path(place)
    return roots


def _check_names(names: list[str], plan: Recipe) -> None:
    _refuse_unknown(
        set(names) - {step.name for step in plan.steps},
        "--redo names no step of this recipe",
        allowed=[step.name for step in plan.steps],
    )


def _refuse_unknown(unknown: set[str], what: str, *, allowed: object) -> None:
    if unknown:
        known = ", ".join(allowed) if isinstance(allowed, list | tuple | dict) else ""
        raise PacxError(f"{what}: {', '.join(sorted(unknown))}.{f' Known: {known}.' if known else ''}")


def _describe(plan: Recipe) -> str:
    lines = [plan.title, f"output: {plan.out}"]
    for number, step in enumerate(plan.steps, start=1):
        lines.append(f"{number:>3}. {step.name:<20} {step.command}")
        if step.reads:
            lines.append(f"{'':5}reads {', '.join(step.reads)}")
        for path in step.outside:
            missing = "" if path.exists() else "  (NOT THERE: say where with --root NAME=PATH)"
            lines.append(f"{'':5}reads {path}{missing}")
        shown = " ".join(f"{key}={_short(step.arguments[key])}" for key in step.given)
        lines += textwrap.wrap(
            shown, width=110, initial_indent=" " * 5, subsequent_indent=" " * 5, break_long_words=False
        )
    return "\n".join(lines)


def _short(value: object) -> str:
    return json.dumps(plain(value)) if isinstance(value, list | tuple | dict) else str(value)
