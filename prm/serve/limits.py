"""What a request may cost before it is accepted, and how long its client may take.

A body is read here, under limits of size and time, before any route sees it. From then on the
request is accepted: it is answered even if the server is told to stop. If the client goes away its
work is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prm.serve.errors import (
    BusyError,
    ServeError,
    SlowBodyError,
    TooLargeError,
    UnavailableError,
)
from prm.serve.options import ServeOptions
from prm.serve.replies import error_reply

PROBES = ("GET", "HEAD", "OPTIONS")
"""Methods without a body and without work for the model: they are always answered."""


MAX_DISCARDED = 1 << 20
"""Bytes over the limit that are read and thrown away, so that the client reads the refusal."""


class ClientGoneError(Exception):
    """The client has closed the connection, or does not read what it asked for."""


@dataclass(slots=True)
class Load:
    """What the server holds at the moment.

    Args:
        is_draining: Whether new work is refused, because the server stops.
        num_requests: Requests that are being read or answered.
        num_bytes: Bytes of their bodies.
        idle: Set while there is no such request.
    """

    is_draining: bool = False
    num_requests: int = 0
    num_bytes: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def enter(self) -> None:
        """Count a request."""
        self.num_requests += 1
        self.idle.clear()

    def leave(self, num_bytes: int) -> None:
        """Count it no longer."""
        self.num_requests -= 1
        self.num_bytes -= num_bytes
        if not self.num_requests:
            self.idle.set()


class RequestLimits:
    """Reads bodies under limits, refuses what is too much, and gives up what nobody waits for.

    Args:
        app: What answers.
        options: The limits.
        load: What is held; shared with what stops the server.
        retry_after: Says how many seconds a refused client should wait.
    """

    def __init__(
        self, app: ASGIApp, options: ServeOptions, load: Load, retry_after: Callable[[], int]
    ) -> None:
        self.app = app
        self.options = options
        self.load = load
        self.retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as ASGI says."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        out = _Out(send, self.options.write_timeout, self.load)
        with suppress(ClientGoneError):
            if scope["method"] in PROBES:
                await self.app(scope, receive, out.send)
            else:
                await self._serve(scope, receive, out)
        return None

    async def _serve(self, scope: Scope, receive: Receive, out: _Out) -> None:
        body = _Body(self.load)
        try:
            async with self._accepted(scope, receive, body):
                await self._answer(scope, receive, out, bytes(body.data))
        except ServeError as error:
            reply = error_reply(error)
            if not body.is_complete:  # what still comes is not read, so it cannot be kept alive
                reply.headers["Connection"] = "close"
            await reply(scope, receive, out.send)

    @asynccontextmanager
    async def _accepted(self, scope: Scope, receive: Receive, body: _Body) -> AsyncIterator[None]:
        self._admit(int(Headers(scope=scope).get("content-length") or 0))
        self.load.enter()
        try:
            await self._read(receive, body)
            yield
        finally:
            self.load.leave(len(body.data))

    def _admit(self, announced: int) -> None:
        if self.load.is_draining:
            raise UnavailableError("the server stops and takes no more work")
        if announced > self._most:
            raise self._too_large(announced)
        full = self.load.num_requests >= self.options.max_waiting
        if full or self.load.num_bytes + announced > self.options.max_waiting_bytes:
            raise BusyError("too much work waits", retry_after=self.retry_after())

    async def _read(self, receive: Receive, body: _Body) -> None:
        """Read the body; one that is a little too large is read to its end, so that the client can.

        Clients read an answer reliably only after they have sent all of their request.
        """
        limit = self.options.max_body_bytes
        try:
            async with asyncio.timeout(self.options.body_timeout):
                while not body.is_complete and body.num_bytes <= self._most:
                    body.take(await receive(), limit)
        except TimeoutError:
            expected = f"all of it in {self.options.body_timeout:g} s"
            raise SlowBodyError("the body came too slowly", expected=expected) from None
        if body.num_bytes > limit:
            raise self._too_large(body.num_bytes)

    @property
    def _most(self) -> int:
        """Bytes of a body that are read at all."""
        return self.options.max_body_bytes + MAX_DISCARDED

    def _too_large(self, size: int) -> TooLargeError:
        limit = f"at most {self.options.max_body_bytes:,} bytes"
        return TooLargeError("the body is too large", expected=limit, got=size)

    async def _answer(self, scope: Scope, receive: Receive, out: _Out, body: bytes) -> None:
        """Run the application until it has answered or the client is gone."""
        gone = asyncio.Event()
        answer = asyncio.ensure_future(self.app(scope, _replay(body, gone), out.send))
        watch = asyncio.create_task(_watch(receive, gone))
        try:
            await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
            if out.is_complete:
                await asyncio.wait((answer,))
        finally:
            watch.cancel()
            answer.cancel()
        await _ended(answer)


class _Out:
    """The way to a client, which must take each part of the answer in time."""

    def __init__(self, send: Send, timeout: float, load: Load) -> None:
        self._send = send
        self._timeout = timeout
        self._load = load
        self.is_complete = False

    async def send(self, message: Message) -> None:
        """Send a part of the answer; while the server stops, the last one on its connection."""
        if message["type"] == "http.response.start" and self._load.is_draining:
            MutableHeaders(scope=message)["Connection"] = "close"
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        self.is_complete = self.is_complete or is_last


class _Body:
    """A body that is being read, counted in the server's load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.data = bytearray()
        self.num_bytes = 0
        self.is_complete = False

    def take(self, message: Message, limit: int) -> None:
        """Keep a part, unless the body is too large already."""
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        self.num_bytes += len(part)
        self.is_complete = not message.get("more_body", False)
        kept = len(self.data)
        if self.num_bytes <= limit:
            self.data += part
        else:
            self.data.clear()
        self.load.num_bytes += len(self.data) - kept


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    parts = [body]

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _ended(answer: asyncio.Future[None]) -> None:
    """Wait for an answer that may have been cancelled, and raise what it raised."""
    try:
        await answer
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise ClientGoneError from None
