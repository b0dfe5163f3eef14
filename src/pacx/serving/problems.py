"""Faults as JSON that says what is wrong and what to do (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["MEDIA_TYPE", "Problem", "busy", "on_http_error", "on_problem"]

MEDIA_TYPE = "application/problem+json"
_KINDS = {404: "not-found", 405: "method-not-allowed"}


class Problem(Exception):  # noqa: N818 - the standard's word
    """A fault of a request, to be told to whoever sent it."""

    def __init__(
        self, status: int, kind: str, title: str, detail: str, *, file: int | None = None, retry: float | None = None
    ) -> None:
        """Describe it.

        Args:
            status: of HTTP.
            kind: a short name that programs can tell faults apart by.
            title: what kind of fault it is, in words.
            detail: what was found, what is allowed, what to do. No words out of a file.
            file: which of the request's files, from 0.
            retry: seconds after which to try again.
        """
        super().__init__(detail)
        self.status, self.kind, self.title, self.detail, self.file, self.retry = (
            status,
            kind,
            title,
            detail,
            file,
            retry,
        )

    def of_file(self, number: int) -> Problem:
        """Return the same fault of a certain file."""
        return Problem(self.status, self.kind, self.title, self.detail, file=number, retry=self.retry)

    def response(self) -> Response:
        """Return what is sent."""
        content: dict[str, Any] = {
            "type": f"urn:pacx:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.file is not None:
            content["file"] = self.file
        headers = {"Retry-After": str(max(1, round(self.retry)))} if self.retry is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(content, self.status, headers, media_type=MEDIA_TYPE)


def busy(detail: str, *, retry: float = 1.0) -> Problem:
    """Return the fault of coming while too many others are here."""
    return Problem(429, "busy", "The server is busy.", detail, retry=retry)


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer a request with its fault."""
    del request
    assert isinstance(error, Problem)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer with what the framework found: an unknown place, a method that is not allowed."""
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "malformed")
    detail = f"{request.method} {request.url.path}: {error.detail}. See /openapi.json for what there is."
    response = Problem(error.status_code, kind, str(error.detail), detail).response()
    response.headers.update(error.headers or {})
    return response
