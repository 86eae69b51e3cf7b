"""Memory and speed of everything before a training step, at any number of chains.

    python -m tests.benchmarks.million_chains --chains 1000000

Writes generated chains as sharded JSON lines and Parquet, and measures, each in a process of its
own: reading rows, reading checked records, the first pass of `prm score`, filling a record store
with one and with two processes, packing batches from it, holding the records in memory instead (a
tenth of them), scoring, and the share of a real training step that waits for data. A table and a
JSON file go to `--results`.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

NUM_FILES = 8
BATCH_SIZE = 64
MAX_TOKENS = 16384
TINY = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


class Clock:
    """Seconds and peak memory of a stage, measured inside its process.

    Resident memory counts pages of mapped files that the kernel may drop at any time; anonymous
    memory, sampled every 20 ms, is what a stage really needs.
    """

    def __init__(self) -> None:
        self.anonymous = 0
        self.restart()
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        """Leave out the time so far."""
        self.started, self.used = time.perf_counter(), _cpu_seconds()

    def result(self, num_records: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        return {
            "records": num_records,
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - self.used,
            "records_per_second": num_records / seconds,
            "peak_rss_mib": _memory("VmHWM"),
            "peak_anonymous_mib": max(self.anonymous, _memory("RssAnon")),
        }

    def _watch(self) -> None:
        while True:
            self.anonymous = max(self.anonymous, _memory("RssAnon"))
            time.sleep(0.02)


Stage = Callable[..., int]
"""Takes a clock, does something with records, and returns how many."""


def write_data(clock: Clock, folder: Path, num_chains: int, suffix: str) -> int:
    """Write chains of 2 to 10 steps into files of equal size."""
    from prm.data.sources.writers import write_records
    from prm.data.synthetic.arithmetic import ArithmeticConfig, generate

    chains = generate(ArithmeticConfig("default", after_error="wrong", split="train"))
    folder.mkdir(parents=True)
    size = -(-num_chains // NUM_FILES)
    starts = range(0, num_chains, size)
    return sum(
        write_records(
            islice(chains, min(size, num_chains - start)), folder / f"{start // size:02d}{suffix}"
        )
        for start in starts
    )


def write_model(clock: Clock, data: Path, folder: Path) -> int:
    """Write a tiny model of random weights, with a tokenizer trained on the first chains."""
    from prm.models.checkpoint import save
    from prm.models.reward_model import RewardModel
    from prm.models.sources import FromScratch
    from prm.spec import RewardSpec

    chains = _source(data, 2000).load()
    backbone = FromScratch(TINY, vocab_size=512)
    tokenizer = backbone.tokenizer(
        t for chain in chains for t in (chain.prompt, *chain.completions)
    )
    save(RewardModel(backbone.model(tokenizer), tokenizer, RewardSpec()), folder)
    return len(chains)


def import_only(clock: Clock) -> int:
    """Import what training imports: the memory that every other stage has as well."""
    import prm.cli.fit
    import prm.data.store.disk  # noqa: F401

    return 0


def read_rows(clock: Clock, data: Path) -> int:
    """Read rows, of which nothing is known yet."""
    from prm.data.sources.rows import read_rows

    clock.restart()
    return _count(read_rows(str(data)))


def read_records(clock: Clock, data: Path) -> int:
    """Read rows, check them and make records of them."""
    source = _source(data)
    clock.restart()
    return _count(source)


def survey_records(clock: Clock, data: Path) -> int:
    """Read an input as `prm score` does before it loads the model."""
    from prm.scoring.batch import survey

    clock.restart()
    return survey(_source(data)).num_records


def read_into_store(clock: Clock, data: Path, store: Path) -> int:
    """Read, check and write units."""
    import prm.data.store.disk  # noqa: F401

    clock.restart()
    return len(_units(data, store, 0))


def tokenize_into_store(clock: Clock, data: Path, store: Path, model: Path, workers: int) -> int:
    """Tokenize the units of a store into it."""
    tokenizer = _builder(model)
    clock.restart()
    return len(_items(data, store, tokenizer, workers)[0])


def open_store(clock: Clock, data: Path, store: Path, model: Path) -> int:
    """Open a store that is full, as a second run does."""
    return tokenize_into_store(clock, data, store, model, 0)


def pack_batches(clock: Clock, data: Path, store: Path, model: Path, num_batches: int) -> int:
    """Pack the first batches of an epoch in random order."""
    from prm.data.batches import optimizer_batch
    from prm.data.labels import Labeler
    from prm.data.planning import TrainingPlan

    items, facts, _ = _items(data, store, _builder(model), 0)
    plan = TrainingPlan(facts.num_tokens, BATCH_SIZE, MAX_TOKENS)
    labeler = Labeler(["correctness"], [])
    plan.step(0, 0)
    clock.restart()
    steps = range(min(num_batches, plan.num_steps))
    return sum(optimizer_batch(plan.step(0, step), items, labeler).num_records for step in steps)


def hold_in_memory(clock: Clock, data: Path, model: Path, num_chains: int) -> int:
    """Read, check and tokenize into lists, as a run without a store does."""
    from prm.data.items import Reading
    from prm.data.store.memory import MemoryStore

    store, tokenizer = MemoryStore(), _builder(model)
    clock.restart()
    units = store.units(Reading([_source(data, num_chains)], (), print))
    items, _, _ = store.items(units, tokenizer)
    return len(items)


def score(clock: Clock, data: Path, folder: Path, model: Path, num_chains: int) -> int:
    """Score into a file."""
    from prm.scoring.batch import score_file, survey
    from prm.scoring.scorer import RewardScorer

    scorer = RewardScorer.from_pretrained(model, "cpu")
    inputs = survey(_source(data, num_chains))
    clock.restart()
    return score_file(scorer, inputs, folder / "scores.jsonl", overwrite=True).num_records


def fit(clock: Clock, config: Path, num_batches: int) -> int:
    """Train from the store through `prm fit`; start-up counts."""
    from prm.cli.main import main

    assert main(["fit", "--config", str(config)]) == 0
    return num_batches * BATCH_SIZE


def measure(stage: Stage, *arguments: Any) -> dict[str, float]:
    """Run a stage in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, stage, arguments))
    process.start()
    theirs.close()
    result: dict[str, float] = ours.recv()
    process.join()
    return result


def _serve(connection: Any, stage: Stage, arguments: Sequence[Any]) -> None:
    clock = Clock()
    connection.send(clock.result(stage(clock, *arguments)))


def stages(
    folder: Path, num_chains: int, num_batches: int, num_scored: int
) -> Iterator[tuple[str, Stage, tuple[Any, ...]]]:
    """Yield what is measured: a name, a stage and its arguments."""
    lines, parquet = folder / "lines", folder / "parquet"
    store, model, config = folder / "store", folder / "model", folder / "fit.yaml"
    config.write_text(yaml.safe_dump(_fit_config(folder, num_batches)), encoding="utf-8")
    yield "write JSON lines", write_data, (lines, num_chains, ".jsonl")
    yield "write Parquet", write_data, (parquet, num_chains, ".parquet")
    yield "write the model", write_model, (lines, model)
    yield "imports only", import_only, ()
    for kind, data in (("JSON lines", lines), ("Parquet", parquet)):
        yield f"read {kind}", read_rows, (data,)
        yield f"read and check {kind}", read_records, (data,)
    yield "survey of prm score", survey_records, (lines,)
    yield "read into a store", read_into_store, (lines, store)
    yield "tokenize, 1 process", tokenize_into_store, (lines, store, model, 0)
    _forget_items(store)
    yield "tokenize, 2 workers", tokenize_into_store, (lines, store, model, 2)
    yield "open the store", open_store, (lines, store, model)
    yield "pack from the store", pack_batches, (lines, store, model, num_batches)
    yield "a tenth in memory", hold_in_memory, (lines, model, num_chains // 10)
    yield "score some", score, (lines, folder, model, num_scored // 10)
    yield "score ten times as many", score, (lines, folder, model, num_scored)
    yield "fit from the store", fit, (config, num_batches)


def _forget_items(store: Path) -> None:
    for path in store.glob("*/*/items.json"):
        shutil.rmtree(path.parent)


def data_wait(folder: Path) -> float:
    """Return the mean share of a training step that waited for data, but for the first steps."""
    with (folder / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        shares = [float(row["train/data_wait"] or "nan") for row in csv.DictReader(file)]
    return fmean(share for share in shares[10:] if share == share)


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| stage | chains | seconds | CPU seconds | chains/s | peak RSS, MiB | anonymous, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['records']:,.0f} | {row['seconds']:.1f} | "
            f"{row['cpu_seconds']:.1f} | {row['records_per_second']:,.0f} | "
            f"{row['peak_rss_mib']:,.0f} | {row['peak_anonymous_mib']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every stage and write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=200, help="batches that are packed and run")
    parser.add_argument("--scored", type=int, default=20_000, help="chains that are scored")
    parser.add_argument("--results", type=Path, default=Path("runs/bench/million-chains"))
    options = parser.parse_args(argv)
    options.results.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.results) as scratch:
        sizes = (options.chains, options.batches, min(options.chains, options.scored))
        for name, stage, arguments in stages(Path(scratch), *sizes):
            results[name] = measure(stage, *arguments)
            print(table({name: results[name]}).splitlines()[-1], flush=True)
        found = {"stages": results, "data_wait": data_wait(Path(scratch))}
    (options.results / "results.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    text = f"{table(results)}\nShare of a step that waits for data: {found['data_wait']:.2%}\n"
    (options.results / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _source(data: Path, limit: int | None = None) -> Any:
    from prm.data.formats.hf_stepwise import HFStepwise
    from prm.data.sources.source import Source

    return Source(str(data), HFStepwise(), limit=limit)


def _builder(model: Path) -> Any:
    from prm.models.sources import load_tokenizer
    from prm.spec import RewardSpec
    from prm.trees.tokenize import TreeBuilder

    return TreeBuilder(load_tokenizer(str(model)), RewardSpec.load(model))


def _store(folder: Path, num_workers: int) -> Any:
    from prm.data.store.disk import RecordStore

    return RecordStore(folder, num_workers, print)


def _units(data: Path, store: Path, num_workers: int) -> Any:
    from prm.data.items import Reading

    return _store(store, num_workers).units(Reading([_source(data)], (), print))


def _items(data: Path, store: Path, tokenizer: Any, num_workers: int) -> Any:
    units = _units(data, store, num_workers)
    return _store(store, num_workers).items(units, tokenizer)


def _fit_config(folder: Path, num_batches: int) -> dict[str, Any]:
    source = {"path": str(folder / "lines"), "format": {"class_path": "HFStepwise"}}
    backbone = {"class_path": "FromRewardModel", "init_args": {"path": str(folder / "model")}}
    return {
        "run_dir": str(folder / "run"),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "limit_train_batches": num_batches,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {"class_path": "RewardTask", "init_args": {"backbone": backbone, "steps": [{}]}},
        "data": {
            "class_path": "RecordDataModule",
            "init_args": {
                "train": [source],
                "validation_share": 0.001,
                "batch_size": BATCH_SIZE,
                "max_tokens": MAX_TOKENS,
                "num_workers": 1,
                "store": str(folder / "store"),
            },
        },
    }


def _count(values: Iterable[Any]) -> int:
    return sum(1 for _ in values)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _memory(name: str) -> float:
    """Return a figure of this process in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
