"""Running the server: a socket, uvicorn, and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from prm.errors import ConfigError
from prm.serve.app import create_app
from prm.serve.limits import Load
from prm.serve.options import ServeOptions
from prm.serve.pool import ModelPool

logger = logging.getLogger(__name__)

BACKLOG = 512
"""Connections that wait to be taken up."""

HEAD_SECONDS = 20.0
"""How long a client may take to send the head of a request."""

MAX_HEAD_BYTES = 65536
"""Bytes of the head of a request."""

IDLE_SECONDS = 30
"""How long a connection is kept that sends nothing."""


class Protocol(H11Protocol):
    """Closes connections on which a request is begun and its head does not come in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Server(uvicorn.Server):
    """A uvicorn server that stops in two phases.

    The first signal makes the server refuse new work with 503 while accepted requests finish; then
    it closes its socket and ends. A second signal ends it at once.

    Args:
        app: The application.
        options: How long accepted requests may take to finish.
    """

    def __init__(self, app: FastAPI, options: ServeOptions) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, round(options.write_timeout)),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._load: Load = app.state.load
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so in the log."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for one in sockets or ():
            host, port = one.getsockname()[:2]
            logger.info("listening", extra={"data": {"host": host, "port": port}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, or stop at once if that has begun."""
        if self._load.is_draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._load.is_draining = True
        self._loop.call_soon_threadsafe(self._start_draining, signal.Signals(sig).name)

    def _start_draining(self, name: str) -> None:
        data = {"signal": name, "requests": self._load.num_requests}
        logger.info("stopping", extra={"data": data})
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Wait until everything that was accepted is answered, then end."""
        try:
            async with asyncio.timeout(self._options.drain_timeout):
                await self._load.idle.wait()
        except TimeoutError:
            data = {"requests": self._load.num_requests}
            logger.error("given up", extra={"data": data})
        self.should_exit = True


def open_socket(host: str, port: int, options: ServeOptions) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Name or address to listen on.
        port: Port; 0 takes a free one.
        options: How long clients may take to read.

    Raises:
        ConfigError: The address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be used", got=str(error)) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # ends connections whose client stops reading
        milliseconds = round(options.write_timeout * 1000)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return found


def serve(pool: ModelPool, listener: socket.socket) -> None:
    """Serve a pool until the process is told to stop.

    Args:
        pool: The models.
        listener: A listening socket, as `open_socket` gives it.
    """
    Server(create_app(pool), pool.options).run([listener])
