"""`pacx`: parse, call the command, and turn a user's mistake into one paragraph and exit code 2."""

from __future__ import annotations

import errno
import logging
import os
import sys
import textwrap
from collections.abc import Sequence

from pacx import __version__
from pacx.commands import COMMANDS, build_parser, find, friendly_arguments, friendly_error, load, split_name
from pacx.data.quiet import quiet_decoders
from pacx.errors import PacxError
from pacx.ranks import is_first, rank
from pacx.runs import check_counts

__all__ = ["main"]

_ABOUT = """\
pacx puts physiology into chest X-ray encoders: a ViT is pre-trained on chest X-rays by masked
autoencoding, paired ECG and laboratory embeddings are distilled into it, and only the X-ray encoder remains.
Research use only; not a medical device."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 2 the input cannot be used, 130 interrupted. Bugs of ours keep their traceback. A
        training that was told to stop (SIGTERM) ends with SystemExit 143.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"pacx {__version__}")
        return 0
    _log_to_screen()
    quiet_decoders()
    # libgomp's threads spin for long while they wait for each other. Beside another busy process a training step then
    # takes many times as long; a short spin costs nothing on a free machine. Read when torch is imported, later.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return _guarded(*split_name(arguments))


def _guarded(name: str, arguments: list[str]) -> int:
    """Call a command; what its user can mend becomes a message, everything else keeps its traceback."""
    try:
        return _call(name, arguments)
    except PacxError as error:
        return _fail(name, str(error))
    except KeyboardInterrupt:
        if is_first():  # Ctrl-C reaches all processes of a joint training
            print(f"\npacx {name}: interrupted. Run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _OWNERS_TO_MEND:
            raise
        return _fail(name, f"{error.strerror}: {error.filename or 'while writing'}. {_OWNERS_TO_MEND[error.errno]}")


_OWNERS_TO_MEND = {
    errno.ENOSPC: "Free some space or choose an --out on another disk; run the same command again to go on.",
    errno.EDQUOT: "Free some of your quota or choose an --out elsewhere; run the same command again to go on.",
    errno.EACCES: "Choose a place that you may read and write.",
    errno.EROFS: "Choose an --out on a disk that can be written.",
    errno.ENOENT: "Check the path.",
    errno.EEXIST: "Something of another kind lies there; choose another --out.",
    errno.ENOTDIR: "A folder was expected there; check the path.",
    errno.EISDIR: "A file was expected there; check the path.",
}


def _call(name: str, arguments: list[str]) -> int:
    from jsonargparse import ArgumentError

    find(name)
    function = load(name)
    parser = build_parser(name, function)
    try:
        parsed = parser.parse_args(friendly_arguments(function, arguments))
    except ArgumentError as error:
        return _fail(name, f"{friendly_error(function, str(error))} See `pacx {name} --help`.")
    values = parser.instantiate(parsed)
    values.pop("config", None)
    given = values.as_dict()
    check_counts(given)  # before a model is opened
    function(**given)
    return 0


def _fail(name: str, message: str) -> int:
    who = f"pacx {name}" if is_first() else f"pacx {name} (process {rank()})"
    # Paths and flags must stay whole, to be copied.
    wrapped = textwrap.fill(f"{who}: error: {message}", width=100, break_long_words=False, break_on_hyphens=False)
    print(wrapped, file=sys.stderr)
    return 2


def _overview() -> str:
    lines = [f"usage: pacx COMMAND [arguments]        (pacx {__version__})", "", _ABOUT, ""]
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines.append(f"{group}:")
        lines.append(f"  {name:<12} {command.about}")
    lines += [
        "",
        "`pacx COMMAND --help` shows a command's arguments, their defaults and an example.",
        "Start with: pacx demo",
    ]
    return "\n".join(lines)


class _Screen(logging.Handler):
    """Writes to what is standard error now: a program that calls `main` may have exchanged and closed it since."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)  # standard output stays free for results


def _log_to_screen() -> None:
    log = logging.getLogger("pacx")
    if not any(isinstance(handler, _Screen) for handler in log.handlers):
        log.addHandler(_Screen())
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
