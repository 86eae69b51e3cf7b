"""`Connection`: JSON requests to a server, with retries, from sync and async code alike."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prm import errors
from prm.errors import ConfigError, DataError, PrmError, RemoteError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

OnError = Literal["raise", "none"]

RETRIED = (408, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries, unless the server asks for more."""

CONCURRENCY = 8
"""Requests of one call that are in flight at the same time."""

_jitter = random.Random()
"""Of its own, so that retries do not disturb the seed of a training run."""

T = TypeVar("T")
R = TypeVar("R")


class TooLargeError(RemoteError):
    """A request is over a limit of the server; a part of it may not be."""


class Connection:
    """Requests to one server. It may be shared by threads and pickled; so travel only its options.

    All requests of a process run on one event loop in a thread of its own, so connections are
    reused by sync and async callers alike.

    Args:
        url: Address of the server, `http://host:port`, with a path if it is mounted there.
        token: Sent as bearer token.
        timeout: Seconds that a try may take; also the longest pause that a server may ask for.
        retries: Tries after the first one, with pauses that double, or as long as the server says.

    Raises:
        ConfigError: The address or a number is wrong.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("the address is wrong", expected="http(s)://host:port", got=url)
        if timeout <= 0 or retries < 0:
            raise ConfigError(
                "timeout or retries are wrong",
                expected="more than 0 seconds, 0 or more retries",
                got=(timeout, retries),
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retries = retries
        self._token = token
        self._forget()

    def _forget(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that makes requests, and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, _background.loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def awaited(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that makes requests from any event loop."""
        future = asyncio.run_coroutine_threadsafe(coroutine, _background.loop())
        return await asyncio.wrap_future(future)

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer; to be run by `run` or `awaited`.

        Raises:
            RemoteError: The server cannot be reached, is overloaded or broken after all tries, or
                does not answer with JSON.
            DataError: The body holds half of a surrogate pair, or a number that is not finite.
            PrmError: It refuses the request, with the error that it names.
        """
        import httpx

        content, headers = _encoded(body), {"Content-Type": "application/json"}
        for attempt in itertools.count():
            try:
                client = self._open_client()
                answer = await client.request(method, path, content=content, headers=headers)
            except httpx.TransportError as error:
                failure: PrmError = self._unreachable(error)
                pause = _backoff(attempt)
            else:
                if answer.is_success:
                    return _json(answer)
                failure = _refusal(answer)
                if answer.status_code not in RETRIED:
                    raise failure
                asked = _retry_after(answer)
                pause = _backoff(attempt) if asked is None else asked
            if attempt >= self.retries or pause > self.timeout:
                raise failure
            await asyncio.sleep(pause)
        raise AssertionError

    def _open_client(self) -> httpx.AsyncClient:
        import httpx

        loop = _background.loop()
        if self._client is None or self._loop is not loop:
            headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
            client = httpx.AsyncClient(base_url=self.url, timeout=self.timeout, headers=headers)
            self._client, self._loop = client, loop
            weakref.finalize(self, _close, client, loop)
        return self._client

    def _unreachable(self, error: Exception) -> RemoteError:
        return RemoteError(
            "the server does not answer",
            got=f"{type(error).__name__}: {error}".removesuffix(": "),
            where=self.url,
            fix="Is it running there, and ready?",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("url", "timeout", "retries", "_token")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


async def send_all(
    items: Sequence[T],
    send: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    batch: int,
    on_error: OnError,
) -> list[R | None]:
    """Send items in batches, several at a time, and return one result per item, in order.

    What is too large for the server is sent in halves. So is, with `none`, what it refuses: only
    the items that are at fault get `None`.

    Args:
        items: What is sent.
        send: Sends some of them and returns as many results.
        batch: Items in one request, at least 1.
        on_error: Whether an item that has no result raises or gets `None`.

    Raises:
        PrmError: A request failed and `on_error` is `raise`.
    """
    places = asyncio.Semaphore(CONCURRENCY)

    async def part(own: Sequence[T]) -> list[R | None]:
        try:
            async with places:
                return list(await send(own))
        except PrmError as error:
            if len(own) > 1 and _is_worth_halving(error, on_error):
                middle = len(own) // 2
                return await part(own[:middle]) + await part(own[middle:])
            if on_error == "raise":
                raise
            logger.warning("%d records get no score: %s", len(own), error)
            return [None] * len(own)

    parts = [part(items[start : start + batch]) for start in range(0, len(items), batch)]
    return [result for found in await gather(parts) for result in found]


async def gather(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Like `asyncio.gather`, and cancel the others when one fails."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _is_worth_halving(error: PrmError, on_error: OnError) -> bool:
    refused = not isinstance(error, RemoteError) and on_error == "none"
    return refused or isinstance(error, TooLargeError)


def _encoded(body: Any) -> bytes | None:
    if body is None:
        return None
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError as error:
        raise DataError("the request cannot be sent as JSON", got=str(error)) from None


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise RemoteError(
            "the answer is not JSON", got=answer.text, where=str(answer.url)
        ) from None


def _refusal(answer: httpx.Response) -> PrmError:
    """Return the error that an answer names, as the class that the server raised."""
    status, where = answer.status_code, str(answer.url)
    if status == 413:
        return TooLargeError("the request is too large", got=answer.text, where=where)
    if status in (401, 403):
        return ConfigError("the server refuses the token", got=status, where=where)
    if status >= 500 or status in (408, 429):
        got = f"{status} {answer.reason_phrase}: {answer.text}"
        return RemoteError("the server does not answer the request", got=got, where=where)
    unnamed = ConfigError if status == 404 else DataError
    return _named(answer) or unnamed("the server refuses", got=answer.text, where=where)


def _named(answer: httpx.Response) -> PrmError | None:
    try:
        found = answer.json()["error"]
        cls = getattr(errors, found["type"])
        parts = {name: found.get(name) for name in ("expected", "got", "where", "fix")}
        return cls(found["message"], **parts) if issubclass(cls, PrmError) else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _backoff(attempt: int) -> float:
    """Return seconds to wait: about 0.5, 1, 2, 4, ..., a little apart for each client."""
    pause = 0.5 * 2.0 ** min(attempt, 10) * _jitter.uniform(0.8, 1.2)
    return float(min(LONGEST_PAUSE, pause))


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the seconds that the server asks for, given as a number or as a date."""
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class _Background:
    """The event loop of this process's connections, which runs in a thread of its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew; in a forked child the thread is gone."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                run = self._loop.run_forever
                threading.Thread(target=run, name="prm-connections", daemon=True).start()
            return self._loop


_background = _Background()
os.register_at_fork(after_in_child=_background.forget)


def _close(client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    """Close a client whose connection is gone, if its event loop is still there."""
    if loop.is_running() and loop is _background.loop():
        asyncio.run_coroutine_threadsafe(client.aclose(), loop)
