"""The batcher: requests in flight share forward passes under a token budget.

One thread runs the model. Requests wait in a line and give it work in turn, a share of a pass each,
so that a huge request cannot hold up small ones; equal prompts in a pass are computed once, and so
are equal records.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prm.models.reward_model import ModelOutput
from prm.scoring.scorer import RewardScorer
from prm.serve.errors import BusyError, TooLargeError, UnavailableError
from prm.serve.jobs import Job, Unit, Work
from prm.serve.options import ServeOptions
from prm.trees.packing import num_packed_tokens
from prm.trees.tree import TokenTree

SHARES = 4
"""A request gives at most this fraction of a pass before the next one has its turn."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass did.

    Args:
        num_jobs: Requests that had a part in it.
        num_inputs: Inputs that it was for.
        num_tokens: Tokens that the model computed, shared ones once.
        seconds: Time it took, with the aggregation of its scores.
    """

    num_jobs: int
    num_inputs: int
    num_tokens: int
    seconds: float


class Batcher:
    """Runs the inputs of many requests through one scorer, in a thread of its own.

    Args:
        scorer: The scorer; nothing else may use its model while the batcher runs.
        options: Limits of the server.
        on_pass: Called in the batcher's thread after each forward pass.
    """

    def __init__(
        self,
        scorer: RewardScorer,
        options: ServeOptions,
        on_pass: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        self.scorer = scorer
        self.options = options
        self.on_pass = on_pass
        self.num_waiting = 0
        self._seconds_per_job = 0.0
        self._incoming: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: deque[Job] = deque()
        self._thread = threading.Thread(target=self._run, name="prm-batcher", daemon=True)
        self._thread.start()

    async def run(self, work: Work, inputs: Sequence[Any]) -> list[Any]:
        """Return the result of each input, in order; errors as in `stream`."""
        results: list[Any] = [None] * len(inputs)
        async for index, result in self.stream(work, inputs):
            results[index] = result
        return results

    async def stream(
        self, work: Work, inputs: Sequence[Any]
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """Yield the index and result of each input as soon as it is there.

        Work that nobody waits for any more, because the iteration ends early, is dropped.

        Raises:
            BusyError: Too many requests wait.
            UnavailableError: The results were not there in time.
            TooLargeError: There are too many tokens.
        """
        self.check_count(len(inputs))
        job = Job(work, inputs, asyncio.get_running_loop())
        started = time.monotonic()
        self._admit()
        try:
            self._incoming.put(job)
            missing = len(inputs)
            while missing:
                part = await self._next_part(job, started + self.options.timeout)
                missing -= len(part)
                for found in part:
                    yield found
            self._learn(time.monotonic() - started)
        finally:
            job.abandoned = True
            self.num_waiting -= 1

    def check_count(self, count: int) -> None:
        """Refuse more inputs than a request may have.

        Raises:
            TooLargeError: There are more.
        """
        limit = self.options.max_records
        if count > limit:
            raise TooLargeError(
                "the request has too many records", expected=f"at most {limit:,}", got=count
            )

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop the thread after the pass that it runs."""
        self._incoming.put(None)
        self._thread.join()

    @property
    def retry_after(self) -> int:
        """Seconds, 1 to 60, after which a request that is refused now may be welcome."""
        return min(60, max(1, math.ceil(self._seconds_per_job)))

    def _admit(self) -> None:
        if self.num_waiting >= self.options.max_waiting:
            raise BusyError(
                "too many requests wait", got=self.num_waiting, retry_after=self.retry_after
            )
        self.num_waiting += 1

    def _learn(self, seconds: float) -> None:
        self._seconds_per_job += 0.1 * (seconds - self._seconds_per_job)

    async def _next_part(self, job: Job, deadline: float) -> list[tuple[int, Any]]:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                part = await job.parts.get()
        except TimeoutError:
            raise UnavailableError(
                "the scores were not there in time", expected=f"{self.options.timeout:g} s"
            ) from None
        if isinstance(part, BaseException):
            raise part
        return part

    def _run(self) -> None:
        while self._receive():
            units = self._fill()
            if units:
                self._score(units)

    def _receive(self) -> bool:
        """Put what has come in line, waiting if there is nothing to do; false at the end."""
        while True:
            try:
                job = self._incoming.get(block=not self._jobs)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._jobs.append(job)

    def _fill(self) -> list[Unit]:
        """Take units from each job in turn until a pass is full."""
        units: list[Unit] = []
        budget = _Budget(self.scorer.max_tokens)
        while self._jobs:
            job = self._jobs.popleft()
            if job.abandoned:
                continue
            try:
                units.extend(self._share(job, budget))
                more = job.next_unit(self.options) is not None
            except Exception as error:  # of this request alone: the others go on
                job.fail(error)
                continue
            if more and budget.is_full:
                self._jobs.append(job) if budget.share_is_used else self._jobs.appendleft(job)
                break
            if more:
                self._jobs.append(job)
        return [unit for unit in units if not unit.job.abandoned]

    def _share(self, job: Job, budget: _Budget) -> Iterator[Unit]:
        """Take units of a job until its share of the pass is used or the pass is full."""
        budget.next_share()
        while (unit := job.next_unit(self.options)) is not None and budget.take(unit.tokens):
            yield job.ready.popleft()

    def _score(self, units: Sequence[Unit]) -> None:
        """Run units and deliver their results.

        If that fails, requests are run one by one, so that one cannot fail the others.
        """
        started = time.perf_counter()
        by_job: dict[Job, list[Unit]] = {}
        for unit in units:
            by_job.setdefault(unit.job, []).append(unit)
        try:
            outputs, num_tokens = self._outputs(units)
            parts = {
                job: [found for unit in own for found in unit.results(outputs[unit.tokens])]
                for job, own in by_job.items()
            }
        except Exception as error:
            self._score_alone(by_job, error)
            return
        num_inputs = sum(map(len, parts.values()))
        self.on_pass(Pass(len(parts), num_inputs, num_tokens, time.perf_counter() - started))
        for job, part in parts.items():
            job.deliver(part)

    def _score_alone(self, by_job: dict[Job, list[Unit]], error: Exception) -> None:
        """Run the units of each request of a pass that failed; the only one fails with it."""
        for job, own in by_job.items():
            if len(by_job) > 1:
                self._score(own)
            else:
                job.fail(error)

    def _outputs(self, units: Sequence[Unit]) -> tuple[dict[TokenTree | None, ModelOutput], int]:
        trees = list(dict.fromkeys(unit.tokens for unit in units))
        num_tokens = num_packed_tokens([tree for tree in trees if tree is not None])
        return dict(zip(trees, self.scorer.outputs(trees), strict=True)), num_tokens


class _Budget:
    """Tokens of one pass, and of the share of one job in it; what is equal counts once."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.used = 0
        self.is_full = False
        self._share = 0
        self._prompts: set[tuple[int, ...]] = set()
        self._trees: set[TokenTree | None] = {None}

    def next_share(self) -> None:
        """Begin the share of the next job."""
        self._share = 0

    @property
    def share_is_used(self) -> bool:
        """Whether the job has had its share of the pass."""
        return self._share >= max(1, self.max_tokens // SHARES)

    def take(self, tree: TokenTree | None) -> bool:
        """Count a tree, if it fits in; the first one always does."""
        cost = self._cost(tree)
        if self.used and self.used + cost > self.max_tokens:
            self.is_full = True
            return False
        if self.share_is_used:
            return False
        self.used += cost
        self._share += cost
        self._trees.add(tree)
        if tree is not None:
            self._prompts.add(tree.segments[0].input_ids)
        return True

    def _cost(self, tree: TokenTree | None) -> int:
        if tree is None or tree in self._trees:
            return 0
        prompt = tree.segments[0].input_ids
        shared = len(tree.segments) > 1 and prompt in self._prompts
        return tree.num_tokens - (len(prompt) if shared else 0)
