"""The `serve` command: an HTTP service and a page for exported models, safe to put on a network."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pacx.data.workers import available_cores
from pacx.errors import MissingExtraError, PacxError
from pacx.serving.limits import Limits
from pacx.serving.opening import open_onnx

__all__ = ["make_app", "serve"]

_SETTINGS = "PACX_SERVE_SETTINGS"
_TOKEN = "PACX_TOKEN"
_LOOPBACK_BINDINGS = {"127.0.0.1", "::1", "localhost"}
_FEWEST_LETTERS = 16
_LIMITS = Limits()
log = logging.getLogger("pacx")


def serve(
    models: list[str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    threads: int = 1,
    token_file: Path | None = None,
    allowed_hosts: list[str] | None = None,
    limits: Limits = _LIMITS,
) -> None:
    """Serve exported models over HTTP, with a page for people at /.

    Binds to this computer alone unless told otherwise. Nothing that is uploaded is kept or logged. Research use only.

    Example:
        pacx serve model.onnx --port 8000

    Args:
        models: ONNX files of `pacx export`, or shipped:NAME; the small model that ships with pacx if none is given. A
            file MODEL.onnx.gallery.npz beside a model shows its nearest known images.
        host: the address to listen on; 0.0.0.0 for all. Give tokens then, and put TLS before it.
        port: the port, 1 to 65535.
        workers: processes, each with the models, a queue and decoders of its own.
        threads: of one forward pass; as many passes run side by side as the cores allow. With 1 the server answers the
            most, with more a lone request is answered sooner.
        token_file: a file with a bearer token per line; with it (or the environment variable PACX_TOKEN) every request
            for answers needs one.
        allowed_hosts: names under which the server may be asked; loopback's names on loopback, any elsewhere if not
            given.
        limits: of uploads, queues and time.

    Raises:
        PacxError: a model that cannot be opened, a port that is taken, a token that is too short.
        MissingExtraError: the server's packages are not installed.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError("Serving", extra="serve") from error
    if not 1 <= port <= 65535 or workers < 1 or threads < 1:
        raise PacxError(
            f"Found port {port}, {workers} workers and {threads} threads; allowed: ports 1 to 65535, a worker or more, "
            "a thread or more."
        )
    settings = {
        "models": models or ["shipped:phantom-small"],
        "threads": threads,
        "runners": max(1, available_cores() // (workers * threads)),
        "token_file": str(token_file) if token_file else None,
        "hosts": allowed_hosts or (None if host not in _LOOPBACK_BINDINGS else ["127.0.0.1", "localhost", "[::1]"]),
        "limits": asdict(limits),
    }
    tokens = _tokens(settings)
    if host not in _LOOPBACK_BINDINGS and not tokens:
        log.warning("serve: %s is open to the network and no token is asked for (--token-file)", host)
    with _environment(settings, workers), _listening(host, port) as listening:
        app = make_app()  # with several workers too: what cannot be opened is said once, here
        log.info("serve: http://%s:%d", host, port)
        for number in (signal.SIGTERM, signal.SIGINT):
            # The server obeys them, and when it is done sends them on to whoever had them before: to nobody.
            signal.signal(number, lambda *_: None)
        uvicorn.run(
            app if workers == 1 else "pacx.serving.serve:make_app", factory=workers > 1, fd=listening.fileno(),
            workers=workers, http="h11", access_log=False, log_config=None, server_header=False,
            h11_max_incomplete_event_size=16 * 1024, timeout_keep_alive=15,
            timeout_graceful_shutdown=int(limits.request_seconds) + 5,
        )  # fmt: skip


def make_app() -> Any:
    """Make the application from the settings in the environment; every worker does."""
    from pacx.serving.api import create_app

    if not log.handlers:  # a worker, which was not started by the command line
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
    settings = json.loads(os.environ[_SETTINGS])
    opened = [open_onnx(model, threads=settings["threads"]) for model in settings["models"]]
    return create_app(
        opened, limits=Limits(**settings["limits"]), runners=settings["runners"], tokens=_tokens(settings),
        hosts=settings["hosts"],
    )  # fmt: skip


def _tokens(settings: dict[str, Any]) -> list[str]:
    """Read the tokens that are accepted.

    Raises:
        PacxError: the file cannot be read or holds none, or a token is short enough to be guessed.
    """
    found = [os.environ[_TOKEN]] if os.environ.get(_TOKEN) else []
    if settings["token_file"]:
        try:
            lines = Path(settings["token_file"]).read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            raise PacxError(f"The token file {settings['token_file']} cannot be read ({error}).") from error
        if not lines:
            raise PacxError(f"The token file {settings['token_file']} holds no token. Write one per line.")
        found += lines
    if any(len(token) < _FEWEST_LETTERS or not token.isascii() for token in found):
        raise PacxError(
            f"A token needs at least {_FEWEST_LETTERS} plain letters or digits. Make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return found


@contextmanager
def _environment(settings: dict[str, Any], workers: int) -> Iterator[None]:
    """Hand the settings to the workers; tokens stay in their file, or in their own variable."""
    with tempfile.TemporaryDirectory(prefix="pacx-metrics-") as counters:
        os.environ[_SETTINGS] = json.dumps(settings)
        if workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters
        try:
            yield
        finally:
            os.environ.pop(_SETTINGS, None)
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Open the port.

    Raises:
        PacxError: it is taken, or may not be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise PacxError(
                f"Port {port} of {host} cannot be opened ({error.strerror or error}). Choose another --port or --host."
            ) from error
        listening.set_inheritable(True)
        yield listening
