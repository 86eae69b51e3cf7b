"""Scorers whose forward pass runs in vLLM or SGLang, on a folder that `prm export` wrote.

The engine is asked for raw head columns of token ids. What comes before, template and tokenization,
and what comes after, readouts, normalizers and aggregation, is done here and by the spec, so the
scores are those of `RewardScorer` whatever the engine would make of texts and activations.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation
from prm.connection import Connection, OnError, send_all
from prm.errors import ConfigError, ModelError, RemoteError
from prm.models.sources import load_tokenizer
from prm.records import Chain, Rating
from prm.scores.reaggregate import with_aggregations
from prm.scoring.replies import is_finite
from prm.scoring.scorer import Scorable, as_records, is_one_record
from prm.scoring.stages import Score, Tokenized, finish
from prm.spec import RewardSpec
from prm.trees.identity import check_identity
from prm.trees.tokenize import TreeBuilder
from prm.trees.tree import flat_path
from prm.trees.units import unit_of

BATCH = 32
"""Sequences in one request."""

Read = tuple[list[int], list[int]]
"""Token ids, and the positions that the head is read at."""


class EngineScorer:
    """Base of the scorers on engines; subclasses say how their engine is asked.

    Before the first scores, the engine is asked for those of the texts whose scores are stored in
    the spec. It pickles as its arguments and may be shared by threads.

    Args:
        url: Address of the engine, `http://host:port`.
        folder: The folder that the engine serves, or a copy without weights: tokenizer files and
            `prm_config.json` are read.
        model: Name under which the engine serves it; the folder as given, if not given.
        token: The engine's API key.
        timeout: Seconds that a request may take.
        retries: Further tries of a request that fails or is put off.
        on_error: Whether a record that cannot be scored raises or gets `None`. With `none`, what
            went wrong is logged.
        step_aggregation: Step aggregation in place of the spec's.
        objective_aggregation: Objective aggregation in place of the spec's.

    Raises:
        SpecError: The folder has no spec, or its tokenizer is another.
        ConfigError: An argument is wrong, or the aggregation needs gates, which no engine computes.
        ModelError: The engine cannot serve a model of this kind.
    """

    kinds: ClassVar[tuple[str, ...]] = ("process", "outcome", "joint")

    def __init__(
        self,
        url: str,
        folder: str | Path,
        model: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        on_error: OnError = "raise",
        step_aggregation: StepAggregation | str | None = None,
        objective_aggregation: ObjectiveAggregation | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.model = str(folder) if model is None else model
        self.on_error = on_error
        self.spec = with_aggregations(
            RewardSpec.load(self.folder), step_aggregation, objective_aggregation
        )
        self._check()
        self._connection = Connection(url, token=token, timeout=timeout, retries=retries)
        self._lock = threading.Lock()
        self._is_checked = False
        check_identity(self._tokenizer, self.spec)

    def _check(self) -> None:
        if self.spec.kind not in self.kinds:
            raise ModelError(
                f"{type(self).__name__} cannot score with this model",
                expected=f"a model of kind {' or '.join(self.kinds)}",
                got=self.spec.kind,
                where=str(self.folder),
                fix="Serve it with vLLM or `prm serve`",
            )
        chosen = self.spec.objective_aggregation
        if chosen is not None and chosen.needs_gates:
            raise ConfigError(
                f"{chosen.name} needs gates, which engines do not compute",
                fix="Choose another aggregation, or serve the model with `prm serve`",
            )

    @cached_property
    def _builder(self) -> TreeBuilder:
        return TreeBuilder(self._tokenizer, self.spec)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.folder))

    def score(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        """Score chains or responses; arguments as `RewardScorer.score`.

        Returns:
            One `ChainScore` or `ResponseScore` per record, in order, or `None` where the engine
            gave no numbers and `on_error` is `none`.

        Raises:
            RemoteError: The engine does not answer, or with numbers that cannot be this model's.
            ModelError: It scores stored texts differently from when the model was saved.
            PrmError: A record cannot be scored, as in `RewardScorer.score`.
        """
        items = self._tokenize(records)
        return self._finish(items, self._connection.run(self._fetch_checked(items, self._golden)))

    async def score_async(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        """Like `score`, without blocking the event loop."""
        items = await asyncio.to_thread(self._tokenize, records)
        fetched = self._fetch_checked(items, self._golden)
        return self._finish(items, await self._connection.awaited(fetched))

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("_builder", "_tokenizer", "_golden", "_lock")
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _tokenize(self, records: Scorable | Iterable[Scorable]) -> list[Tokenized]:
        many: Any = [records] if is_one_record(records) else records
        units = [unit_of([record]) for record in as_records(many, self.spec)]
        with self._lock:  # a tokenizer holds settings, and may not be used by two threads
            built = list(self._builder.build_all(units))
        return [Tokenized((0,), *pair) for pair in zip(units, built, strict=True)]

    @cached_property
    def _golden(self) -> list[Tokenized]:
        """The texts whose scores are stored in the spec."""
        chains = [Chain(old.prompt, old.completions) for old in self.spec.golden_chains]
        ratings = [Rating(old.prompt, old.response) for old in self.spec.golden_responses]
        return self._tokenize([*chains, *ratings])

    async def _fetch_checked(
        self, items: Sequence[Tokenized], golden: Sequence[Tokenized]
    ) -> list[Tensor | None]:
        """Return the columns of each record, after those of the golden texts, at the first time."""
        if not self._is_checked:
            found = await self._fetch(golden)
            if None not in found:
                self._compare(self._finish(golden, found))
                self._is_checked = True
        return await self._fetch(items)

    def _compare(self, scores: Sequence[Any]) -> None:
        """Compare the scores of the golden texts with those in the spec.

        Raises:
            ModelError: One differs by more than half precision can.
        """
        pairs: list[tuple[Mapping[str, Any], str]]
        pairs = [(old.step_logits, "step_logits") for old in self.spec.golden_chains]
        pairs += [(old.scores, "scores") for old in self.spec.golden_responses]
        for (expected, field), score in zip(pairs, scores, strict=True):
            got = getattr(score, field)
            if not all(_is_close(got[name], value) for name, value in expected.items()):
                raise ModelError(
                    "the engine does not score as the saved model did",
                    expected=str(expected),
                    got=str(got),
                    where=self._connection.url,
                    fix=f"Does it serve {self.folder}, and no other checkpoint?",
                )

    async def _fetch(self, items: Sequence[Tokenized]) -> list[Tensor | None]:
        """Return the columns of each record; none for one that was left out."""
        reads = [flat_path(item.tree) for item in items if item.tree is not None]
        fetched = iter(await send_all(reads, self._send, BATCH, self.on_error))
        nothing = torch.zeros(0, self.spec.num_columns)
        return [nothing if item.tree is None else next(fetched) for item in items]

    def _finish(
        self, items: Sequence[Tokenized], found: Sequence[Tensor | None]
    ) -> list[Score | None]:
        return [
            None if columns is None else finish(item, columns, self.spec)[0]
            for item, columns in zip(items, found, strict=True)
        ]

    async def _send(self, reads: Sequence[Read]) -> list[Tensor]:
        """Return the columns `[read, column]` of each sequence."""
        raise NotImplementedError

    def _rows(self, found: Any, count: int) -> list[Any]:
        if not isinstance(found, list) or len(found) != count:
            raise self._wrong(f"{count} results, one per sequence", found)
        return found

    def _columns(self, rows: object) -> Tensor:
        """Return rows of numbers as `[row, column]`, if they are as wide as the model's head."""
        width = self.spec.num_columns
        fits = isinstance(rows, list) and all(
            isinstance(row, list) and len(row) == width and all(map(is_finite, row)) for row in rows
        )
        if not fits:
            names = [name for objective in self.spec.heads for name in objective.column_names]
            raise self._wrong(f"{width} finite numbers per row ({', '.join(names)})", rows)
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, width)

    def _wrong(self, expected: str, got: object) -> RemoteError:
        return RemoteError(
            "the engine's answer cannot be right",
            expected=expected,
            got=got,
            where=self._connection.url,
            fix=f"Does it serve {self.folder} as the documentation says?",
        )


class VllmScorer(EngineScorer):
    """Scores with a model that `vllm serve FOLDER --runner pooling` serves; as `EngineScorer`.

    Outcome models are asked through `/classify`, models with step objectives through `/pooling`,
    which gives a row per token, or per step marker where the engine pools by STEP.

    Example:
        >>> scorer = VllmScorer("http://localhost:8000", "exported/replies")  # doctest: +SKIP
        >>> scorer.score([("What is 2 + 2?", "4")])[0].reward  # doctest: +SKIP
        1.25
    """

    async def _send(self, reads: Sequence[Read]) -> list[Tensor]:
        body = {"model": self.model, "input": [ids for ids, _ in reads], "use_activation": False}
        if self.spec.kind == "outcome":
            found = await self._connection.request("POST", "/classify", body)
            return [self._columns([row.get("probs")]) for row in self._data(found, len(reads))]
        body |= {"task": "token_classify", "encoding_format": "float"}
        found = await self._connection.request("POST", "/pooling", body)
        return [
            self._at_reads(row.get("data"), read)
            for row, read in zip(self._data(found, len(reads)), reads, strict=True)
        ]

    def _data(self, found: Any, count: int) -> list[Any]:
        rows = self._rows(found.get("data") if isinstance(found, dict) else None, count)
        if [row.get("index") if isinstance(row, dict) else None for row in rows] != [*range(count)]:
            raise self._wrong(f"results 0 to {count - 1} in order", rows)
        return rows

    def _at_reads(self, rows: object, read: Read) -> Tensor:
        columns, (ids, positions) = self._columns(rows), read
        if len(columns) == len(ids):
            return columns[positions]
        if len(columns) == len(positions):
            return columns
        raise self._wrong(
            f"{len(ids)} rows, one per token, or {len(positions)}, one per step", len(columns)
        )


class SglangScorer(EngineScorer):
    """Scores with an outcome model that `sglang.launch_server --is-embedding` serves.

    Arguments as for `EngineScorer`; `model` is not sent, as the engine serves only one. SGLang has
    no classes that read steps.
    """

    kinds = ("outcome",)

    async def _send(self, reads: Sequence[Read]) -> list[Tensor]:
        body = {"input_ids": [ids for ids, _ in reads]}
        found = await self._connection.request("POST", "/classify", body)
        return [
            self._columns([row.get("embedding") if isinstance(row, dict) else None])
            for row in self._rows(found, len(reads))
        ]


def _is_close(got: Any, stored: Any) -> bool:
    """Whether numbers are equal up to what half precision may change."""
    return bool(np.allclose(np.array(got, float), np.array(stored, float), rtol=0.2, atol=0.2))
