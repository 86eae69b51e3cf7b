"""A soak of `prm serve` on this machine: many clients, good and bad, and every reply compared.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.soak --seconds 300
    OMP_NUM_THREADS=1 python -m tests.benchmarks.soak --seconds 20      # a try

The server runs in a process of its own, on one thread. First the offline scorer scores all
requests, then good clients alone ask for half of the time (saturation), then the offline scorer
again, then good clients together with malformed bodies, bytes that are no HTTP, endless bodies,
slow readers, slow writers and killed clients. The end is SIGTERM under load. A table is printed, a
JSON file written, and the exit code is 1 if a reply was wrong, lost or not what its request
deserved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.soak_clients import Load, Question, Tally

GROUP = 8
"""Records of a request; they share a prompt, as the completions of a policy do."""

BAD = {
    "malformed": 4,
    "broken": 2,
    "huge": 3,
    "slow_reader": 4,
    "slow_writer": 3,
    "killed": 4,
}
"""Bad clients of the second phase, by kind; the others are good."""

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


class Offline:
    """The offline scorer on the same requests, in this process, on one thread.

    Args:
        folder: The model.
        num_requests: Different requests.
    """

    def __init__(self, folder: Path, num_requests: int) -> None:
        import torch

        from prm.scoring.scorer import RewardScorer
        from prm.scoring.stages import tokenize

        torch.set_num_threads(1)
        self.scorer = RewardScorer.from_pretrained(folder, device="cpu")
        groups = list(islice(_groups(self.scorer.spec.kind == "outcome"), num_requests))
        self.records = [record for group in groups for record in group]
        alone = [
            tokenize(self.scorer.builder, [record], self.scorer.max_tokens)[0].tree
            for record in self.records
        ]
        self.sizes = [0 if tree is None else tree.num_tokens for tree in alone]
        self.rewards: list[float | None] = []

    def measure(self) -> dict[str, float]:
        """Score all requests, to rows of JSON as the server gives them."""
        started, used = time.perf_counter(), time.process_time()
        rows = [score.to_row() for score in self.scorer.score(self.records)]
        json.dumps(rows)
        self.rewards = [row["reward"] for row in rows]
        return _rates(sum(self.sizes), time.perf_counter() - started, time.process_time() - used)

    def questions(self) -> list[Question]:
        """Return the requests with the rewards of the last scoring."""
        starts = range(0, len(self.records), GROUP)
        return [self._question(slice(start, start + GROUP)) for start in starts]

    def _question(self, own: slice) -> Question:
        rows = [
            {"prompt": record.prompt, "completions": list(record.completions)}
            if hasattr(record, "completions")
            else {"prompt": record.prompt, "response": record.response}
            for record in self.records[own]
        ]
        body = json.dumps({"records": rows}).encode()
        return Question(body, self.rewards[own], sum(self.sizes[own]))


def _rates(num_tokens: int, seconds: float, processor_seconds: float) -> dict[str, float]:
    return {
        "tokens_per_second": num_tokens / seconds,
        "tokens_per_processor_second": num_tokens / processor_seconds,
    }


def _groups(is_outcome: bool) -> Any:
    """Yield groups of records that answer the same prompt."""
    from prm.data.synthetic.arithmetic import ArithmeticConfig, generate
    from prm.records import Chain, Rating

    chains = generate(ArithmeticConfig())
    while True:
        own = list(islice(chains, GROUP))
        prompt = own[0].prompt
        texts = [chain.completions + own[0].completions for chain in own]
        if is_outcome:
            yield [Rating(prompt, "\n".join(text)) for text in texts]
        else:
            yield [Chain(prompt, text) for text in texts]


class ServerProcess:
    """The server, and the memory that it holds over time.

    Args:
        folder: The model.
    """

    def __init__(self, folder: Path) -> None:
        options = ("--threads", "1", "--device", "cpu", "--body_timeout", "5")
        command = ["-m", "prm.cli.main", "serve", "--model", str(folder), "--port", "0", *options]
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *command, "--write_timeout", "5"], stderr=self.log
        )
        self.port = self._wait()
        self.memory: list[tuple[float, float]] = []
        self._started = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def _wait(self) -> int:
        while self.process.poll() is None:
            for line in Path(self.log.name).read_text(encoding="utf-8").splitlines():
                if '"listening"' in line:
                    return int(json.loads(line)["port"])
            time.sleep(0.05)
        raise SystemExit(Path(self.log.name).read_text(encoding="utf-8"))

    def _watch(self) -> None:
        while (megabytes := self._resident()) is not None:
            self.memory.append((round(time.monotonic() - self._started, 1), megabytes))
            time.sleep(1)

    def _resident(self) -> float | None:
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        sizes = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")]
        return int(sizes[0]) / 1024 if sizes else None

    def processor_seconds(self) -> float:
        """Return the processor time that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """Wait until nothing of what the clients left behind is under way."""
        count = -1
        while count != len(self.statuses()):
            count = len(self.statuses())
            time.sleep(2)

    def end(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(180)

    def statuses(self) -> list[int]:
        """Return the status of every request that the server logged."""
        lines = Path(self.log.name).read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event["status"] for event in events if event["event"] == "request"]


def soak(folder: Path, seconds: float, clients: int, requests: int) -> dict[str, Any]:
    """Run the phases and return what was measured."""
    offline = Offline(folder, requests)
    offline.measure()
    rates = [offline.measure()]
    server = ServerProcess(folder)
    load = Load(server.port, offline.questions())
    asyncio.run(load.run(min(5.0, seconds / 4), {"good": clients}))  # a warm-up
    saturated = _phase(load, server, seconds / 2, {"good": clients})
    rates.append(offline.measure())
    mixed = _phase(load, server, seconds / 2, {**BAD, "good": clients - sum(BAD.values())})
    server.settle()
    memory = list(server.memory)
    return {
        "seconds": seconds,
        "clients": clients,
        "offline": rates,
        "saturated": saturated,
        "mixed": mixed,
        "end": _end(load, server, clients),
        "memory_mb": memory,
    }


def _phase(
    load: Load, server: ServerProcess, seconds: float, clients: dict[str, int]
) -> dict[str, Any]:
    started, used = time.monotonic(), server.processor_seconds()
    tally = asyncio.run(load.run(seconds, clients))
    elapsed, used = time.monotonic() - started, server.processor_seconds() - used
    quantiles = np.quantile(tally.seconds or [np.nan], [0.5, 0.99]).tolist()
    return {
        "seconds": elapsed,
        **_rates(tally.num_tokens, elapsed, used),
        "p50_seconds": quantiles[0],
        "p99_seconds": quantiles[1],
        "replies_compared": len(tally.seconds),
        "largest_error": tally.largest_error,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "problems": tally.problems,
    }


def _end(load: Load, server: ServerProcess, clients: int) -> dict[str, Any]:
    """Stop the server under load: what it says it answered must have arrived."""
    before = server.statuses().count(200)

    async def ending() -> tuple[Tally, int]:
        asking = asyncio.ensure_future(load.run(60, {"good": clients}))
        await asyncio.sleep(2)
        load.is_ending = True
        code = await asyncio.to_thread(server.end)
        return await asking, code

    tally, code = asyncio.run(ending())
    answered = server.statuses().count(200) - before
    return {
        "exit_code": code,
        "answered": answered,
        "arrived": len(tally.seconds),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "problems": tally.problems,
        "failures": server.statuses().count(500),
    }


def table(found: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    offline = {
        name: float(np.mean([one[name] for one in found["offline"]]))
        for name in found["offline"][0]
    }
    wall, processor = offline["tokens_per_second"], offline["tokens_per_processor_second"]
    memory = [megabytes for _, megabytes in found["memory_mb"]]
    columns = "replies | tokens/s | of offline | tokens per CPU s | of offline | p50 s | p99 s"
    lines = [
        f"| | {columns} | largest error |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| offline scorer (mean of two) | | {wall:,.0f} | | {processor:,.0f} | | | | |",
    ]
    for name in ("saturated", "mixed"):
        one = found[name]
        rate, used = one["tokens_per_second"], one["tokens_per_processor_second"]
        lines.append(
            f"| {name} | {one['replies_compared']:,} | {rate:,.0f} | {rate / wall:.1%} "
            f"| {used:,.0f} | {used / processor:.1%} "
            f"| {one['p50_seconds']:.3f} | {one['p99_seconds']:.3f} | {one['largest_error']:.1e} |"
        )
    end = found["end"]
    lines += [
        "",
        f"memory of the server after a tenth of the time: {memory[len(memory) // 10]:.0f} MB",
        f"at most: {max(memory):.0f} MB, at the end: {memory[-1]:.0f} MB",
        f"SIGTERM: exit code {end['exit_code']}",
        f"replies sent until then: {end['answered']}, arrived: {end['arrived']}",
        *(f"{name}: {count}" for name, count in found["mixed"]["outcomes"].items()),
        *(f"PROBLEM {text}" for text in problems(found)),
    ]
    return "\n".join(lines)


def problems(found: dict[str, Any]) -> list[str]:
    """Return what must not have happened."""
    listed = [*found["saturated"]["problems"], *found["mixed"]["problems"]]
    end = found["end"]
    is_lost = end["answered"] != end["arrived"]
    if end["exit_code"] or is_lost or end["failures"] or end["problems"]:
        listed.append(f"the end: {end}")
    return listed


def write_model(folder: Path) -> Path:
    """Write a random process model, whose scores serve as well as those of a trained one."""
    import torch

    from prm.data.synthetic.arithmetic import ArithmeticConfig, generate
    from prm.models import checkpoint
    from prm.models.reward_model import RewardModel
    from prm.models.sources import FromScratch
    from prm.spec import RewardSpec

    torch.manual_seed(0)
    source = FromScratch(CONFIG, 512)
    texts = [
        step for chain in islice(generate(ArithmeticConfig()), 200) for step in chain.completions
    ]
    tokenizer = source.tokenizer(texts)
    model = RewardModel(source.model(tokenizer), tokenizer, RewardSpec(max_length=1024))
    torch.nn.init.normal_(model.heads.layers.weight, std=0.1)
    return checkpoint.save(model.eval(), folder / "soak" / "model")


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=300.0, help="length of both phases")
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--requests", type=int, default=128, help="different requests")
    options.add_argument("--model", type=Path, help="model folder (default: a random model)")
    options.add_argument("--results", type=Path, default=Path("soak.json"))
    given = options.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or write_model(Path(folder))
        found = soak(model, given.seconds, given.clients, given.requests)
    given.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(found))
    return int(bool(problems(found)))


if __name__ == "__main__":
    sys.exit(main())
