"""The application: routes, limits, and one form of errors for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

import prm
from prm.errors import PrmError
from prm.serve import native, page
from prm.serve.auth import BearerAuth
from prm.serve.dialects import ROUTERS
from prm.serve.errors import UnavailableError
from prm.serve.limits import Load, RequestLimits
from prm.serve.logs import RequestLog
from prm.serve.options import ServeOptions
from prm.serve.pool import ModelPool
from prm.serve.replies import JSONReply, error_body, error_reply, errors
from prm.serve.schemas import Status


def create_app(pool: ModelPool, options: ServeOptions | None = None) -> FastAPI:
    """Return the application that serves a pool of models.

    Args:
        pool: The models; they are closed when the application stops.
        options: Limits of requests; by default those of the pool.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(
        title="prm serve",
        version=prm.__version__,
        description="Scores of process and outcome reward models.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.pool = pool
    app.state.load = Load()
    _add_layers(app, options or pool.options)
    _add_errors(app)
    _add_health(app)
    for router in (native.router, *ROUTERS, page.router):
        app.include_router(router)
    return app


def _add_layers(app: FastAPI, options: ServeOptions) -> None:
    """Put the layers around the routes; the one added last is the outermost."""
    pool: ModelPool = app.state.pool
    app.add_middleware(
        RequestLimits,
        options=options,
        load=app.state.load,
        retry_after=lambda: pool.get().batcher.retry_after,
    )
    if options.token:
        app.add_middleware(BearerAuth, token=options.token)
    app.add_middleware(RequestLog, metrics=pool.metrics, log_texts=options.log_texts)
    pool.metrics.body_bytes.set_function(lambda: app.state.load.num_bytes)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(PrmError)
    async def refused(_: Request, error: PrmError) -> Response:
        return error_reply(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        is_json = "json" in request.headers.get("content-type", "")
        fix = None if is_json else "Send JSON with the header Content-Type: application/json"
        problem = PrmError(first["msg"], where=where, got=first["type"], fix=fix)
        return JSONReply(error_body(problem, "ValidationError"), status_code=422)

    @app.exception_handler(HTTPException)
    async def missing(_: Request, error: HTTPException) -> Response:
        body = error_body(PrmError(str(error.detail)), "HTTPError")
        return JSONReply(body, status_code=error.status_code, headers=error.headers)


def _add_health(app: FastAPI) -> None:
    @app.get("/health", response_model=Status, tags=["health"])
    async def health() -> Response:
        """Say that the process lives."""
        return JSONReply({"status": "alive"})

    @app.get("/ready", response_model=Status, responses=errors(503), tags=["health"])
    async def ready(request: Request) -> Response:
        """Say whether the server takes work."""
        if request.app.state.load.is_draining or not request.app.state.pool.is_alive:
            raise UnavailableError("the server takes no more work")
        return JSONReply({"status": "ready"})

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse, responses=errors(401))
    async def metrics(request: Request) -> Response:
        """Return the metrics for Prometheus."""
        text = request.app.state.pool.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4")
