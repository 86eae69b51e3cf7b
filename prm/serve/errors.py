"""What a server refuses, and the HTTP status that says so."""

from __future__ import annotations

from typing import ClassVar

from prm.errors import PrmError


class ServeError(PrmError):
    """A request that is not answered; `status` is its HTTP status.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds after which the client may try again; `None` if that would not help.
    """

    status: ClassVar[int] = 400
    retry_after: int | None = None


class UnauthorizedError(ServeError):
    """The bearer token is missing or wrong."""

    status = 401


class UnknownModelError(ServeError):
    """No model of this name is served."""

    status = 404


class SlowBodyError(ServeError):
    """The client took too long to send the body."""

    status = 408


class TooLargeError(ServeError):
    """The request is over a limit of the server."""

    status = 413


class BusyError(ServeError):
    """As many requests wait as the server lets wait."""

    status = 429

    def __init__(self, problem: str, *, retry_after: int = 1, got: object = None) -> None:
        super().__init__(problem, got=got, fix=f"Try again in {retry_after} s")
        self.retry_after = retry_after


class UnavailableError(ServeError):
    """The server stops, or was too slow to answer in time."""

    status = 503
    retry_after = 5
