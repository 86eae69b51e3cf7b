"""A server on the loopback that answers as servers of the OpenAI API do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]
"""Status, JSON (or raw text) and headers."""


class StubServer(ThreadingHTTPServer):
    """Answers with what `reply` makes of a request's body, and keeps the requests."""

    daemon_threads = True

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[tuple[str, str | None]] = []
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Has one model, and answers POST with what the server's `reply` says."""

    server: StubServer

    def do_GET(self) -> None:
        self._send((200, {"object": "list", "data": [{"id": "policy", "object": "model"}]}, {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.heads.append((self.path, self.headers["authorization"]))
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        reply = self.server.reply(body)
        with self.server.lock:
            self.server.running -= 1
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        status, content, headers = reply
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextmanager
def running(server: StubServer) -> Iterator[StubServer]:
    """Run a server in a thread of its own."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def vllm_completion(body: dict[str, Any], **choice: Any) -> Reply:
    """What vLLM 0.11 answers at /v1/completions."""
    one = {
        "text": " 2 + 3 = 5",
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
        "prompt_logprobs": None,
    }
    choices = [{"index": index, **one, **choice} for index in range(body["n"])]
    usage = {"prompt_tokens": 9, "total_tokens": 9 + 8 * body["n"]}
    usage["completion_tokens"] = 8 * body["n"]
    about = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "policy"}
    return 200, {**about, "choices": choices, "usage": usage}, {}


def chat_completion(body: dict[str, Any], content: Any = "5", **choice: Any) -> Reply:
    """What the OpenAI API itself answers at /v1/chat/completions."""
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    one = {"message": message, "logprobs": None, "finish_reason": "stop", **choice}
    choices = [{"index": index, **one} for index in range(body["n"])]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return 200, {"object": "chat.completion", "choices": choices, "usage": usage}, {}
