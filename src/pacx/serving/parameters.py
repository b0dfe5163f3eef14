"""Refuses query parameters that a place does not know: who misspells one would be answered as if it were not there."""

from __future__ import annotations

from typing import Any

from fastapi import Depends
from starlette.requests import Request

from pacx.data.pixels import printable
from pacx.serving.problems import Problem

__all__ = ["only"]


def only(*names: str) -> Any:
    """Return a dependency that takes these query parameters, each once, and refuses all others (422)."""
    allowed = ", ".join(f"`{name}`, once" for name in names) or "none"

    async def check(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        for name in given:
            if name not in names or given.count(name) > 1:
                shown = printable(name, longest=40)
                raise Problem(
                    422, "unknown-parameter", "A query parameter is not known, or given twice.",
                    f"Found the query parameter {shown!r}; allowed: {allowed}. See /openapi.json.",
                )  # fmt: skip

    return Depends(check)
