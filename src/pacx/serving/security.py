"""Who may ask, from where, and what a browser may do with the answer. Plain ASGI, around everything else."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacx.serving.problems import Problem

__all__ = ["LOOPBACK", "Guard"]

log = logging.getLogger("pacx")

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_GUARDED = ("/v1/", "/metrics", "/openapi.json")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Checks host, origin and token of every request, sets the security headers of every answer, and answers for bugs.

    * **Host**: on loopback, only loopback's names are answered. A page from elsewhere whose name was made to point
      here (DNS rebinding) sends its own.
    * **Origin**: requests that a browser sends for another origin's page are refused; there is no CORS.
    * **Token**: where there are tokens, /v1, /metrics and /openapi.json want one. Compared in constant time.
    """

    def __init__(self, app: ASGIApp, *, tokens: Collection[str], hosts: Collection[str] | None) -> None:
        """Wrap an application.

        Args:
            app: what is guarded.
            tokens: bearer tokens that are accepted; none = open to all who reach the port.
            hosts: names under which the server may be asked; None = any.
        """
        self.app = app
        self.tokens = [token.encode() for token in tokens]
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/v1/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            self._check(scope)
        except Problem as problem:
            await problem.response()(scope, receive, send_guarded)
            return
        try:
            await self.app(scope, receive, send_guarded)
        except Exception:  # a bug; the framework would answer without the headers, uncounted
            if begun:
                raise
            log.exception("a request failed")
            bug = Problem(500, "bug", "The server failed.", "This is a bug of pacx, not of the request.")
            await bug.response()(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _without_port(host).lower() not in self.hosts:
            raise Problem(
                400, "unknown-host", "The server is not known under this name.",
                "Ask under a name that it was started for (--allowed-hosts).",
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Problem(
                403, "other-origin", "Requests of other sites' pages are refused.", "Open the server's own page."
            )
        if self.tokens and scope["path"].startswith(_GUARDED) and not self._knows(headers.get("authorization", "")):
            raise Problem(
                401, "unauthorised", "A token is needed.", "Send the header Authorization: Bearer TOKEN, with one of "
                "the tokens that the server was started with.",
            )  # fmt: skip

    def _knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode()
        # Every token is compared, so that time does not tell which one nearly fits.
        found = [hmac.compare_digest(given, known) for known in self.tokens]
        return scheme.lower() == "bearer" and any(found)


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdecimal() else host
