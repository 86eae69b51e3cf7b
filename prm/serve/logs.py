"""Logs as lines of JSON, which never hold texts unless that is asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prm.errors import PrmError
from prm.serve.metrics import ServerMetrics
from prm.serve.replies import JSONReply, error_body

logger = logging.getLogger(__name__)

QUIET = ("/health", "/ready", "/metrics")
"""Paths that are asked for all the time, and logged only when they fail."""


class JSONFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, event, and what `extra["data"]` holds."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "data", {}),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the log of the server and of uvicorn to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    for name in ("prm", "uvicorn"):
        target = logging.getLogger(name)
        target.handlers, target.propagate = [handler], False
        target.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class RequestLog:
    """Logs and counts every request, and answers 500 where a route fails.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        log_texts: Whether bodies and messages of errors, which may hold texts, are logged.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, *, log_texts: bool) -> None:
        self.app = app
        self.metrics = metrics
        self.log_texts = log_texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as ASGI says."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen = _Seen(scope, receive, send, keep_body=self.log_texts)
        with self.metrics.active.track_inprogress():
            try:
                await self.app(scope, seen.receive, seen.send)
            except Exception as error:
                self._log_failure(seen, error)
                if not seen.status:
                    await JSONReply(_FAILURE, status_code=500)(scope, receive, seen.send)
            finally:
                self._log(scope, seen)
        return None

    def _log(self, scope: Scope, seen: _Seen) -> None:
        seconds = time.perf_counter() - seen.started
        path = _route(scope)
        self.metrics.requests.labels(path, str(seen.status or "gone")).inc()
        self.metrics.latency.labels(path).observe(seconds)
        if path in QUIET and seen.status < 400:
            return
        data = {
            "id": seen.id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": path,
            "status": seen.status,
            "seconds": round(seconds, 4),
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
        }
        if self.log_texts:
            data["body"] = seen.body.decode("utf-8", errors="replace")
        logger.info("request", extra={"data": data})

    def _log_failure(self, seen: _Seen, error: Exception) -> None:
        frames = traceback.format_tb(error.__traceback__)
        data = {"id": seen.id, "error": type(error).__name__, "frames": "".join(frames[-6:])}
        if self.log_texts:
            data["message"] = str(error)
        logger.error("failure", extra={"data": data})


_FAILURE = error_body(PrmError("the server failed; its log says more"), "InternalError")


class _Seen:
    """What goes in and out for one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, keep_body: bool) -> None:
        self.started = time.perf_counter()
        self.id = _request_id(scope)
        self.status = 0
        self.bytes_in = self.bytes_out = 0
        self.body = bytearray()
        self._receive, self._send, self._keep_body = receive, send, keep_body

    async def receive(self) -> Message:
        message = await self._receive()
        part = message.get("body", b"")
        self.bytes_in += len(part)
        if self._keep_body:
            self.body += part
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """Return the client's id of a request, if it is a plain word, or a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    if given.isascii() and given.replace("-", "").isalnum() and len(given) <= 64:
        return given
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """Return the path of the route that answered, so that labels are few; `other` for none."""
    route = scope.get("route")
    return getattr(route, "path", "other")
