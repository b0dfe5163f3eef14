"""Recipes: a chain of commands in one YAML file, run once, resumed at will.

`pacx.recipe_file` has what may stand in such a file, `pacx.recipe_chain` how one names several others.

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
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pacx import __version__
from pacx.commands import load
from pacx.costs.gpus import GpuName
from pacx.errors import PacxError
from pacx.ranks import is_first, num_started
from pacx.recipe_chain import is_chain, read_recipe, read_recipes
from pacx.recipe_file import Recipe, Step, default_out, locate, refuse_unknown
from pacx.recipe_plan import describe
from pacx.runs import plain, write_json
from pacx.step_pool import run_side_by_side

__all__ = ["Recipe", "Step", "demo", "read_recipe", "run"]

log = logging.getLogger("pacx")


def run(
    recipe: Path,
    *,
    out: Path | None = None,
    root: list[str] | None = None,
    redo: list[str] | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    gpu: GpuName = "A100",
    utilisation: float = 0.4,
) -> dict[str, Any]:
    """Run a recipe: a chain of commands in one YAML file.

    Steps that are done with the same configuration and inputs are skipped; an interrupted recipe goes on where it was.

    Example:
        pacx run recipes/open-sample.yaml --root data=../shared/data --out runs/open-sample

    Args:
        recipe: the YAML file, or the name of one that ships with pacx (`demo`, `paper/pretrain`).
        out: folder for the steps' outputs; `runs/<recipe name>` unless given, such as runs/paper/pretrain. Of a recipe
            that chains others, the folder above theirs, such as runs/paper.
        root: folders outside that the recipe asks for, as NAME=PATH.
        redo: steps to run again although they are done, with all that read them; RECIPE/STEP in a chain of recipes.
        jobs: how many steps may run side by side, each in a process of its own with its share of the cores' threads; a
            step waits for those that it reads. For many small trainings on one computer.
        dry_run: print the plan, what it needs (disk, memory, GPU hours) and what is not there yet; run nothing.
        gpu: dry_run: the GPU whose hours are counted.
        utilisation: dry_run: the share of its peak that a training reaches.

    Raises:
        PacxError: the recipe is ill-formed, refers to something absent, or a step cannot use its input.
    """
    path = locate(recipe)
    out = default_out(path, chain=is_chain(path)) if out is None else Path(out)
    plans = read_recipes(path, out=out, roots=_parse_roots(root or []), planned_only=dry_run)
    steps = [step for plan in plans for step in plan.steps]
    names = [step.full_name for step in steps]
    refuse_unknown(set(redo or []) - set(names), "--redo names no step of this recipe", allowed=names)
    if dry_run:
        print(describe(plans, out=out, gpu=gpu, utilisation=utilisation))
        return {"steps": names}
    if jobs < 1:
        raise PacxError(f"--jobs {jobs} can run nothing. Give 1, or as many steps as may run side by side.")
    if not is_first() or num_started() > 1:
        return _join_step(steps)
    for plan in plans:
        _run_steps(plan, redo=frozenset(redo or []), jobs=jobs)
    return {"out": str(out), "steps": names}


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


_UNDER_WAY = "PACX_STEP"
"""the environment variable by which a process that a step starts knows the step"""


def _join_step(steps: Sequence[Step]) -> dict[str, Any]:
    """Be one of the other processes of a step; training ends this process."""
    step = next((step for step in steps if step.full_name == os.environ.get(_UNDER_WAY)), None)
    if step is None:
        raise PacxError(
            "A recipe is run by one process, which starts those that a step on several devices needs. Start it without "
            "torchrun or srun. To train on several computers, run that step by itself (`pacx pretrain ...`) and have "
            "the recipe read its folder as a root."
        )
    _call(step)
    return {"steps": [step.full_name]}


def _run_steps(plan: Recipe, *, redo: frozenset[str], jobs: int) -> None:
    if plan.out.exists() and not plan.out.is_dir():
        raise PacxError(f"{plan.out} is a file. --out needs a folder, which is made if it is not there.")
    plan.out.mkdir(parents=True, exist_ok=True)
    ledger = _Ledger(plan.out / "steps.json")
    prints: dict[str, str] = {}
    again = {step.name for step in plan.steps if step.full_name in redo}
    titles: dict[str, str] = {}
    todo = []
    for number, step in enumerate(plan.steps, start=1):
        prints[step.name] = _fingerprint(step, prints)
        titles[step.name] = f"[{number}/{len(plan.steps)}] {step.full_name} ({step.command})"
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


def _call(step: Step) -> None:
    function: Callable[..., Any] = load(step.command)
    parameters = inspect.signature(function).parameters
    positional = [key for key in parameters if parameters[key].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    named = {key: item for key, item in step.arguments.items() if key not in positional}
    os.environ[_UNDER_WAY] = step.full_name
    try:
        function(*(step.arguments[key] for key in positional), **named)
    except PacxError as error:
        raise PacxError(f"Step {step.full_name!r} ({step.command}): {error}") from error
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


def _parse_roots(pairs: list[str]) -> dict[str, Path]:
    roots = {}
    for pair in pairs:
        name, sign, place = pair.partition("=")
        if not sign or not name or not place:
            raise PacxError(f"--root {pair!r} is not NAME=PATH, for instance --root data=../shared/data.")
        roots[name] = Path(place)
    return roots
