"""Small runs of `prm fit | test | predict` with outcome and joint models that tests are made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prm.data.sources.writers import write_records
from prm.records import Comparison, Outcome, Rating
from tests.runs import LLAMA, prm, source, write_arithmetic

SPLITS = {"train": (0, 24), "validation": (100, 9), "test": (200, 8)}
"""Part to the index of its first row and the number of its rows, per source."""

HELPFULNESS = {"name": "helpfulness"}
SAFETY = {"name": "safety", "rating": {"class_path": "BinaryCrossEntropy"}}
LENGTH = {
    "name": "length",
    "rating": {"class_path": "MeanSquaredError"},
    "direction": "minimize",
    "loss_weight": 0.1,
}
EQUAL = {"class_path": "WeightedSum"}


def pairs(start: int, count: int) -> Iterator[Outcome]:
    """Yield pairs of which the polite response is better, every fifth one a tie."""
    for index in range(start, start + count):
        texts = [f"please {index % 7}", f"never {index % 5}"]
        ranks = [0, 0] if index % 5 == 4 else [0, 1]
        votes = [3, 1] if index % 3 == 0 and ranks == [0, 1] else None
        yield Comparison(f"Question {index}", texts, ranks, objective="helpfulness", votes=votes)


def verdicts(start: int, count: int) -> Iterator[Outcome]:
    """Yield responses that are safe, 1, or not, 0."""
    for index in range(start, start + count):
        safe = index % 2
        yield Rating(
            f"Task {index}", f"{'careful' if safe else 'bomb'} {index % 4}", {"safety": safe}
        )


def lengths(start: int, count: int) -> Iterator[Outcome]:
    """Yield responses with a level from 0 to 2 that grows with their length."""
    for index in range(start, start + count):
        level = index % 3
        yield Rating(f"Ask {index}", "word " * (1 + 3 * level), {"length": level})


SOURCES = {"pairs": pairs, "verdicts": verdicts, "lengths": lengths}


def write_outcomes(folder: Path) -> None:
    """Write the files of all sources and parts, each source supervising one objective."""
    for part, (start, count) in SPLITS.items():
        for name, make in SOURCES.items():
            write_records(make(start, count), folder / f"{name}-{part}.jsonl", overwrite=True)


def outcome_source(path: str, **options: Any) -> dict[str, Any]:
    """Return the configuration of a source of comparisons and ratings."""
    return {"path": path, "format": {"class_path": "Outcomes"}, **options}


def sources(part: str, names: Sequence[str] = tuple(SOURCES), **options: Any) -> list[Any]:
    """Return the configurations of some sources of a part."""
    return [outcome_source(f"{name}-{part}.jsonl", name=name, **options) for name in names]


TESTED = {"test": sources("test"), "predict": sources("test")}
"""Data of `prm test` and `prm predict`, for the runs that need them."""

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
                "init_args": {"config": LLAMA, "vocab_size": 290},
            },
            "responses": [HELPFULNESS, SAFETY, LENGTH],
            "objective_aggregation": EQUAL,
            "max_length": 96,
            "lr": 0.01,
        },
    },
    "data": {
        "class_path": "RecordDataModule",
        "init_args": {
            "train": sources("train"),
            "validation": sources("validation"),
            "batch_size": 16,
            "max_tokens": 1024,
        },
    },
}


def write_outcome_config(folder: Path, name: str = "base.yaml", **changes: Any) -> Path:
    """Write a configuration; `trainer`, `model` and `data` update the (init) arguments of each."""
    config = copy.deepcopy(_CONFIG)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            config[key].get("init_args", config[key]).update(value)
        else:
            config[key] = value
    (folder / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / name


def fit_outcomes(folder: Path, run_dir: str = "run", **changes: Any) -> Path:
    """Train in this process with a configuration of its own; return the run's folder."""
    prm(
        "fit",
        "--config",
        write_outcome_config(folder, f"{run_dir}.yaml", run_dir=run_dir, **changes),
    )
    return folder / run_dir


def one_objective(objective: Mapping[str, Any], source: str, **model: Any) -> dict[str, Any]:
    """Return changes that leave one objective and one source."""
    return {
        "model": {"responses": [dict(objective)], "objective_aggregation": None, **model},
        "data": {part: sources(part, [source]) for part in ("train", "validation")},
    }


def write_chains(folder: Path) -> None:
    """Write chains beside the responses, for joint models."""
    for part, size in {"train": 12, "validation": 6, "test": 5}.items():
        write_arithmetic(folder / f"chains-{part}.jsonl", size, seed=len(part))


def joint_config(folder: Path, **changes: Any) -> Path:
    """Write the configuration of a joint model of chains, pairs and verdicts."""
    path = write_outcome_config(folder, "joint.yaml", **changes)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = config["model"]["init_args"]
    options["steps"] = [{"name": "correctness"}]
    options["responses"] = options["responses"][:2]
    for part in (*SPLITS, "predict"):
        own = "test" if part == "predict" else part
        chains = source(f"chains-{own}.jsonl")
        config["data"]["init_args"][part] = [*sources(own, ["pairs", "verdicts"]), chains]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
