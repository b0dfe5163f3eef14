"""The one exception that means "the user can mend this".

The command line turns it into a one-paragraph message and exit code 2; anything else is a bug of ours and keeps
its traceback.
"""

from __future__ import annotations

__all__ = ["MissingExtraError", "PacxError"]


class PacxError(Exception):
    """Input that pacx cannot use.

    The message says what was found, what is allowed, and what to do about it.
    """


class MissingExtraError(PacxError):
    """An optional dependency is needed and absent; names the extra that brings it."""

    def __init__(self, purpose: str, *, extra: str) -> None:
        super().__init__(
            f"{purpose} needs optional packages that are not installed. "
            f"From a checkout of pacx: pip install '.[{extra}]'."
        )
