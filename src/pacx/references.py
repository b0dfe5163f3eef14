"""What stands in braces in a recipe: folders of other steps, folders outside, and the values of a step's `for`."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pacx.errors import PacxError

__all__ = ["ELSEWHERE", "Resolver", "expand"]

_REFERENCE = re.compile(r"\{([^{}]+)\}")
_FRESH = re.compile(r"random:(.+?)(?::\d+)?")  # random:FOLDER:SEED reads the folder
ELSEWHERE = ("timm:", "hf-hub:")  # names of weights that are no files
_SEVERAL = re.compile(r"\{[^{}:]*[*?][^{}:]*\}")  # as in {probe-*} or {pacx-?}


def expand(name: str, body: object) -> Iterator[tuple[str, object]]:
    """Yield the steps that one entry of a recipe stands for: itself, or with `for` one for each combination of values.

    Args:
        name: of the step; with `for` it holds each variable in braces, as in `pacx-{seed}`.
        body: command and arguments. `for` maps variables to lists of values. `"{seed}"` by itself becomes the value,
            inside a longer text the value as text.

    Raises:
        PacxError: `for` does not map names to lists, or the name lacks one of them.
    """
    if not isinstance(body, dict) or "for" not in body:
        yield name, body
        return
    variables = body["for"]
    if not isinstance(variables, dict) or not all(isinstance(values, list) and values for values in variables.values()):
        raise PacxError(f"Step {name!r}: `for` maps names to lists, as in `for: {{seed: [0, 1, 2]}}`.")
    absent = [variable for variable in variables if f"{{{variable}}}" not in name]
    if absent:
        raise PacxError(
            f"Step {name!r} is there for several values of {', '.join(absent)}, but its name is the same for all: "
            f"call it {name}-{'-'.join(f'{{{variable}}}' for variable in absent)}."
        )
    rest = {key: item for key, item in body.items() if key != "for"}
    for chosen in itertools.product(*variables.values()):
        values = dict(zip(map(str, variables), chosen, strict=True))
        yield str(_fill(name, values)), _fill(rest, values)


def _fill(part: object, values: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_fill(item, values) for item in part]
    if isinstance(part, dict):
        return {key: _fill(item, values) for key, item in part.items()}
    if not isinstance(part, str):
        return part
    whole = _REFERENCE.fullmatch(part)
    if whole and whole[1] in values:
        return values[whole[1]]
    return _REFERENCE.sub(lambda match: str(values[match[1]]) if match[1] in values else match[0], part)


class Resolver:
    """Replaces `{...}` in a step's arguments and remembers what was referred to."""

    def __init__(
        self,
        step: str,
        *,
        roots: Mapping[str, Path],
        earlier: Mapping[str, str],
        planned_only: bool,
        made: Sequence[Path] = (),
    ) -> None:
        self.step, self.roots, self.earlier, self.planned_only, self.made = step, roots, earlier, planned_only, made
        self.reads: list[str] = []
        self.outside: list[Path] = []

    def __call__(self, value: object) -> Any:
        """Return a value with all references replaced, in lists and mappings too."""
        if isinstance(value, str):
            if _SEVERAL.fullmatch(value):
                return self._several(value[1:-1])
            resolved = _REFERENCE.sub(self._replace, value)
            if "{root:" in value:
                fresh = _FRESH.fullmatch(resolved)
                self._note_outside(Path(fresh[1] if fresh else resolved))
            return resolved
        if isinstance(value, list):
            return [one for item in value for one in self._flat(item)]
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return value

    def _flat(self, item: object) -> list[Any]:
        """Resolve an item of a list; one that stands for several steps becomes several items."""
        resolved = self(item)
        return resolved if isinstance(item, str) and isinstance(resolved, list) else [resolved]

    def _several(self, pattern: str) -> list[str]:
        names = fnmatch.filter(self.earlier, pattern)
        if not names:
            raise PacxError(
                f"Step {self.step!r} refers to {{{pattern}}}, and no earlier step is called so. "
                f"Earlier steps: {', '.join(self.earlier) or 'none'}."
            )
        self.reads += names
        return [self.earlier[name] for name in names]

    def _replace(self, match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("root:"):
            root = self.roots.get(name[5:])
            if root is None:
                raise PacxError(f"Step {self.step!r}: the recipe declares no root {name[5:]!r}; add it under `roots:`.")
            return str(root)
        if name not in self.earlier:
            raise PacxError(
                f"Step {self.step!r} refers to {{{name}}}, which is no earlier step. "
                f"Earlier steps: {', '.join(self.earlier) or 'none'}."
            )
        self.reads.append(name)
        return self.earlier[name]

    def _note_outside(self, path: Path) -> None:
        if str(path).startswith(ELSEWHERE):
            return
        to_come = self.planned_only or any(path.is_relative_to(folder) for folder in self.made)
        if not path.exists() and not to_come:
            raise PacxError(
                f"Step {self.step!r} reads {path}, which is not there. Say where it is with --root NAME=PATH."
            )
        self.outside.append(path)
