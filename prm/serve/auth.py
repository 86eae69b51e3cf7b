"""Bearer tokens, compared in constant time."""

from __future__ import annotations

import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from prm.errors import ConfigError
from prm.serve.errors import UnauthorizedError
from prm.serve.replies import error_reply

PUBLIC = ("/", "/health", "/ready")
"""Paths that nobody needs a token for, besides the files of the page."""

STATIC = "/static/"


class BearerAuth:
    """Refuses requests without the token.

    Args:
        app: What is protected.
        token: The token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._expected = token.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as ASGI says."""
        if scope["type"] != "http" or is_public(scope["path"]) or self._is_right(scope):
            return await self.app(scope, receive, send)
        error = UnauthorizedError(
            "the bearer token is missing or wrong", fix="Send `Authorization: Bearer TOKEN`"
        )
        return await error_reply(error)(scope, receive, send)

    def _is_right(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1", errors="replace")
        return hmac.compare_digest(given, self._expected) and scheme.lower() == "bearer"


def is_public(path: str) -> bool:
    """Whether a path needs no token.

    Example:
        >>> is_public("/health"), is_public("/static/page.js"), is_public("/v1/score")
        (True, True, False)
    """
    return path in PUBLIC or path.startswith(STATIC)


def check_exposure(host: str, token: str, *, allow_open: bool) -> None:
    """Refuse to listen to other machines without a token.

    Raises:
        ConfigError: The host is not this machine alone, and there is neither a token nor the
            explicit wish to do without.

    Example:
        >>> check_exposure("127.0.0.1", "", allow_open=False)
        >>> check_exposure("0.0.0.0", "", allow_open=False)
        Traceback (most recent call last):
        prm.errors.ConfigError: other machines could use the server without a token: got 0.0.0.0...
    """
    if token or allow_open or is_loopback(host):
        return
    raise ConfigError(
        "other machines could use the server without a token",
        got=host,
        fix="Set PRM_SERVE_TOKEN or --token_file, or listen on 127.0.0.1; --allow_open insists",
    )


def is_loopback(host: str) -> bool:
    """Whether a host name stands for this machine alone.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "box")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
