"""Limits over real connections: sizes, slow and vanishing clients, and the end of the server."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from prm.errors import ConfigError
from prm.serve import limits, run
from prm.serve.auth import check_exposure
from prm.serve.options import ServeOptions
from prm.serve.run import Server, open_socket
from tests.unit.serve.conftest import HeldScorer, Serve

CHAIN = {"prompt": "1 + 1 = ?", "completions": ["1 + 1 = 2"]}
BODY = json.dumps({"records": [CHAIN]}).encode()


@dataclass
class Running:
    """A server that listens on a loopback port."""

    app: FastAPI
    server: Server
    port: int
    thread: threading.Thread

    def post(self, body: Any = None, **options: Any) -> httpx.Response:
        content = BODY if body is None else body
        headers = {"Content-Type": "application/json"}
        address = f"http://127.0.0.1:{self.port}/v1/score"
        return httpx.post(address, content=content, headers=headers, timeout=20, **options)

    def connect(self, *parts: bytes) -> socket.socket:
        found = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for part in parts:
            found.sendall(part)
        return found

    @property
    def num_waiting(self) -> int:
        return int(self.app.state.pool.get().batcher.num_waiting)


@contextmanager
def listening(app: FastAPI) -> Iterator[Running]:
    options: ServeOptions = app.state.pool.options
    listener = open_socket("127.0.0.1", 0, options)
    server = Server(app, options)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    until(lambda: server.started)
    running = Running(app, server, listener.getsockname()[1], thread)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def head(length: int | None, path: str = "/v1/score") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = (f"POST {path} HTTP/1.1", "Host: prm", "Content-Type: application/json", size)
    return "\r\n".join([*lines, "", ""]).encode()


def everything(connection: socket.socket) -> bytes:
    parts = []
    with closing(connection), suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_bodies_over_the_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(serve(max_body_bytes=1000)) as running:
        assert running.post().status_code == 200
        little_more = running.post(b" " * 900 + BODY + b" " * 100)
        assert little_more.status_code == 413
        assert little_more.json()["error"]["expected"] == "at most 1,000 bytes"
        announced = everything(running.connect(head(10**9)))
        assert b" 413 " in announced
        assert b"connection: close" in announced.lower()
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        monkeypatch.setattr(limits, "MAX_DISCARDED", 100_000)
        endless = running.connect(head(None) + chunk * 2)
        assert b" 413 " in everything(endless)
        assert running.app.state.load.num_bytes == 0


def test_chunked_bodies_within_the_limit(serve: Serve) -> None:
    with listening(serve(max_body_bytes=1000)) as running:
        parts = (BODY[start : start + 7] for start in range(0, len(BODY), 7))
        assert running.post(parts).status_code == 200


def test_slow_bodies(serve: Serve) -> None:
    with listening(serve(body_timeout=0.1)) as running:
        answer = everything(running.connect(head(100), b'{"records"'))
        assert b" 408 " in answer
        assert running.app.state.load.num_requests == 0


def test_slow_heads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(serve()) as running:
        with monkeypatch.context() as patched:
            patched.setattr(run, "HEAD_SECONDS", 0.2)
            assert everything(running.connect()) == b""
            assert everything(running.connect(b"POST /v1/score HTTP/1.1\r\nHost:")) == b""
        with closing(running.connect(head(len(BODY)) + BODY)) as connection:
            assert b" 200 " in connection.recv(65536)
            monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
            connection.sendall(b"POST /v1")
            assert b" 200 " not in everything(connection)


def test_readers_that_do_not_read(serve: Serve) -> None:
    app = serve(write_timeout=0.2)
    with listening(app) as running:
        body = json.dumps({"records": [CHAIN] * 1000}).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with closing(connection):
            connection.connect(("127.0.0.1", running.port))
            for _ in range(12):
                connection.sendall(head(len(body)) + body)
            until(lambda: running.app.state.load.num_requests > 0)
            until(lambda: running.app.state.load.num_requests == 0)
            until(lambda: not running.server.server_state.connections)
            assert running.post().status_code == 200


def test_clients_that_leave_are_forgotten(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held)) as running:
        first = threading.Thread(target=running.post)
        first.start()
        assert held.runs.wait(20)
        connection = running.connect(head(len(BODY)) + BODY)
        until(lambda: running.num_waiting == 2)
        connection.close()
        until(lambda: running.num_waiting == 1)
        held.may_run.set()
        first.join()
        assert len(held.passes) == 1


def test_too_many_requests(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held, max_waiting=2)) as running:
        waiting = [threading.Thread(target=running.post) for _ in range(2)]
        for thread in waiting:
            thread.start()
        until(lambda: running.num_waiting == 2)
        refused = running.post()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        address = f"http://127.0.0.1:{running.port}"
        assert httpx.get(f"{address}/health").status_code == 200
        held.may_run.set()
        for thread in waiting:
            thread.join()
        assert running.post().status_code == 200


def test_too_many_bytes(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held, max_waiting_bytes=len(BODY) + 10)) as running:
        waiting = threading.Thread(target=running.post)
        waiting.start()
        assert held.runs.wait(20)
        assert running.post().status_code == 429
        held.may_run.set()
        waiting.join()


def test_requests_that_wait_too_long(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held, timeout=0.1)) as running:
        late = running.post()
        assert late.status_code == 503
        assert "retry-after" in late.headers
        held.may_run.set()


def test_streams_come_line_by_line(serve: Serve, held: HeldScorer) -> None:
    held.max_tokens = 20
    body = {"records": [CHAIN, {**CHAIN, "prompt": "2 + 2 = ?"}], "stream": True}
    with listening(serve(held)) as running:
        threading.Timer(0.05, held.may_run.set).start()
        address = f"http://127.0.0.1:{running.port}/v1/score"
        with httpx.stream("POST", address, json=body, timeout=20) as reply:
            rows = [json.loads(line) for line in reply.iter_lines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert len(held.passes) == 2


def test_the_end_waits_for_what_was_accepted(serve: Serve, held: HeldScorer) -> None:
    found: list[int] = []
    with listening(serve(held)) as running:
        waiting = [
            threading.Thread(target=lambda: found.append(running.post().status_code))
            for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
        until(lambda: running.num_waiting == 4)
        running.server.handle_exit(signal.SIGTERM, None)
        refused = running.post()
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == "the server stops and takes no more work"
        held.may_run.set()
        for thread in waiting:
            thread.join()
        running.thread.join(20)
    assert found == [200] * 4


def test_the_end_does_not_wait_for_ever(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held, drain_timeout=0.1, write_timeout=0.5)) as running:
        connection = running.connect(head(len(BODY)) + BODY)
        assert held.runs.wait(20)
        running.server.handle_exit(signal.SIGTERM, None)
        until(lambda: running.server.should_exit)
        held.may_run.set()
        connection.close()


def test_a_second_signal_ends_at_once(serve: Serve, held: HeldScorer) -> None:
    with listening(serve(held)) as running:
        connection = running.connect(head(len(BODY)) + BODY)
        assert held.runs.wait(20)
        running.server.handle_exit(signal.SIGTERM, None)
        assert not running.server.should_exit
        running.server.handle_exit(signal.SIGTERM, None)
        assert running.server.force_exit
        held.may_run.set()
        connection.close()


def test_addresses_that_cannot_be_used() -> None:
    with closing(open_socket("127.0.0.1", 0, ServeOptions())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be used"):
            open_socket("127.0.0.1", port, ServeOptions())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="without a token"):
        check_exposure(host, "", allow_open=False)
    check_exposure(host, "secret", allow_open=False)
    check_exposure(host, "", allow_open=True)


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"max_records": -1}, {"reward_range": (1.0, 1.0)}]
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))} is wrong"):
        ServeOptions(**wrong)
