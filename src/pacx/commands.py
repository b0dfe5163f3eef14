"""The commands of `pacx`: one table, and the way from a typed function to flags, YAML keys and help.

* A command is a function with keyword arguments; its signature and docstring are the command line, the schema of a
  recipe step and the `--help` text. Nothing is declared twice.
* The table holds names as strings, so that `pacx --help` imports no command (and no torch) to answer.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pacx.errors import MissingExtraError, PacxError

__all__ = [
    "COMMANDS",
    "Command",
    "build_parser",
    "check_arguments",
    "find",
    "friendly_arguments",
    "friendly_error",
    "load",
    "split_name",
]


@dataclass(frozen=True)
class Command:
    """Where a command lives and what it is for."""

    target: str
    """module:function"""
    about: str
    """one line for `pacx --help`"""
    group: str
    extra: str | None = None
    """the optional dependencies that it needs"""


COMMANDS: dict[str, Command] = {
    "simulate": Command(
        "pacx.data.phantom.cohort:simulate", "simulate a cohort: X-rays, ECGs, labs, labels", "make data"
    ),
    "prepare": Command("pacx.data.prepare:prepare", "turn files on disk into a store", "make data"),
    "data list": Command("pacx.data.catalogue:list_sources", "the public data sets that can be prepared", "make data"),
    "data show": Command("pacx.data.catalogue:show_source", "all that is known of a public data set", "make data"),
    "data audit": Command("pacx.data.audit:audit", "patients, studies and images that stores share", "make data"),
    "store merge": Command("pacx.data.merge:merge_stores", "join the parts of a store", "make data"),
    "pretrain": Command("pacx.stages.pretrain:pretrain", "pre-train a ViT by masked autoencoding", "train", "train"),
    "fit-ecg": Command("pacx.stages.fit_ecg:fit_ecg", "train an ECG teacher", "train", "train"),
    "fit-labs": Command("pacx.stages.fit_labs:fit_labs", "train a laboratory teacher", "train", "train"),
    "bank": Command(
        "pacx.stages.bank:bank", "embed a store with a frozen teacher, or import embeddings", "train", "train"
    ),
    "distill": Command("pacx.stages.distill:distill", "distil teachers into the X-ray encoder", "train", "train"),
    "finetune": Command(
        "pacx.stages.finetune:finetune", "train encoder and linear head end to end on a task", "train", "train"
    ),
    "segment": Command("pacx.stages.segment:segment", "train a mask decoder on frozen tokens", "train", "train"),
    "probe": Command("pacx.evaluation.probe:probe", "linear probes on frozen features", "judge", "train"),
    "pool": Command("pacx.evaluation.pool:pool", "join the probes of several seeds or folds", "judge", "train"),
    "align": Command("pacx.evaluation.alignment:align", "how much of a teacher an encoder knows", "judge", "train"),
    "physiology": Command(
        "pacx.evaluation.physiology:physiology", "laboratory values read off lone X-rays", "judge", "train"
    ),
    "explain": Command("pacx.evaluation.attention:explain", "where an encoder looks", "judge", "train"),
    "reconstruct": Command(
        "pacx.stages.reconstruct:reconstruct", "show what a masked autoencoder fills in", "judge", "train"
    ),
    "report": Command("pacx.evaluation.report:report", "one HTML page from any number of runs", "judge", "train"),
    "convert": Command("pacx.stages.convert:convert", "foreign weights in, our weights out", "use", "train"),
    "features": Command("pacx.serving.features:features", "embed images: files, folders, tables of paths", "use"),
    "predict": Command("pacx.serving.predict:predict", "calibrated probabilities by a trained head", "use"),
    "similar": Command("pacx.serving.similar:similar", "the nearest known images", "use"),
    "export": Command("pacx.serving.export:export", "one ONNX file from an encoder or a trained head", "use", "export"),
    "serve": Command("pacx.serving.serve:serve", "an HTTP service and a page for exported models", "use", "serve"),
    "run": Command("pacx.recipe:run", "run a recipe: a chain of commands in one YAML", "tie together"),
    "demo": Command("pacx.recipe:demo", "the whole method on the simulated cohort", "tie together"),
    "doctor": Command("pacx.doctor:doctor", "what is installed, and what this machine can do", "tie together"),
}


def find(name: str) -> Command:
    """Look a command up.

    Raises:
        PacxError: there is no such command; the nearest names are given.
    """
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = [one for one in COMMANDS if one.startswith(f"{name} ")] or get_close_matches(name, COMMANDS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise PacxError(f"There is no command {name!r}.{hint} The commands are: {', '.join(COMMANDS)}.")
    return COMMANDS[name]


def split_name(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split a command line into the command, which may have two words as in `store merge`, and its arguments."""
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    return " ".join(argv[:words]), list(argv[words:])


def load(name: str) -> Callable[..., Any]:
    """Import the function behind a command.

    Raises:
        MissingExtraError: the extra that the command needs is not installed.
    """
    command = find(name)
    module, _, function = command.target.partition(":")
    try:
        return typing.cast("Callable[..., Any]", getattr(import_module(module), function))
    except ModuleNotFoundError as error:
        # Only an absent third-party package is the user's to mend; one of ours that is missing is a bug.
        if command.extra is None or (error.name or "").partition(".")[0] == "pacx":
            raise
        raise MissingExtraError(f"`pacx {name}` (package {error.name})", extra=command.extra) from error


def build_parser(name: str, function: Callable[..., Any]) -> Any:
    """Make the argument parser of a command from its signature.

    Parameters that may be given by position become positional arguments, keyword-only ones become flags. A list that
    may be given by position is a flag here; `friendly_arguments` puts what stands by itself behind it.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # a field's docstring is its flag's help
    description, example = _split_docstring(inspect.getdoc(function) or "")
    parser = ArgumentParser(prog=f"pacx {name}", description=description, epilog=example, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with arguments; flags override it")
    hints = typing.get_type_hints(function)
    helps = _argument_helps(inspect.getdoc(function) or "")
    positional = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and not _is_list(hints[parameter.name])
    ]
    for argument in positional:
        parser.add_argument(argument, type=hints[argument], help=helps.get(argument, ""))
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    return parser


def check_arguments(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check a recipe step's arguments against the signature; return them typed and with defaults filled in.

    Raises:
        PacxError: an unknown, missing or ill-typed argument.
    """
    from jsonargparse import ArgumentError

    parameters = inspect.signature(function).parameters
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise PacxError(
            f"`{name}` has no argument {', '.join(unknown)}. "
            f"It takes: {', '.join(parameters)} (see `pacx {name} --help`)."
        )
    try:
        parsed = build_parser(name, function).parse_object(dict(arguments))
    except (ArgumentError, TypeError, ValueError) as error:
        raise PacxError(f"`{name}`: {_one_line(error)} (see `pacx {name} --help`).") from error
    return {key: parsed[key] for key in parameters}


def friendly_arguments(function: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """Let flags be written the usual way.

    `--flip` stands for `--flip true`, `--tasks a b` for `--tasks '["a","b"]'`, `--batch-size` for `--batch_size`.
    A list may be given in several parts: `--root data=a --root mae=b` is `--root data=a mae=b`. One that may be given
    by position needs no flag: `pacx report a b --out c` is `pacx report --runs a b --out c`.
    """
    hints = typing.get_type_hints(function)
    tokens = _with_list_flag(function, argv)
    out: list[str] = []
    lists: dict[str, tuple[int, list[str]]] = {}
    while tokens:
        token = tokens.pop(0)
        flag, sign, value = token.partition("=")
        if flag.startswith("--"):
            token = "--" + flag[2:].replace("-", "_") + sign + value
        out.append(token)
        if not flag.startswith("--") or sign:
            continue
        hint = hints.get(token[2:])
        if hint is bool and (not tokens or tokens[0].lower() not in {"true", "false", "yes", "no"}):
            out.append("true")
        elif _is_list(hint) and tokens and not tokens[0].startswith("["):
            if token in lists:
                out.pop()  # the flag is there already
            else:
                lists[token] = (len(out), [])
                out.append("")
            place, values = lists[token]
            while tokens and not tokens[0].startswith("--"):
                values.append(tokens.pop(0))
            out[place] = json.dumps(values) if _holds_text(hint) else "[" + ",".join(values) + "]"
    return out


def friendly_error(function: Callable[..., Any], text: str) -> str:
    """Say in a user's words what the parser says in Python's types.

    Args:
        function: the command.
        text: the parser's message.
    """
    text = " ".join(text.split())
    if missing := re.fullmatch(r"the following arguments are required: (.+)", text):
        names = [_as_written(function, name) for name in missing[1].split(", ")]
        return f"{_listed(names, 'and')} {'is' if len(names) == 1 else 'are'} required."
    key = re.search(r'Parser key "(\w+)"', text)
    given = re.search(r"Given value: (.*)$", text) or re.search(r"Got value: (.*)$", text)
    if key and given:
        said = f"{_as_written(function, key[1])} {given[1]}"
        if choices := re.search(r"Literal\[(.*?)\]", text):
            names = [str(one) for one in ast.literal_eval(f"[{choices[1]}]")]
            return f"{said} is not allowed. Choose {_listed(names, 'or')}."
        for kind, words in _KINDS.items():
            if kind in text:
                return f"{said} is not {words}."
    return text if text.endswith(".") else f"{text}."


_KINDS = {
    "list[float]": "a list of numbers",
    "list[int]": "a list of whole numbers",
    "tuple[float, float]": "a pair of numbers",
    "<class 'float'>": "a number",
    "<class 'int'>": "a whole number",
    "<class 'bool'>": "true or false",
}
"""how the parser writes a type, the widest first, and what people call it"""


def _as_written(function: Callable[..., Any], name: str) -> str:
    """Return an argument as it is given: by position, or as a flag, of which the parser has some of its own."""
    parameter = inspect.signature(function).parameters.get(name)
    by_position = parameter is not None and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return name if by_position else f"--{name.replace('_', '-')}"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _with_list_flag(function: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """Put the flag of a list that may be given by position before what stands first without a flag."""
    hints = typing.get_type_hints(function)
    named = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and _is_list(hints[parameter.name])
    ]
    stands_alone = bool(named) and bool(argv) and not argv[0].startswith("-")
    return [f"--{named[0]}", *argv] if stands_alone else list(argv)


def _is_list(hint: object) -> bool:
    return any(typing.get_origin(choice) in {list, tuple} for choice in _choices(hint))


def _holds_text(hint: object) -> bool:
    """Say whether a list's items are words; these are quoted, so that `No` stays a word and a comma stays inside."""
    items = [item for choice in _choices(hint) for item in typing.get_args(choice)]
    return str in items or Path in items


def _choices(hint: object) -> tuple[object, ...]:
    return (hint,) if typing.get_origin(hint) in {list, tuple} else typing.get_args(hint)


def _split_docstring(text: str) -> tuple[str, str]:
    """Return the description, and the example as the help's last words."""
    description = text.split("\nArgs:", maxsplit=1)[0].strip()
    found = re.search(r"^Example:\n(?P<body>(?:[ \t]+.*\n?|\n)+)", text, flags=re.MULTILINE)
    description = re.sub(r"^Example:\n(?:[ \t]+.*\n?|\n)+", "", description, flags=re.MULTILINE).strip()
    example = " ".join(found["body"].replace("\\\n", " ").split()) if found else ""
    return description, f"example: {example}" if example else ""


def _argument_helps(text: str) -> dict[str, str]:
    found = re.search(r"^Args:\n(?P<body>(?:[ \t]+.*\n?|\n)+)", text, flags=re.MULTILINE)
    if not found:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", found["body"], flags=re.MULTILINE)
    return {name: " ".join(body.split()) for name, body in entries}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
