"""The HTTP service: which place answers what. What happens behind is `pacx.serving.service`."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from pacx import __version__
from pacx.errors import PacxError
from pacx.serving.facts import INTENDED_USE
from pacx.serving.limits import Limits
from pacx.serving.parameters import only
from pacx.serving.problems import Problem, on_http_error, on_problem
from pacx.serving.runtime import OnnxModel
from pacx.serving.schemas import (
    Explanations,
    Features,
    Models,
    Predictions,
    ProblemAnswer,
    Status,
    problems,
    upload,
)
from pacx.serving.security import Guard
from pacx.serving.service import Answered, ServedModel, Service

__all__ = ["create_app"]

_PICTURE_EDGE = 1024
_UPLOAD_FAULTS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 503)
_OTHER_FAULTS = (400, 401, 403, 404, 405, 422)
_LATER = {"Retry-After": "2"}
log = logging.getLogger("pacx")


def create_app(
    models: Sequence[OnnxModel],
    *,
    limits: Limits | None = None,
    runners: int = 1,
    tokens: Collection[str] = (),
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Make the ASGI application.

    Args:
        models: at least one; the first answers where none is named.
        limits: of uploads, queues and time.
        runners: forward passes of a model side by side.
        tokens: bearer tokens that are accepted; none = open to all who reach the port.
        hosts: names under which the server may be asked; None = any.

    Raises:
        PacxError: two models of one name, or a gallery of another model.
    """
    service = Service(models, limits or Limits(), runners=runners)
    app = FastAPI(
        title="pacx",
        version=__version__,
        description=f"Embeddings, predictions and explanations of chest X-rays. {INTENDED_USE}",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service),
    )
    app.state.service = service
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    _add_answers(app, service)
    _add_state(app, service)
    _add_page(app)
    _describe(app)
    _answer_head(app)
    app.add_middleware(Guard, tokens=tokens, hosts=hosts)
    app.middleware("http")(_counting(app, service))  # around the guard: what it refuses is counted and logged too
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    name = Query(None, alias="model", max_length=200, description="which model; the first one if not given")
    common: dict[str, Any] = {
        "responses": problems(*_UPLOAD_FAULTS), "openapi_extra": upload(), "dependencies": [only("model")],
    }  # fmt: skip

    @app.post("/v1/predict", response_model=Predictions, summary="Calibrated probabilities", **common)
    async def predict(request: Request, model: str | None = name) -> Response:
        served = service.model(model)
        if served.model.facts.readout is None:
            raise Problem(
                422, "no-head", "This model predicts nothing.",
                f"{served.name} is an encoder without a trained head. Ask /v1/features, or another model.",
            )  # fmt: skip
        found = await service.answer(request, served, ("probability",))
        return _results(served, found, lambda one: {"outputs": served.outputs(one.answers)})

    @app.post("/v1/features", response_model=Features, summary="Embeddings", **common)
    async def features(request: Request, model: str | None = name) -> Response:
        served = service.model(model)
        found = await service.answer(request, served, ("embedding",))
        return _results(served, found, lambda one: {"features": one.answers.embedding.tolist()})  # type: ignore[union-attr]

    @app.post("/v1/explain", response_model=Explanations, summary="Predictions, attention, neighbours", **common)
    async def explain(request: Request, model: str | None = name) -> Response:
        served = service.model(model)
        found = await service.answer(request, served, ("probability", "attention", "embedding"))
        return _results(served, found, lambda one: _explained(served, one))

    @app.post(
        "/v1/render", summary="The image as gray of 16 bits", response_class=Response,
        responses={
            200: {
                "description": "uint16 little endian, row by row; 0 = black (air), 65535 = white (bone)",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            },
            **problems(*_UPLOAD_FAULTS),
        },
        openapi_extra=upload(several=False), dependencies=[only()],
    )  # fmt: skip
    async def render(request: Request) -> Response:
        found = await service.render(request, _PICTURE_EDGE)
        assert found.rendered is not None
        height, width = found.rendered.shape
        headers = {
            "X-Image-Height": height, "X-Image-Width": width,
            "X-Source-Height": found.image["height"], "X-Source-Width": found.image["width"],
        }  # fmt: skip
        return Response(
            found.rendered.tobytes(), headers={key: str(value) for key, value in headers.items()},
            media_type="application/octet-stream",
        )  # fmt: skip


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/models", response_model=Models, summary="Model cards", responses=problems(400, 401, 403, 405, 422),
        dependencies=[only()],
    )  # fmt: skip
    async def models() -> Response:
        limits = service.limits
        return JSONResponse(
            {
                "models": [_card(served) for served in service.models.values()],
                "limits": {name: getattr(limits, name) for name in ("max_bytes", "max_pixels", "max_files")},
            }
        )

    @app.get(
        # A path: files of earlier versions may hold names with a slash, which arrives decoded.
        "/v1/models/{name:path}/neighbours/{number}.png", summary="A known image, small", response_class=Response,
        responses={
            200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "PNG"},
            **problems(*_OTHER_FAULTS),
        },
        dependencies=[only()],
    )  # fmt: skip
    async def neighbour(name: str, number: int) -> Response:
        gallery = service.model(name).gallery
        if gallery is None:
            raise Problem(404, "not-found", "There is no such image.", "This model has no gallery of known images.")
        try:
            return Response(gallery.picture(number), media_type="image/png")
        except PacxError as error:
            raise Problem(404, "not-found", "There is no such image.", str(error)) from error

    @app.get("/healthz", response_model=Status, summary="Does it live?", responses=problems(400, 403, 405))
    async def alive() -> Response:
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", response_model=Status, summary="May it be asked?", responses=problems(400, 403, 405, 503))
    async def ready() -> Response:
        if service.draining or not service.ready:
            what = "stopping" if service.draining else "starting"
            raise Problem(503, what, f"The server is {what}.", "Try again in a moment.", retry=2)
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics", summary="Counters for Prometheus", response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "text"},
            **problems(400, 401, 403, 405),
        },
    )  # fmt: skip
    async def metrics() -> Response:
        service.observe()
        return Response(service.metrics.text(), headers={"Content-Type": service.metrics.content_type})


def _add_page(app: FastAPI) -> None:
    """Serve the page from memory; there is no way from a path to a file."""
    folder = files("pacx.serving") / "page"
    pages = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}

    def sent(name: str) -> Response:
        if name not in pages:
            raise Problem(404, "not-found", "There is no such place.", "See /openapi.json for what there is.")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(pages[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return sent("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        return sent(name)


def _results(served: ServedModel, found: Sequence[Answered], of: Callable[[Answered], dict[str, Any]]) -> Response:
    results = [{"image": one.decoded.image, **of(one)} for one in found]
    return JSONResponse({"model": served.name, "results": results})


def _explained(served: ServedModel, one: Answered) -> dict[str, Any]:
    attention = one.answers.attention
    geometry = served.model.facts.preprocess.geometry
    return {
        "outputs": served.outputs(one.answers),
        "attention": None
        if attention is None
        else {"kind": "rollout", "grid": attention.tolist(), "geometry": geometry},
        "neighbours": [
            {
                "id": near.image_id,
                "similarity": round(near.similarity, 6),
                "thumbnail": f"/v1/models/{quote(served.name, safe='')}/neighbours/{near.row}.png",
                "labels": near.labels,
            }
            for near in served.neighbours(one.answers)
        ],
    }


def _card(served: ServedModel) -> dict[str, Any]:
    known = len(served.gallery) if served.gallery else 0
    return {**served.model.facts.card(), "sha256": served.model.digest, "neighbours": known}


def _lifespan(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        await service.start()
        _drain_first(service)
        yield
        await service.stop()

    return lifespan


def _drain_first(service: Service) -> None:
    """Let some time pass between the order to stop and the end of accepting.

    What clients have sent by then is read and answered, and a load balancer that asks /readyz sends no more.
    """
    loop = asyncio.get_running_loop()

    def delay(before: Any) -> Callable[[int, Any], None]:
        def handler(number: int, frame: Any) -> None:
            if service.draining:
                before(number, frame)  # a second order is not delayed
                return
            service.draining = True
            loop.call_soon_threadsafe(loop.call_later, service.limits.drain_seconds, before, number, frame)

        return handler

    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before):
            try:
                signal.signal(number, delay(before))
            except ValueError:
                return  # not the main thread, as in tests: nobody sends signals here


def _counting(app: FastAPI, service: Service) -> Any:
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        path = _place(app, request)
        seconds = time.perf_counter() - start
        service.metrics.requests.labels(path, str(response.status_code)).inc()
        service.metrics.seconds.labels(path).observe(seconds)
        log.info("%s %s %d %.0f ms", request.method, path, response.status_code, 1000 * seconds)
        return response

    return count


def _place(app: FastAPI, request: Request) -> str:
    """Return the pattern of the place, so that nobody can make counters without end, or put words into the log."""
    route = request.scope.get("route")
    if route is None:  # refused before it was looked for
        matching = (one for one in app.routes if one.matches(request.scope)[0] is not Match.NONE)
        route = next(matching, None)
    return getattr(route, "path_format", "other")


def _describe(app: FastAPI) -> None:
    """Make the OpenAPI description, with the problem's schema in the place of the framework's own."""
    content = app.openapi()
    schemas = content["components"]["schemas"]
    schemas["ProblemAnswer"] = ProblemAnswer.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    app.openapi = lambda: content  # type: ignore[method-assign]


def _answer_head(app: FastAPI) -> None:
    """Answer HEAD as GET, for `curl -I` and load balancers; whoever sends the answer leaves the body out.

    After the description is made, which would otherwise have every GET twice, under one name.
    """
    for route in app.routes:
        if isinstance(route, Route) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")


async def _on_invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    places = sorted({" ".join(str(part) for part in one["loc"]) for one in error.errors()})
    return Problem(
        422, "invalid", "A parameter is not valid.", f"Not valid: {', '.join(places)}. See /openapi.json."
    ).response()


async def _on_gone(request: Request, error: Exception) -> Response:
    del request, error
    return Problem(400, "gone", "The client has gone away.", "The body broke off.").response()
