"""The clients of the soak: good ones, and those that a server on a network meets.

They speak HTTP over plain streams, because they also break its rules, and because on a small
machine a client library would take the processor from the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 1e-5
PATIENCE = 120.0
"""Seconds after which a reply counts as lost."""


@dataclass
class Question:
    """A request, and what the offline scorer says.

    Args:
        body: The JSON of the request.
        expected: Reward of each record.
        num_tokens: Tokens of the records, a prompt counted once per record.
    """

    body: bytes
    expected: list[float | None]
    num_tokens: int


@dataclass
class Tally:
    """What happened to the requests of one phase.

    Args:
        outcomes: Kind of client and what came of its request, with the number of times.
        seconds: Latencies of good replies.
        num_tokens: Tokens of the records of good replies.
        largest_error: Largest difference of a reward to the offline one.
        problems: What must not happen, at most a few.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    num_tokens: int = 0
    largest_error: float = 0.0
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Note what must not happen."""
        self.outcomes["PROBLEM"] += 1
        if len(self.problems) < 20:
            self.problems.append(text)


class Load:
    """Clients that ask until a time.

    Args:
        port: Port of the server on this machine.
        questions: What the good ones ask, in turn, so that no two are asked at the same time.
    """

    def __init__(self, port: int, questions: Sequence[Question]) -> None:
        self.port = port
        self.tally = Tally()
        self.until = 0.0
        self.is_ending = False
        self._questions = itertools.cycle(questions)

    async def run(self, seconds: float, clients: dict[str, int]) -> Tally:
        """Run so many clients of each kind for some seconds, and return what came of it."""
        self.tally, self.until = Tally(), time.monotonic() + seconds
        kinds = [kind for kind, count in clients.items() for _ in range(count)]
        await asyncio.gather(*(self._client(kind, seed) for seed, kind in enumerate(kinds)))
        return self.tally

    async def _client(self, kind: str, seed: int) -> None:
        act, rng = getattr(self, f"_{kind}"), random.Random(seed)
        wire = Wire(self.port)
        while time.monotonic() < self.until and not self.is_ending:
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await act(wire, rng)
            except TimeoutError:
                self.tally.problem(f"{kind}: no reply in {PATIENCE:g} s")
                break
            except (OSError, asyncio.IncompleteReadError):
                outcome = "connection closed"
                if kind == "good" and not self.is_ending:
                    self.tally.problem("good: the connection was closed without a reply")
                wire.close()
            self.tally.outcomes[f"{kind}: {outcome}"] += 1
        wire.close()

    async def _good(self, wire: Wire, rng: random.Random) -> str:
        """Ask and compare; a refusal with Retry-After is repeated later."""
        question = next(self._questions)
        started = time.monotonic()
        status, body = await wire.ask(question.body)
        if status == 200:
            self.tally.seconds.append(time.monotonic() - started)
            self.tally.num_tokens += question.num_tokens
            self._compare(question, body)
        elif status in (429, 503):
            await asyncio.sleep(rng.random())
        else:
            self.tally.problem(f"good: status {status}: {body[:200]!r}")
        return str(status)

    def _compare(self, question: Question, body: bytes) -> None:
        found = [row["reward"] for row in json.loads(body)["results"]]
        if len(found) != len(question.expected):
            self.tally.problem(f"good: {len(found)} rows for {len(question.expected)} records")
            return
        for one, other in zip(found, question.expected, strict=True):
            if one is None or other is None:
                error = 0.0 if one is other else float("inf")
            else:
                error = abs(one - other)
            self.tally.largest_error = max(self.tally.largest_error, error)
            if error > TOLERANCE:
                self.tally.problem(f"good: a reward of {one} instead of {other}")

    async def _malformed(self, wire: Wire, rng: random.Random) -> str:
        """Send what is no request, or no right one."""
        await asyncio.sleep(rng.random() * 0.2)
        status, _ = await wire.ask(rng.choice(MALFORMED))
        wire.close()
        return self._refused("malformed", status, (400, 404, 413, 422, 429, 503))

    async def _broken(self, wire: Wire, rng: random.Random) -> str:
        """Send bytes that are not even HTTP, or more of a head than the server takes."""
        await asyncio.sleep(rng.random() * 0.2)
        status, _ = await wire.talk(rng.choice(BROKEN))
        wire.close()
        return self._refused("broken", status, (400,))

    async def _huge(self, wire: Wire, rng: random.Random) -> str:
        """Announce or send far more than the server takes."""
        await asyncio.sleep(rng.random())
        endless = rng.random() < 0.5
        length = "Transfer-Encoding: chunked" if endless else "Content-Length: 10000000000"
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n" if endless else b" " * 65536
        status, _ = await wire.talk(head(length), chunk, repeat=4096)
        wire.close()
        return self._refused("huge", status, (408, 413, 429, 503))

    async def _slow_reader(self, wire: Wire, rng: random.Random) -> str:
        """Ask for much, though computed once, and read almost nothing of it."""
        record = json.loads(next(self._questions).body)["records"][0]
        await wire.send(whole(_json({"records": [record] * 1000})) * 4)
        for _ in range(rng.randrange(5, 40)):
            if time.monotonic() > self.until:
                break
            await asyncio.sleep(0.25)
            await wire.read_some(1)
        wire.close()
        return "left"

    async def _slow_writer(self, wire: Wire, rng: random.Random) -> str:
        """Send a request byte by byte."""
        await wire.send(head("Content-Length: 1000"))
        for _ in range(rng.randrange(5, 60)):
            if time.monotonic() > self.until:
                break
            await wire.send(b" ")
            await asyncio.sleep(0.25)
        wire.close()
        return "left"

    async def _killed(self, wire: Wire, rng: random.Random) -> str:
        """Ask, and be gone before the reply."""
        await wire.send(whole(next(self._questions).body))
        await asyncio.sleep(rng.random())
        wire.close()
        return "left"

    def _refused(self, kind: str, status: int, allowed: tuple[int, ...]) -> str:
        if status not in allowed:
            self.tally.problem(f"{kind}: status {status}")
        return str(status)


class Wire:
    """One connection, opened when it is needed.

    Args:
        port: Port of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Post a body and return status and body of the reply."""
        await self.send(whole(body))
        return await self._reply()

    async def talk(self, first: bytes, more: bytes = b"", repeat: int = 0) -> tuple[int, bytes]:
        """Send bytes, and more of them until a reply comes."""
        await self.send(first)
        reply = asyncio.ensure_future(self._reply())
        with suppress(OSError):
            for _ in range(repeat):
                if reply.done():
                    break
                await self.send(more)
                await asyncio.sleep(0)
        return await reply

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        _, writer = await self._open()
        writer.write(data)
        await writer.drain()

    async def read_some(self, size: int) -> bytes:
        """Read at most so many bytes."""
        reader, _ = await self._open()
        return await reader.read(size)

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        return self._streams

    async def _reply(self) -> tuple[int, bytes]:
        reader, _ = await self._open()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        else:
            body = await reader.read()
        if fields.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), body


def head(length: str) -> bytes:
    """Return the head of a request to score."""
    lines = (
        "POST /v1/score HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        length,
    )
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes) -> bytes:
    """Return a request to score."""
    return head(f"Content-Length: {len(body)}") + body


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_CHAIN = {"prompt": "1 + 1 = ?", "completions": ["1 + 1 = 2"]}
MALFORMED = (
    b"",
    b"{",
    b"[" * 50_000,
    b"\xff\xfe" * 100,
    b'{"records": [{"prompt": "\\ud800", "completions": ["a"]}]}',
    b'{"records": [{"prompt": 1e999, "completions": []}]}',
    _json({"records": [{**_CHAIN, "completions": []}]}),
    _json({"records": [_CHAIN] * 2000}),
    _json({"records": [_CHAIN], "model": "another"}),
    _json({"records": [_CHAIN], "step_aggregation": {"name": "softmin", "beta": -1}}),
    _json({"records": [{"prompt": "a", "answer": "b"}]}),
)
"""Bodies that are refused."""

BROKEN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    b"POST /v1/score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
)
"""Bytes that are no HTTP."""
