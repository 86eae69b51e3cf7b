"""The models that a server holds, by name."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from prm.aggregation import objectives, steps
from prm.errors import ConfigError, DataError, PrmError
from prm.records import Chain, Rating
from prm.scores.reaggregate import with_aggregations
from prm.scoring.scorer import RewardScorer, as_records
from prm.serve.batching import Batcher
from prm.serve.errors import TooLargeError, UnknownModelError
from prm.serve.metrics import ServerMetrics
from prm.serve.options import ServeOptions
from prm.serve.work import RawColumns, Request, Scoring
from prm.spec import RewardSpec
from prm.trees.tree import Segment, TokenTree

logger = logging.getLogger(__name__)


class ServedModel:
    """A model that is served: its scorer, and the aggregations that are in force.

    Args:
        name: The name that requests choose it by.
        scorer: What scores; nothing else may use its model.
        options: Limits of the server.
        metrics: What counts the work.
    """

    def __init__(
        self, name: str, scorer: RewardScorer, options: ServeOptions, metrics: ServerMetrics
    ) -> None:
        self.name = name
        self.scorer = scorer
        self.spec = scorer.spec
        self.version = 0
        self.metrics = metrics.of_model(name)
        self.batcher = Batcher(scorer, options, self.metrics.count_pass)
        self.metrics.watch(
            lambda: self.batcher.num_waiting,
            lambda: self.version,
            {name: partial(self._weight, name) for name in self.spec.response_names},
        )

    def _weight(self, name: str) -> float:
        return self.weights.get(name, math.nan)

    async def score(
        self,
        records: Sequence[Chain | Rating],
        *,
        spec: RewardSpec | None = None,
        applicable: Sequence[Collection[str] | None] | None = None,
    ) -> list[Any]:
        """Score records, batched with those of other requests.

        Args:
            records: Chains or ratings.
            spec: The model's spec with other aggregations than those in force.
            applicable: For each record, the objectives that mean something for it.

        Returns:
            One `ChainScore` or `ResponseScore` per record, in order.

        Raises:
            ModelError: The model does not score such records.
            DataError: A record does not fit and the spec says to stop, or `applicable` is wrong.
            ServeError: As `Batcher.stream`.
        """
        work = Scoring(self.scorer, spec or self.spec, self.metrics)
        return await self.batcher.run(work, self._requests(records, applicable))

    def stream(
        self,
        records: Sequence[Chain | Rating],
        *,
        spec: RewardSpec | None = None,
        applicable: Sequence[Collection[str] | None] | None = None,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """Yield the index and score of each record when it is there; otherwise as `score`."""
        work = Scoring(self.scorer, spec or self.spec, self.metrics)
        return self.batcher.stream(work, self._requests(records, applicable))

    async def columns(
        self, ids: Sequence[Sequence[int]], reads: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Return what the heads say about tokenized inputs, without any aggregation.

        Args:
            ids: Token ids of each input, at least one, each in the tokenizer's range.
            reads: Positions in each input at which the heads are read, ascending.

        Returns:
            The raw columns of each input, shape `[read, column]`, float32.

        Raises:
            DataError: Ids or positions are out of range.
            TooLargeError: An input is longer than the model's `max_length`.
            ServeError: As `Batcher.stream`.
        """
        trees = [self._tree(*item) for item in zip(ids, reads, strict=True)]
        return await self.batcher.run(RawColumns(), trees)

    def aggregated(
        self,
        step_aggregation: str | Mapping[str, Any] | None = None,
        objective_aggregation: str | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        shaping: Mapping[str, Any] | None = None,
    ) -> RewardSpec:
        """Return the spec in force with other aggregations, where they are given.

        Args:
            step_aggregation: A name, or a name with parameters: `{"name": "softmin", "beta": 5}`.
            objective_aggregation: Likewise, or as in `configs/aggregation`.
            overrides: Parameters of the objective aggregation: `{"weights.safety": 2}`.
            shaping: Fields of the shaping to change: `{"clip": [-5, 5]}`.

        Raises:
            ConfigError: There is no such aggregation or parameter, or it does not fit the model.
        """
        if (step_aggregation, objective_aggregation) == (None, None) and not (overrides or shaping):
            return self.spec
        try:
            spec = self._aggregated(step_aggregation, objective_aggregation, overrides)
            return spec.with_(shaping=spec.shaping.changed(shaping or {}))
        except PrmError:
            raise
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError("parameters of the aggregation are wrong", got=str(error)) from None

    def set_aggregation(
        self,
        step_aggregation: str | Mapping[str, Any] | None = None,
        objective_aggregation: str | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        shaping: Mapping[str, Any] | None = None,
    ) -> int:
        """Put aggregations in force for requests that come from now on, and return their version.

        Arguments and errors as of `aggregated`.
        """
        spec = self.aggregated(step_aggregation, objective_aggregation, overrides, shaping)
        if spec != self.spec:
            self.spec = spec
            self.version += 1
            logger.info("aggregation", extra={"data": {"model": self.name, **self.in_force()}})
        return self.version

    def in_force(self, spec: RewardSpec | None = None) -> dict[str, Any]:
        """Return the aggregations of a spec, by default of the one in force, as JSON."""
        spec = spec or self.spec
        chosen = spec.objective_aggregation
        return {
            "step_aggregation": steps.to_dict(spec.step_aggregation) if spec.step_heads else None,
            "objective_aggregation": None if chosen is None else objectives.to_dict(chosen),
            "shaping": asdict(spec.shaping),
            "version": self.version,
        }

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of the objectives in force; none for an aggregation that is not linear."""
        chosen = self.spec.objective_aggregation
        return (chosen and chosen.linear_weights(self.spec.response_names)) or {}

    def _aggregated(
        self,
        step_aggregation: str | Mapping[str, Any] | None,
        objective_aggregation: str | Mapping[str, Any] | None,
        overrides: Mapping[str, Any] | None,
    ) -> RewardSpec:
        names = self.spec.response_names
        of_steps = None if step_aggregation is None else steps.named_aggregation(step_aggregation)
        chosen = self.spec.objective_aggregation
        if objective_aggregation is not None:
            chosen = objectives.from_config(objective_aggregation)
        if overrides and chosen is None:
            raise ConfigError("the model has no objectives of responses to aggregate")
        if overrides and chosen is not None:
            chosen = chosen.with_overrides(overrides, names)
        changed = None if chosen == self.spec.objective_aggregation else chosen
        spec = with_aggregations(self.spec, of_steps, changed)
        if changed is not None and changed.needs_gates and self.scorer.model.gate is None:
            raise ConfigError(f"{changed.name} needs a model with a gate")
        return spec

    def _requests(
        self,
        records: Sequence[Chain | Rating],
        applicable: Sequence[Collection[str] | None] | None,
    ) -> list[Request]:
        chosen = applicable or [None] * len(records)
        for names in chosen:
            self._check_names(names or ())
        checked = as_records(records, self.spec)
        return [Request(*pair) for pair in zip(checked, chosen, strict=True)]

    def _check_names(self, names: Collection[str]) -> None:
        known = {head.name for head in self.spec.heads}
        unknown = sorted(set(names) - known)
        if unknown:
            raise DataError(
                "no such objective to apply",
                expected=f"some of {', '.join(sorted(known))}",
                got=", ".join(unknown),
            )

    def _tree(self, ids: Sequence[int], reads: Sequence[int]) -> TokenTree:
        if len(ids) > self.spec.max_length:
            limit = f"at most {self.spec.max_length:,} tokens"
            raise TooLargeError("an input is too long", expected=limit, got=len(ids))
        size = len(self.scorer.model.tokenizer)
        if not ids or min(ids) < 0 or max(ids) >= size:
            expected = f"one or more of 0 to {size - 1}"
            raise DataError("token ids are wrong", expected=expected, got=list(ids))
        if list(reads) != sorted(set(reads)) or not reads or reads[0] < 0 or reads[-1] >= len(ids):
            expected = f"one or more positions of 0 to {len(ids) - 1}, ascending"
            raise DataError("positions to read are wrong", expected=expected, got=list(reads))
        return TokenTree((Segment(tuple(ids), -1, tuple(reads)),))


class ModelPool:
    """The served models by name.

    Args:
        scorers: Name to scorer, at least one; the first is taken for requests that name none.
        options: Limits of the server.

    Raises:
        ConfigError: There is no model.
    """

    def __init__(
        self, scorers: Mapping[str, RewardScorer], options: ServeOptions | None = None
    ) -> None:
        if not scorers:
            raise ConfigError("there is no model to serve")
        self.options = options or ServeOptions()
        self.metrics = ServerMetrics(self.options.reward_range)
        self._models = {
            name: ServedModel(name, scorer, self.options, self.metrics)
            for name, scorer in scorers.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in order."""
        return tuple(self._models)

    def get(self, name: str | None = None) -> ServedModel:
        """Return a model; the first one if no name is given.

        Raises:
            UnknownModelError: There is no model of this name.
        """
        found = self._models.get(self.names[0] if name is None else name)
        if found is None:
            raise UnknownModelError(
                "no such model is served", expected=" | ".join(self.names), got=name
            )
        return found

    @property
    def is_alive(self) -> bool:
        """Whether all models can score."""
        return all(model.batcher.is_alive for model in self._models.values())

    def close(self) -> None:
        """Stop the models' threads after the passes that they run."""
        for model in self._models.values():
            model.batcher.close()
