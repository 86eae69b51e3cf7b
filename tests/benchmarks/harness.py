"""The measurement: sides that take turns, each in a process of its own that stays alive.

A side is a function that gets a `Laps`, prepares itself, calls `laps.start()` and then
`laps.done(...)` after every repetition. It runs only while it is its turn: sides never overlap.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from tests.benchmarks.ratios import order

WARM_UP = 1
"""Rounds before the measured ones."""


class Stop(Exception):
    """The case is over."""


@dataclass(frozen=True)
class Lap:
    """One repetition.

    Args:
        seconds: How long it took.
        tokens: Useful tokens: those of the records, a prompt counted once per response.
        flops: Linear FLOPs of the tokens that were computed, pads included.
        attention_flops: FLOPs of the (query, key) pairs that were needed.
        check: What all sides must agree on: a loss before the update, or scores.
    """

    seconds: float
    tokens: int
    flops: float
    attention_flops: float
    check: float | None


class Laps:
    """A side's end of the turn-taking.

    Args:
        connection: Leads to the harness.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started = 0.0

    def start(self) -> None:
        """Say that everything is prepared, and wait for the first turn."""
        self._connection.send("ready")
        self._wait()

    def done(
        self,
        tokens: int = 0,
        flops: float = 0.0,
        attention_flops: float = 0.0,
        check: float | None = None,
    ) -> None:
        """Report a repetition and wait for the next turn; arguments as for `Lap`.

        Raises:
            Stop: There is no next turn.
        """
        seconds = time.perf_counter() - self._started
        self._connection.send(Lap(seconds, tokens, flops, attention_flops, check))
        self._wait()

    def _wait(self) -> None:
        if self._connection.recv() == "stop":
            raise Stop
        self._started = time.perf_counter()


@dataclass(frozen=True)
class Side:
    """One of the programs that a case compares.

    Args:
        name: Shown in the table.
        run: Called with a `Laps` in the side's process; must be picklable.
        peer: Release that the side imports, as `peers.folder` names it.
    """

    name: str
    run: Callable[[Laps], None]
    peer: str | None = None


@dataclass(frozen=True)
class Bar:
    """What a case has to show about its first side, prm.

    Args:
        metric: `speed`: useful tokens per second over those of the fastest side of `against`.
            `gemm`: executed linear FLOPs per second over those of the GEMM in the same round.
            `memory`: peak resident memory over that of `against`. `seconds`: time of a repetition.
        value: Least `speed` and `gemm`, largest `memory` and `seconds`; `None` if only reported.
        against: Names of other sides.
    """

    metric: str
    value: float | None
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Sides that compute the same.

    Args:
        name: For `--cases`.
        title: For the table.
        sides: prm first.
        bars: What is reported.
        dtype: Of the GEMM that the sides are held against.
        tolerance: Largest difference of the checks, relative to 1 or to their size.
    """

    name: str
    title: str
    sides: tuple[Side, ...]
    bars: tuple[Bar, ...]
    dtype: str = "bf16"
    tolerance: float = 1e-3


@dataclass
class Measured:
    """What a side did in a case.

    Args:
        laps: The measured repetitions, round by round.
        peak_bytes: Largest resident memory of its process.
        error: Why it did not run.
    """

    laps: list[Lap] = field(default_factory=list)
    peak_bytes: int = 0
    error: str = ""


def serve(connection: Connection, side: Side, folder: str | None, threads: int, log: Path) -> None:
    """Run a side in this process until it is told to stop."""
    with log.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        import torch

        torch.set_num_threads(threads)
        side.run(Laps(connection))
    except Stop:
        connection.send(peak_bytes())
    except BaseException as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}")
        raise


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far, or if it has one, of its GPU.

    From `/proc`, because `ru_maxrss` starts with what the parent process held.
    """
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Worker:
    """The harness's end of a side.

    Args:
        side: The side.
        context: How processes are started.
        folder: Where the side's peer is installed.
        threads: Threads of the side.
        log: What the side prints.
    """

    def __init__(
        self, side: Side, context: BaseContext, folder: str | None, threads: int, log: Path
    ) -> None:
        self._connection, theirs = context.Pipe()
        arguments = (theirs, side, folder, threads, log)
        self._process: Any = context.Process(target=serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()

    def ask(self, message: str | None = None) -> Any:
        """Send a message, if there is one, and return the answer.

        Raises:
            RuntimeError: The side failed; the message says why.
        """
        try:
            if message is not None:
                self._connection.send(message)
            answer = self._connection.recv()
        except (EOFError, BrokenPipeError) as error:
            self._process.join()
            raise RuntimeError(f"the process ended with {self._process.exitcode}") from error
        if isinstance(answer, str) and answer != "ready":
            raise RuntimeError(answer)
        return answer

    def stop(self) -> int:
        """End the side and return its peak memory."""
        peak = int(self.ask("stop"))
        self._process.join()
        return peak

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()


def measure(
    sides: Sequence[Side],
    pairs: int,
    context: BaseContext,
    threads: int,
    folders: dict[str, Path | str],
    logs: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Measured]:
    """Let sides take turns, and return what each did.

    Args:
        sides: What to run.
        pairs: Measured rounds.
        context: How processes are started.
        threads: Threads of each side.
        folders: Peer to the folder it is installed in, or to the reason why it is not.
        logs: Folder of what the sides print.
        progress: Called with what happens.
    """
    found = {side.name: Measured() for side in sides}
    workers: dict[str, Worker] = {}
    try:
        for number, side in enumerate(sides):
            folder = folders[side.peer] if side.peer else None
            if isinstance(folder, str):
                found[side.name].error = folder
                continue
            log = logs / f"{number}.log"
            where = None if folder is None else str(folder)
            workers[side.name] = Worker(side, context, where, threads, log)
        for name in list(workers):
            _attempt(workers, found, name, lambda worker: worker.ask())
        for turn in range(WARM_UP + pairs):
            progress(f"round {turn - WARM_UP + 1} of {pairs}" if turn >= WARM_UP else "warm-up")
            for name in order(list(workers), turn):
                lap = _attempt(workers, found, name, lambda worker: worker.ask("run"))
                if lap is not None and turn >= WARM_UP:
                    found[name].laps.append(lap)
        for name in list(workers):
            found[name].peak_bytes = _attempt(workers, found, name, Worker.stop) or 0
    finally:
        for worker in workers.values():
            worker.kill()
    return found


def _attempt(
    workers: dict[str, Worker],
    found: dict[str, Measured],
    name: str,
    action: Callable[[Worker], Any],
) -> Any:
    """Return what the action gives; a side that fails leaves the case."""
    try:
        return action(workers[name])
    except RuntimeError as error:
        found[name].error = str(error)
        found[name].laps.clear()
        workers.pop(name).kill()
        return None
