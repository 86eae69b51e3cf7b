"""Requests, retries and what a client makes of wrong answers, against a server that we script."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from prm import connection
from prm.connection import Connection, TooLargeError
from prm.errors import ConfigError, DataError, PrmError, RemoteError
from prm.records import Rating
from prm.scoring.client import RemoteScorer
from prm.spec import ResponseHead, RewardSpec
from tests.interop.serving import listening

Answer = tuple[int, Any, dict[str, str]]

SPEC = RewardSpec(response_heads=(ResponseHead("helpfulness"),))

RATINGS = [Rating("2 + 2 = ?", text, id=text) for text in ("3", "4", "5", "6")]


class Scripted:
    """An ASGI application that remembers requests and answers as a function says."""

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self.answer = answer
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        text = b""
        while True:
            message = await receive()
            text += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
        self.bodies.append(json.loads(text) if text else None)
        status, found, headers = self.answer(scope["path"], self.bodies[-1])
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[str, Scripted]]:
    """Serve answers in order, the last one for ever."""
    left = list(answers)
    app = Scripted(lambda *_: left.pop(0) if len(left) > 1 else left[0])
    with listening(app) as url:
        yield url, app


def row(record: dict[str, Any], reward: Any = 1.5, **changes: Any) -> dict[str, Any]:
    """Return a right answer for a record."""
    return {
        "id": record["id"],
        "group": "",
        "response": 0,
        "scores": {"helpfulness": reward},
        "spreads": None,
        "gates": None,
        "utilities": {"helpfulness": reward},
        "reward": reward,
        "aggregation": "weighted_sum",
        "num_truncated": 0,
        "reason": "",
        **changes,
    }


@contextmanager
def scoring(
    results: Callable[[list[dict[str, Any]]], Any], **options: Any
) -> Iterator[tuple[RemoteScorer, Scripted]]:
    """Give a client of a server that answers `/v1/score` with `results` of the records."""

    def answer(path: str, body: Any) -> Answer:
        if path == "/v1/score":
            found = results(body["records"])
            return found if isinstance(found, tuple) else (200, {"results": found}, {})
        return 200, SPEC.to_dict() if path.endswith("/spec") else {"models": [{"name": "m"}]}, {}

    app = Scripted(answer)
    with listening(app) as url:
        yield RemoteScorer(url, **{"retries": 0} | options), app


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Do not wait between tries; gives how long that would have been."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(connection, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return found


def test_a_request_that_may_succeed_later_is_tried_again(waits: list[float]) -> None:
    date = formatdate(usegmt=True)
    with scripted(
        (503, {}, {}),
        (429, {}, {"Retry-After": "7"}),
        (502, b"<html>", {"Retry-After": date}),
        (200, {"ok": 1}, {}),
    ) as (url, app):
        line = Connection(url, retries=3)
        assert line.run(line.request("POST", "/x", {"a": "π"})) == {"ok": 1}
    assert app.bodies == [{"a": "π"}] * 4
    assert 0.4 <= waits[0] <= 0.6
    assert waits[1] == 7
    assert waits[2] <= 1


@pytest.mark.parametrize("asked", ["3600", "soon"])
def test_tries_are_limited_and_so_is_waiting(asked: str) -> None:
    with scripted((429, {}, {"Retry-After": asked})) as (url, app):
        line = Connection(url, retries=2, timeout=5)
        with pytest.raises(RemoteError, match="429 Too Many Requests"):
            line.run(line.request("GET", "/x"))
    assert len(app.bodies) == (1 if asked == "3600" else 3)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((401, {}, {}), ConfigError, "token"),
        ((404, {"detail": "Not Found"}, {}), ConfigError, "Not Found"),
        ((422, {"detail": "no"}, {}), DataError, "no"),
        ((413, {}, {}), TooLargeError, "too large"),
        ((200, b"<html>", {}), RemoteError, "not JSON"),
        (
            (422, {"error": {"type": "ConfigError", "message": "bad", "fix": "Do so"}}, {}),
            ConfigError,
            "bad. Do so",
        ),
        ((422, {"error": {"type": "SystemExit", "message": "x"}}, {}), DataError, "x"),
    ],
)
def test_refusals_are_errors_at_once(answer: Answer, error: type[PrmError], says: str) -> None:
    with scripted(answer) as (url, app):
        line = Connection(url)
        with pytest.raises(error, match=says):
            line.run(line.request("GET", "/x"))
    assert len(app.bodies) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    line = Connection("http://127.0.0.1:9", retries=1)
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9: the server does not answer"):
        line.run(line.request("GET", "/x"))
    assert isinstance(RemoteError("x"), ConnectionError)


def test_the_token_is_sent_and_not_shown() -> None:
    with scripted((200, {}, {})) as (url, app):
        line = pickle.loads(pickle.dumps(Connection(url, token="secret")))
        line.run(line.request("GET", "/x"))
    assert app.headers[0]["authorization"] == "Bearer secret"
    assert "secret" not in repr(line)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Connection("http://localhost", **options)
    with pytest.raises(ConfigError, match="address"):
        Connection("localhost:8000")


def _ask(line: Connection, results: Any) -> None:
    results.put(line.run(line.request("GET", "/x")))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_works_in_child_processes(start: str) -> None:
    with scripted((200, {"ok": 1}, {})) as (url, _):
        line = Connection(url)
        line.run(line.request("GET", "/x"))
        context = multiprocessing.get_context(start)
        results = context.SimpleQueue()
        child = context.Process(target=_ask, args=(line, results))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert results.get() == {"ok": 1}


@pytest.mark.parametrize(
    ("results", "says"),
    [
        (lambda sent: [row(one) for one in sent[1:]], "4 results"),
        (lambda sent: {}, "4 results"),
        (lambda sent: [row(one) for one in reversed(sent)], "the score of record '3'"),
        (lambda sent: [row(one, float("nan")) for one in sent], "finite numbers"),
        (lambda sent: [row(one, "1.5") for one in sent], "finite numbers"),
        (lambda sent: [row(one, None) for one in sent], "a reason"),
        (lambda sent: [{"id": one["id"]} for one in sent], "a score"),
        (lambda sent: [None for _ in sent], "a score"),
        (lambda sent: (200, {"scores": [0, 0, 0, 0]}, {}), "field results"),
    ],
)
def test_an_answer_that_cannot_be_right_is_no_score(
    results: Callable[[Any], Any], says: str
) -> None:
    with scoring(results) as (scorer, _), pytest.raises(RemoteError, match=says):
        scorer.score(RATINGS)
    with scoring(results, on_error="none") as (scorer, _):
        assert scorer.score(RATINGS) == [None] * 4


def test_only_the_record_at_fault_gets_none(caplog: pytest.LogCaptureFixture) -> None:
    def refuse_five(sent: list[dict[str, Any]]) -> Any:
        bad = any(one["response"] == "5" for one in sent)
        return (422, {"detail": "5"}, {}) if bad else [row(one) for one in sent]

    with scoring(refuse_five, on_error="none") as (scorer, _):
        found = scorer.score(RATINGS)
    assert [one and one.reward for one in found] == [1.5, 1.5, None, 1.5]
    assert "1 records get no score" in caplog.text
    with scoring(refuse_five) as (scorer, _), pytest.raises(DataError):
        scorer.score(RATINGS)


def test_what_is_too_large_is_sent_in_parts() -> None:
    with scoring(lambda sent: (413, {}, {}) if len(sent) > 1 else [row(sent[0])]) as (scorer, app):
        assert [one.id for one in scorer.score(RATINGS)] == ["3", "4", "5", "6"]
        assert len([body for body in app.bodies if body]) == 7


def test_no_reward_with_a_reason_is_a_score() -> None:
    with scoring(lambda sent: [row(one, None, reason="too long") for one in sent]) as (scorer, _):
        assert [one.reason for one in scorer.score(RATINGS)] == ["too long"] * 4
