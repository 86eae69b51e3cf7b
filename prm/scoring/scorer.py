"""`RewardScorer`: text in, scores and reward out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation
from prm.data.sources.memory import is_table, memory_rows
from prm.errors import ConfigError, DataError, ModelError
from prm.models import checkpoint
from prm.models.reward_model import ModelOutput, RewardModel
from prm.records import Chain, Comparison, Rating
from prm.scores.reaggregate import with_aggregations
from prm.scoring.stages import Score, finish, tokenize
from prm.spec import RewardSpec, Shaping
from prm.trees.packing import pack, plan_packs
from prm.trees.tokenize import TreeBuilder
from prm.trees.tree import TokenTree

Scorable = Chain | Rating | Mapping[str, Any] | tuple[str, Sequence[str]] | tuple[str, str]

BLOCK = 1024
"""Records whose prompts are compared, so that equal ones are computed once."""


class RewardScorer:
    """Scores chains or responses with a reward model, exactly as training and evaluation do.

    Args:
        model: The model, with its spec.
        step_aggregation: Step aggregation in place of the spec's.
        max_tokens: Tokens in one forward pass; sets the memory, not the result.
        objective_aggregation: Objective aggregation in place of the spec's.
        shaping: Shaping of the reward in place of the spec's.

    Raises:
        ConfigError: An aggregation is given that the model has no use for, or that does not fit
            its objectives.

    Example:
        >>> scorer = RewardScorer.from_pretrained("runs/arithmetic/model")  # doctest: +SKIP
        >>> score = scorer.score([("2 + 3 * 4 = ?", ["3 * 4 = 12", "2 + 12 = 15"])])[0]
        ... # doctest: +SKIP
        >>> score.probabilities, score.reward  # doctest: +SKIP
        ((0.97, 0.08), 0.08)
    """

    def __init__(
        self,
        model: RewardModel,
        step_aggregation: StepAggregation | str | None = None,
        max_tokens: int = 16384,
        objective_aggregation: ObjectiveAggregation | None = None,
        shaping: Shaping | None = None,
    ) -> None:
        self.model = model.eval()
        self.max_tokens = max_tokens
        self.spec = with_aggregations(model.spec, step_aggregation, objective_aggregation, shaping)
        self._check_gate()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        step_aggregation: StepAggregation | str | None = None,
        max_tokens: int = 16384,
        objective_aggregation: ObjectiveAggregation | None = None,
        shaping: Shaping | None = None,
    ) -> RewardScorer:
        """Load a model folder that prm wrote.

        Args:
            path: The folder.
            device: `auto` takes a GPU if there is one.
            dtype: Type of the backbone's weights; as stored if not given.
            step_aggregation: Step aggregation in place of the spec's.
            max_tokens: Tokens in one forward pass.
            objective_aggregation: Objective aggregation in place of the spec's.
            shaping: Shaping of the reward in place of the spec's.

        Raises:
            SpecError: There is no spec, it is too new, or the tokenizer does not match.
            ModelError: The weights are incomplete or score differently from when they were saved.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = checkpoint.load(path, device, dtype)
        return cls(model, step_aggregation, max_tokens, objective_aggregation, shaping)

    def _check_gate(self) -> None:
        chosen = self.spec.objective_aggregation
        if chosen is not None and chosen.needs_gates and self.model.gate is None:
            raise ConfigError(
                f"{chosen.name} needs a model with a gate",
                fix="Learn one with `prm gate`, or choose another aggregation",
            )

    @property
    def builder(self) -> TreeBuilder:
        """What turns chains and responses into token trees."""
        return self.model.builder

    @property
    def step_aggregation(self) -> StepAggregation:
        """How the steps of a chain become one score."""
        return self.spec.step_aggregation

    def score(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        """Score chains or responses.

        Args:
            records: `Chain`s or `Rating`s, rows with `prompt` and `completions` or `response` (in a
                list, a `datasets.Dataset` or a table), (prompt, steps) or (prompt, response) pairs;
                or a single one of them.

        Returns:
            One `ChainScore` or `ResponseScore` per record, in order. One that does not fit has a
            `reason` and no reward.

        Raises:
            DataError: Something is neither, or the spec says to stop at what does not fit.
            ModelError: The model has no heads for this kind of record.
        """
        many: Any = [records] if is_one_record(records) else records
        return list(self.stream(many))

    def stream(self, records: Iterable[Scorable]) -> Iterator[Any]:
        """Score records block by block, in bounded memory; arguments and errors as in `score`."""
        iterator = as_records(records, self.spec)
        while block := list(islice(iterator, BLOCK)):
            yield from self._score_block(block)

    def _score_block(self, records: Sequence[Chain | Rating]) -> list[Score]:
        items = tokenize(self.builder, records, self.max_tokens)
        outputs = self.outputs([item.tree for item in items])
        found: dict[int, Score] = {}
        for item, output in zip(items, outputs, strict=True):
            scores = finish(item, output.columns, self.spec, output.gates)
            found |= dict(zip(item.places, scores, strict=True))
        return [found[index] for index in range(len(records))]

    @torch.inference_mode()
    def outputs(self, trees: Sequence[TokenTree | None]) -> list[ModelOutput]:
        """Return what the model gives at the reads of each tree, on the CPU; empty without one."""
        outputs = [self._nothing for _ in trees]
        for members in plan_packs(trees, self.max_tokens):
            chosen = [tree for index in members if (tree := trees[index]) is not None]
            output = self.model(pack(chosen).to(self.model.device))
            parts = output.at_reads([tree.num_reads for tree in chosen])
            for index, part in zip(members, parts, strict=True):
                outputs[index] = part
        return outputs

    @property
    def _nothing(self) -> ModelOutput:
        """What stands for the output of a record that was left out."""
        gates = torch.zeros(0, len(self.spec.response_names))
        return ModelOutput(torch.zeros(0, self.spec.num_columns), None, gates)


def as_records(records: Iterable[Scorable], spec: RewardSpec) -> Iterator[Chain | Rating]:
    """Yield what `RewardScorer.score` is given, as the records that a model of the spec scores.

    Raises:
        DataError: Something is neither a chain nor a response.
        ModelError: The model has no heads for this kind of record.
    """
    if is_table(records):
        records = (row for row, _ in memory_rows(records))
    if not isinstance(records, Iterable):
        raise DataError("not records", expected="an iterable", got=records)
    return (_checked(_as_record(item), spec) for item in records)


def is_one_record(records: object) -> bool:
    """Whether `RewardScorer.score` is given a single record."""
    return isinstance(records, Chain | Rating | Mapping) or (
        isinstance(records, tuple) and len(records) == 2 and isinstance(records[0], str)
    )


def _checked(record: Chain | Rating, spec: RewardSpec) -> Chain | Rating:
    if not spec.has_heads_for(record):
        raise ModelError(
            f"the model does not score {'whole responses' if spec.step_heads else 'steps'}",
            expected=f"records for a model of kind {spec.kind}",
            got=f"a {type(record).__name__.lower()}",
        )
    return record


def _as_record(item: object) -> Chain | Rating:
    if isinstance(item, Chain | Rating):
        return item
    if isinstance(item, Mapping) and "prompt" in item and "completions" in item:
        return Chain(item["prompt"], item["completions"], id=str(item.get("id", "")))
    if isinstance(item, Mapping) and "prompt" in item and "response" in item:
        return Rating(item["prompt"], item["response"], id=str(item.get("id", "")))
    if isinstance(item, tuple) and len(item) == 2:
        is_response = isinstance(item[1], str)
        return Rating(item[0], item[1]) if is_response else Chain(item[0], item[1])
    raise DataError(
        "this cannot be scored",
        expected="a Chain or Rating, a row with prompt and completions or response, or a pair",
        got=item,
        fix="Score each response of a comparison" if isinstance(item, Comparison) else None,
    )
