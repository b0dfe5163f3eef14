"""Recipes of recipes: several, one after the other, each with what the earlier ones left behind.

    title: everything
    recipes: [pretrain, labs-teacher, distill]

* A name is that of a file beside the chain's, or of a recipe that ships. Each recipe has the output folder OUT/<name>.
* A root that is given with `--root`, or under the chain's own `roots`, goes to every recipe that asks for it.
* A root that is not given, and whose default lies where an earlier recipe of the chain writes when it runs by itself
  (as runs/paper/pretrain/mae/encoder does), is that recipe's output in this run.

So recipes need not know of each other, and each runs alone as it runs in the chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacx.errors import PacxError
from pacx.recipe_file import Recipe, declared_roots, default_out, load_recipe, locate, read_steps, refuse_unknown

__all__ = ["is_chain", "read_recipe", "read_recipes"]


def is_chain(path: Path) -> bool:
    """Say whether a file chains recipes.

    Raises:
        PacxError: it is no recipe.
    """
    return "recipes" in load_recipe(path)


def read_recipe(path: Path, *, out: Path, roots: Mapping[str, Path], planned_only: bool = False) -> Recipe:
    """Read a recipe of steps and check every step before anything runs; arguments and errors as `read_recipes`."""
    (recipe,) = read_recipes(path, out=out, roots=roots, planned_only=planned_only)
    return recipe


def read_recipes(path: Path, *, out: Path, roots: Mapping[str, Path], planned_only: bool = False) -> tuple[Recipe, ...]:
    """Read a recipe, or all those that a chain names, and check every step before anything runs.

    Args:
        path: the YAML file.
        out: folder for the outputs.
        roots: folders outside, by name; defaults stand for those that are not given.
        planned_only: accept that folders outside are not there yet.

    Raises:
        PacxError: not YAML, unknown keys, commands, arguments or references; a root that is not there or that nobody
            asks for; a recipe that is not there, is named twice, is itself a chain, or reads what a later one makes.
    """
    content = load_recipe(path)
    if "steps" in content:
        return (read_steps(path, content, out=out, roots=roots, planned_only=planned_only),)
    members = _members(path, content["recipes"])
    contents = {name: load_recipe(member) for name, member in members.items()}
    for name, inner in contents.items():
        if "recipes" in inner:
            raise PacxError(f"{path.name} names {name}, which is itself a chain. Name recipes that have steps.")
    given = {**{name: root.path for name, root in declared_roots(path, content).items()}, **roots}
    _refuse_unasked(path, given, members, contents)
    recipes: list[Recipe] = []
    for name, member in members.items():
        done = {default_out(members[recipe.name]): recipe.out for recipe in recipes}
        later = [other for other in members if other not in {name, *(recipe.name for recipe in recipes)}]
        places = _places(member, contents[name], given=given, done=done)
        _refuse_order(name, places, {other: default_out(members[other]) for other in later})
        recipe = read_steps(
            member, contents[name], out=out / name, roots=places, planned_only=planned_only, made=tuple(done.values())
        )
        steps = tuple(replace(step, recipe=name) for step in recipe.steps)
        recipes.append(replace(recipe, name=name, steps=steps))
    return tuple(recipes)


def _members(path: Path, names: Sequence[str]) -> dict[str, Path]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PacxError(f"{path.name} names {', '.join(twice)} more than once. Its output folder would be the same.")
    return {name: locate(Path(name), beside=path.parent) for name in names}


def _places(
    path: Path, content: Mapping[str, Any], *, given: Mapping[str, Path], done: Mapping[Path, Path]
) -> dict[str, Path]:
    """Return where a recipe's roots are; `done` maps where earlier recipes write by themselves to where they do now."""
    return {
        name: given[name] if name in given else _moved(root.path, done)
        for name, root in declared_roots(path, content).items()
    }


def _moved(path: Path, done: Mapping[Path, Path]) -> Path:
    for usual, place in done.items():
        if path.is_relative_to(usual):
            return place / path.relative_to(usual)
    return path


def _refuse_unasked(
    path: Path, given: Mapping[str, Path], members: Mapping[str, Path], contents: Mapping[str, Mapping[str, Any]]
) -> None:
    asked = dict.fromkeys(root for name, inner in contents.items() for root in declared_roots(members[name], inner))
    refuse_unknown(set(given) - set(asked), f"No recipe of {path.name} asks for a root named", allowed=asked)


def _refuse_order(name: str, places: Mapping[str, Path], later: Mapping[str, Path]) -> None:
    for root, place in places.items():
        for other, usual in later.items():
            if place.is_relative_to(usual):
                raise PacxError(f"{name} reads what {other} makes (root {root}). Name {other} before {name}.")
