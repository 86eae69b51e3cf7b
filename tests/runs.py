"""Small runs of `prm fit | validate | test | predict` that tests are made of."""

from __future__ import annotations

import copy
import csv
import json
import multiprocessing
import socket
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from runpy import run_path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from prm.cli.main import main
from prm.data.sources.writers import write_records
from prm.data.synthetic.arithmetic import ArithmeticConfig, Split, generate
from prm.training.checkpoints import snapshot
from tests.tiny_models import tiny_tokenizer
from tests.tolerance import FLOAT32, TRAINED

OVERLAYS = Path(__file__).resolve().parents[1] / "configs" / "overlay"

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def source(path: str | Path, **options: Any) -> dict[str, Any]:
    """Return the configuration of a source of stepwise rows."""
    return {"path": str(path), "format": {"class_path": "HFStepwise"}, **options}


_CONFIG: dict[str, Any] = {
    "run_dir": "run",
    "checkpoint_every": 100,
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {
        "class_path": "RewardTask",
        "init_args": {
            "backbone": {
                "class_path": "prm.models.sources.FromScratch",
                "init_args": {"config": LLAMA, "vocab_size": 270},
            },
            "steps": [{"name": "correctness"}],
            "max_length": 128,
            "lr": 0.01,
        },
    },
    "data": {
        "class_path": "RecordDataModule",
        "init_args": {
            "train": [source("train.jsonl")],
            "validation": [source("validation.jsonl")],
            "test": [source("test.jsonl")],
            "predict": [source("test.jsonl")],
            "batch_size": 8,
            "max_tokens": 512,
        },
    },
}


def write_arithmetic(path: Path, num_chains: int, split: Split = "train", seed: int = 0) -> Path:
    """Write generated chains as JSON lines."""
    config = ArithmeticConfig("easy", after_error="wrong", split=split, seed=seed)
    write_records(islice(generate(config), num_chains), path, overwrite=True)
    return path


def write_data(folder: Path, num_train: int = 24, num_validation: int = 9) -> None:
    """Write the three files that a configuration of `write_config` reads."""
    write_arithmetic(folder / "train.jsonl", num_train)
    write_arithmetic(folder / "validation.jsonl", num_validation, seed=1)
    write_arithmetic(folder / "test.jsonl", 7, "test")


def write_config(folder: Path, name: str = "base.yaml", **changes: Mapping[str, Any]) -> Path:
    """Write a configuration; `trainer`, `model` and `data` update the (init) arguments of each."""
    config = copy.deepcopy(_CONFIG)
    for key, value in changes.items():
        if key in ("model", "data"):
            config[key]["init_args"] |= value
        elif key == "trainer":
            config[key] |= value
        else:
            config[key] = value
    (folder / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / name


def prm(*words: object) -> None:
    """Run a command in this process; it must succeed."""
    assert main([str(word) for word in words]) == 0


def fit(folder: Path, run_dir: str = "run", **changes: Any) -> Path:
    """Train in this process with a configuration of its own; return the run's folder."""
    config = write_config(folder, f"{run_dir}.yaml", run_dir=run_dir, **changes)
    prm("fit", "--config", config)
    return folder / run_dir


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    """Read a checkpoint, a file or a folder of shards."""
    return snapshot.read(run / "checkpoints" / f"{name}.ckpt")


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the parameters after the last step."""
    state: dict[str, torch.Tensor] = checkpoint(run)["state_dict"]
    return state


def assert_same_weights(
    first: Path, second: Path, rtol: float = FLOAT32, atol: float = TRAINED
) -> None:
    """Compare the parameters after the last step of two runs."""
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=rtol, atol=atol, msg=name)


def metrics(run: Path, column: str) -> list[float]:
    """Return a column of `metrics.csv` without the rows that lack it."""
    return [float(row[column]) for row in _rows(run) if row.get(column)]


def metrics_by_step(run: Path, column: str) -> dict[int, float]:
    """Return a column of `metrics.csv` by step; no step may be written twice."""
    values = [(int(row["step"]), float(row[column])) for row in _rows(run) if row.get(column)]
    by_step = dict(values)
    assert len(by_step) == len(values), f"{column} is written twice"
    return by_step


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start(folder: Path, words: Sequence[object], **environment: str) -> BaseProcess:
    """Start a command in a process forked from a server that has imported everything.

    With `HOLD="last.ckpt:5"` it stops before `last.ckpt` is replaced for the fifth time, as if its
    machine were that slow; see `kill_when_held`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prm.cli.fit", "transformers.models.llama.modeling_llama"])
    process = context.Process(
        target=run_path,
        args=(str(Path(__file__).with_name("run_command.py")),),
        kwargs={
            "init_globals": {
                "FOLDER": str(folder),
                "WORDS": [str(word) for word in words],
                "ENVIRONMENT": environment,
            },
            "run_name": "__main__",
        },
    )
    process.start()
    return process


def on_ranks(folder: Path, *words: object, num_ranks: int = 2, timeout: float = 100.0) -> None:
    """Run a command on gloo ranks, as a launcher on a cluster would; all must succeed."""
    ranks = start_ranks(folder, words, num_ranks)
    for rank in ranks:
        rank.join(timeout)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    logs = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("rank*.log"))]
    assert codes == [0] * num_ranks, "\n".join(logs)


def kill_when_held(folder: Path, processes: Sequence[BaseProcess]) -> None:
    """Kill processes, one of which was told to hold, when it does so; none may end before."""
    while not (folder / "held").exists() and all(process.is_alive() for process in processes):
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    logs = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("rank*.log"))]
    assert (folder / "held").exists(), "\n".join(logs)


def start_ranks(
    folder: Path, words: Sequence[object], num_ranks: int = 2, **environment: str
) -> list[BaseProcess]:
    """Start a command on every rank."""
    rendezvous = {
        **environment,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(num_ranks),
    }
    words = [*words, "--trainer.devices", num_ranks]
    return [
        start(folder, words, RANK=str(rank), LOCAL_RANK=str(rank), NODE_RANK="0", **rendezvous)
        for rank in range(num_ranks)
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_pretrained(folder: Path, chat_template: bool = False, tie: bool = False) -> Path:
    """Write a tiny causal language model with its tokenizer, as one lies on the hub."""
    tokenizer = tiny_tokenizer()
    if chat_template:
        tokenizer.chat_template = (
            "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    config = AutoConfig.for_model(
        "qwen2",
        **{name: value for name, value in LLAMA.items() if name != "model_type"}
        | {"max_position_embeddings": 2048, "tie_word_embeddings": tie},
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
