"""JSON answers: numbers that JSON cannot hold become null, errors have one form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from prm.errors import PrmError
from prm.serve.errors import ServeError
from prm.serve.schemas import ErrorReply

UNPROCESSABLE = 422
SHOWN = 200
"""Characters of a value that an error repeats."""


class JSONReply(JSONResponse):
    """An answer of JSON values."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    r"""Return JSON, with null in the place of numbers that are not finite.

    Example:
        >>> to_json({"reward": float("nan"), "text": "π"})
        b'{"reward":null,"text":"\xcf\x80"}'
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return to_json(_finite(content))
    return text.encode("utf-8", errors="replace")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def status_of(error: PrmError) -> int:
    """Return the HTTP status of an error: 422 for what a client can get wrong in a body.

    Example:
        >>> status_of(PrmError("a row is wrong"))
        422
    """
    return error.status if isinstance(error, ServeError) else UNPROCESSABLE


def error_body(error: PrmError, name: str | None = None) -> dict[str, Any]:
    """Return the JSON form of an error; its type is the name of its class if none is given."""
    got = None if error.got is None else str(error.got)[:SHOWN]
    return {
        "error": {
            "type": name or type(error).__name__,
            "message": error.problem,
            "expected": error.expected,
            "got": got,
            "where": error.where,
            "fix": error.fix,
        }
    }


def error_reply(error: PrmError) -> JSONReply:
    """Return the answer that says what was wrong."""
    headers = {}
    if isinstance(error, ServeError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONReply(error_body(error), status_code=status_of(error), headers=headers)


_MEANINGS = {
    400: "The body cannot be parsed.",
    401: "The bearer token is missing or wrong.",
    404: "No model of this name is served.",
    408: "The body took too long to come.",
    413: "The body, or what it asks for, is over a limit.",
    422: "The body is not what the route takes.",
    429: "Too many requests wait; Retry-After says when to come again.",
    503: "The server stops, or was too slow; Retry-After says when to come again.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of error answers; all that a body can meet if none is named."""
    return {
        status: {"model": ErrorReply, "description": _MEANINGS[status]}
        for status in statuses or _MEANINGS
    }
