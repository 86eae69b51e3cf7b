"""Heads of one prm model beside TRL's RewardTrainer: same backbone, same data, as many examples.

    prm fit --config configs/outcome/human-minilm.yaml
    pip install -c constraints.txt -e '.[interop]'
    python tests/benchmarks/outcome_vs_trl.py --run runs/human-minilm

TRL learns one model per objective, from pairs, so it gets what of each objective pairs can express:
every decided pair that the run has trained on, as often; and of responses to the same prompt with
different ratings (all of TruthfulQA, few of DiaSafety) as many pairs as use each response. The
ratings of single responses (HaluEval, most of DiaSafety) make no pairs. TRL reads the same token
ids and learns at the run's learning rate, without dropout as the run does. All scorers are measured
on the held-out prompts of the run and on the benchmarks. Results go to `runs/outcome-vs-trl`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from jsonargparse import ArgumentParser
from transformers import AutoModelForSequenceClassification

from prm.data.formats import all_formats
from prm.data.mixture import Mixture
from prm.data.module import RecordDataModule
from prm.evaluation.baselines.responses import RESPONSE_BASELINES
from prm.evaluation.parts import MODEL, Part
from prm.evaluation.responses import ResponseScorer, ScoredResponses
from prm.metrics.intervals import cluster_bootstrap
from prm.records import Comparison, Outcome, Rating
from prm.scoring.scorer import RewardScorer
from prm.trees.units import ResponseSet

TRL = "trl"
BENCHMARKS = Path("configs/overlay/outcome-benchmarks.yaml")
METRIC = "pair_accuracy_half"
BATCH = 16


@dataclass(frozen=True)
class Drawn:
    """A response set of the training stream."""

    unit: ResponseSet
    source: str
    supervised: frozenset[str]


class Run:
    """A finished run: its configuration, its data and its model."""

    def __init__(self, folder: Path) -> None:
        self.config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        self.options = self.config["model"]["init_args"]
        self.scorer = RewardScorer.from_pretrained(folder / "model", device="cpu")
        self.data = _data(self.config["data"])
        self.data.setup("fit")
        self.data.setup("test")

    @cached_property
    def stream(self) -> list[ResponseSet]:
        """The response sets that the run has trained on, in order."""
        names = frozenset(self.scorer.spec.response_names)
        items = [
            Drawn(unit, unit.source, names & {n for r in unit.records for n in r.objectives})
            for unit in self.data.units["train"]
        ]
        items = [item for item in items if item.supervised]
        weights = {s.name: s.weight for s in self.data.sources["train"] if s.weight is not None}
        sampler = Mixture.of(items, names, self.data.sampling, weights).sampler(self.data.seed)
        epochs = range(self.config["trainer"]["max_epochs"])
        return [items[index].unit for epoch in epochs for index in sampler.order(epoch)]

    def ids(self, comparison: Comparison) -> list[list[int]]:
        """Return the token ids of each response of a comparison, prompt included."""
        responses = ResponseSet.of([comparison])
        tokens = self.scorer.model.builder.build(responses)
        prompt, *branches = (list(segment.input_ids) for segment in tokens.tree.segments)
        return [prompt + branches[place] for place in responses.places[0]]


def _data(config: dict[str, Any]) -> RecordDataModule:
    all_formats()
    parser = ArgumentParser()
    parser.add_subclass_arguments(RecordDataModule, "data")
    data: RecordDataModule = parser.instantiate_classes(parser.parse_object({"data": config})).data
    return data


def comparisons(units: Iterable[ResponseSet], objective: str) -> list[Comparison]:
    """Return what is known of an objective as comparisons with a better response.

    Ratings of several responses to a prompt become one ranking.
    """
    found, rated = [], {}
    for unit in units:
        for record in unit.records:
            if objective not in record.objectives:
                continue
            if isinstance(record, Rating):
                rated.setdefault((record.source, record.group), []).append(record)
            elif not record.is_tie:
                found.append(record)
    rankings = (_ranking(ratings, objective) for ratings in rated.values())
    return found + [ranking for ranking in rankings if ranking is not None]


def _ranking(ratings: Sequence[Rating], objective: str) -> Comparison | None:
    high = list(dict.fromkeys(r.response for r in ratings if r.values[objective] == 1))
    low = dict.fromkeys(r.response for r in ratings if r.values[objective] == 0)
    low = [response for response in low if response not in high]
    if not high or not low:
        return None
    first = ratings[0]
    return Comparison(
        first.prompt,
        high + low,
        [0] * len(high) + [1] * len(low),
        objective=objective,
        source=first.source,
        group=first.group,
    )


def training_pairs(run: Run, objective: str) -> list[dict[str, list[int]]]:
    """Return pairs of token ids; of a ranking as many that every response is used once or more."""
    pairs = []
    for comparison in comparisons(run.stream, objective):
        ids, num_better = run.ids(comparison), comparison.ranks.count(0)
        better, worse = ids[:num_better], ids[num_better:]
        pairs += [
            {
                "chosen_ids": better[index % len(better)],
                "rejected_ids": worse[index % len(worse)],
            }
            for index in range(max(len(better), len(worse)))
        ]
    random.Random(0).shuffle(pairs)
    return pairs


def train(run: Run, pairs: Sequence[dict[str, list[int]]], folder: Path) -> Any:
    """Train TRL's reward model on pairs of token ids."""
    from trl import RewardConfig, RewardTrainer

    tokenizer = run.scorer.model.tokenizer
    path = run.options["backbone"]["init_args"]["path"]
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    config = RewardConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=run.options["lr"],
        weight_decay=run.options["weight_decay"],
        lr_scheduler_type="linear",
        warmup_steps=run.options["schedule"]["warmup"],
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
    )
    data = Dataset.from_list(list(pairs))
    trainer = RewardTrainer(model, config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer.model.eval()


@torch.inference_mode()
def trl_scores(run: Run, model: Any, records: Sequence[Comparison]) -> np.ndarray:
    """Return TRL's score of every response of some comparisons, in order."""
    rows = [ids for record in records for ids in run.ids(record)]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = np.zeros(len(rows))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = run.scorer.model.tokenizer.pad(
            {"input_ids": [rows[index] for index in chosen]}, return_tensors="pt"
        )
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scores[chosen] = logits[:, 0].double().numpy()
    return scores


def prm_scores(run: Run, records: Sequence[Comparison], objective: str) -> np.ndarray:
    """Return the utility of every response of some comparisons, in order."""
    ratings = [Rating(r.prompt, response, {}) for r in records for response in r.responses]
    return np.array([score.utilities[objective] for score in run.scorer.score(ratings)])


def study(
    run: Run, objective: str, training: Sequence[Outcome], tests: Sequence[ResponseSet], out: Path
) -> dict[str, Any]:
    """Train TRL on an objective and measure all scorers, by source of the test pairs."""
    pairs = training_pairs(run, objective)
    started = time.perf_counter()
    model = train(run, pairs, out / objective)
    seconds = time.perf_counter() - started
    records = comparisons(tests, objective)
    scorers = [
        ResponseScorer(MODEL, prm_scores(run, records, objective)),
        ResponseScorer(TRL, trl_scores(run, model, records)),
    ]
    known = [record for record in training if objective in record.objectives]
    for kind in RESPONSE_BASELINES:
        baseline = kind(objective).fit(known)
        scorers.append(ResponseScorer(baseline.name, baseline.utilities(records)))
    scored = ScoredResponses(records, objective, scorers)
    sources = [record.source for record in records]
    parts = {
        name: scored.select(np.array([source == name for source in sources])).part(
            0, cluster_bootstrap
        )
        for name in dict.fromkeys(sources)
    }
    return {
        "trl_pairs": len(pairs),
        "trl_seconds": seconds,
        "parts": {name: _result(part) for name, part in parts.items()},
    }


def _result(part: Part) -> dict[str, Any]:
    scores = {name: asdict(metrics[METRIC]) for name, metrics in part.scores.items()}
    differences = {name: asdict(metrics[METRIC]) for name, metrics in part.differences.items()}
    return {"counts": part.counts, METRIC: scores, "prm_minus": differences}


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    names = ("objective", "test pairs", "n (prompts)", "prm", "TRL", "length only", "TF-IDF")
    names += ("prm − TRL", "prm − length only")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for objective, result in results.items():
        for source, part in result["parts"].items():
            scores, differences = part[METRIC], part["prm_minus"]
            n = f"{scores[MODEL]['n']} ({scores[MODEL]['num_groups']})"
            columns = (MODEL, TRL, "length_only", "tfidf")
            cells = [_cell(scores[name]) for name in columns]
            cells += [_cell(differences[name], "+.3f") for name in (TRL, "length_only")]
            lines.append(f"| {objective} | {source} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(interval: dict[str, Any], form: str = ".3f") -> str:
    if interval["low"] is None:
        return f"{interval['value']:{form}}"
    return f"{interval['value']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def main() -> int:
    """Compare a finished run with TRL."""
    parser = argparse.ArgumentParser(description="prm beside TRL's RewardTrainer")
    parser.add_argument("--run", type=Path, default=Path("runs/human-minilm"))
    parser.add_argument("--out", type=Path, default=Path("runs/outcome-vs-trl"))
    options = parser.parse_args()
    run = Run(options.run)
    overlay = yaml.safe_load(BENCHMARKS.read_text(encoding="utf-8"))
    benchmarks = _data({**run.config["data"], **_init(run.config["data"], overlay["data"])})
    benchmarks.setup("test")
    tests = [*run.data.units["test"], *benchmarks.units["test"]]
    training = run.data.training_records()
    results = {
        objective: study(run, objective, training, tests, options.out)
        for objective in run.scorer.spec.response_names
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    (options.out / "results.md").write_text(table(results), encoding="utf-8")
    sys.stdout.write(table(results))
    return 0


def _init(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    return {"init_args": {**base["init_args"], **overlay["init_args"]}}


if __name__ == "__main__":
    sys.exit(main())
