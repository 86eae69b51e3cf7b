"""`RewardScorer`: text in, step scores and reward out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from prm.aggregation.steps import StepAggregation, step_aggregation
from prm.data.packing import pack
from prm.data.tokenize import DroppedChain, TokenizedChain
from prm.errors import DataError
from prm.models import checkpoint
from prm.models.reward_model import ProcessRewardModel
from prm.records import Chain
from prm.spec import RewardSpec

Scorable = Chain | Mapping[str, Any] | tuple[str, Sequence[str]]

BLOCK = 1024
"""Chains whose prompts are compared, so that equal ones are computed once."""


@dataclass(frozen=True, slots=True)
class ChainScore:
    """What a model says about one chain.

    Args:
        id: The chain's id.
        step_logits: Objective to one log-odds per step; `None` for a step that was not scored
            (empty, or cut off at `max_length`).
        scores: Objective to the aggregated score of the chain, in the aggregation's unit.
        reward: The score of the spec's reward objective; `None` if no step was scored.
        aggregation: Name of the step aggregation.
        num_truncated: Steps that were cut off at `max_length`.
        reason: Why there is no reward: the chain was left out, or the model gave a NaN. Empty if
            there is one.
    """

    id: str
    step_logits: Mapping[str, tuple[float | None, ...]]
    scores: Mapping[str, float | None]
    reward: float | None
    reward_objective: str
    aggregation: str
    num_truncated: int = 0
    reason: str = ""

    @property
    def step_probabilities(self) -> dict[str, tuple[float | None, ...]]:
        """Objective to the probability of each step."""
        return {
            name: tuple(None if logit is None else _sigmoid(logit) for logit in logits)
            for name, logits in self.step_logits.items()
        }

    @property
    def probabilities(self) -> tuple[float | None, ...]:
        """Probabilities of the reward objective."""
        return self.step_probabilities[self.reward_objective]

    def first_error(self, threshold: float = 0.5) -> int | None:
        """Return the first step with a probability below `threshold`.

        Returns:
            The index, -1 if there is none, `None` if nothing was scored or steps were cut off
            before one was found.
        """
        for index, probability in enumerate(self.probabilities):
            if probability is not None and probability < threshold:
                return index
        return None if self.reason or self.num_truncated else -1

    def to_row(self, threshold: float = 0.5) -> dict[str, Any]:
        """Return the score as one JSON row; `first_error` as in the method of that name."""
        return {
            "id": self.id,
            "reward": self.reward,
            "aggregation": self.aggregation,
            "scores": dict(self.scores),
            "step_probabilities": {k: list(v) for k, v in self.step_probabilities.items()},
            "step_logits": {k: list(v) for k, v in self.step_logits.items()},
            "first_error": self.first_error(threshold),
            "num_truncated": self.num_truncated,
            "reason": self.reason,
        }


class RewardScorer:
    """Scores chains with a process reward model, exactly as training and evaluation do.

    Args:
        model: The model, with its spec.
        aggregation: Step aggregation in place of the spec's.
        max_tokens: Tokens in one forward pass; sets the memory, not the result.

    Example:
        >>> scorer = RewardScorer.from_pretrained("runs/arithmetic/model")  # doctest: +SKIP
        >>> score = scorer.score([("2 + 3 * 4 = ?", ["3 * 4 = 12", "2 + 12 = 15"])])[0]
        ... # doctest: +SKIP
        >>> score.probabilities, score.reward  # doctest: +SKIP
        ((0.97, 0.08), 0.08)
    """

    def __init__(
        self,
        model: ProcessRewardModel,
        aggregation: StepAggregation | str | None = None,
        max_tokens: int = 16384,
    ) -> None:
        self.model = model.eval()
        self.aggregation = _resolve(aggregation, model.spec)
        self.max_tokens = max_tokens

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        aggregation: StepAggregation | str | None = None,
        max_tokens: int = 16384,
    ) -> RewardScorer:
        """Load a model folder that prm wrote.

        Args:
            path: The folder.
            device: `auto` takes a GPU if there is one.
            dtype: Type of the backbone's weights; as stored if not given.
            aggregation: Step aggregation in place of the spec's.
            max_tokens: Tokens in one forward pass.

        Raises:
            SpecError: There is no spec, it is too new, or the tokenizer does not match.
            ModelError: The weights are incomplete or score differently from when they were saved.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(checkpoint.load(path, device, dtype), aggregation, max_tokens)

    @property
    def spec(self) -> RewardSpec:
        """The model's reward spec."""
        return self.model.spec

    def score(self, chains: Scorable | Iterable[Scorable]) -> list[ChainScore]:
        """Score chains.

        Args:
            chains: `Chain`s, rows with `prompt` and `completions`, or (prompt, steps) pairs; or a
                single one of them.

        Returns:
            One score per chain, in order. A chain that does not fit has a `reason` and no reward.

        Raises:
            DataError: Something is not a chain, or the spec says to stop at chains that do not fit.
        """
        many: Any = [chains] if _is_one(chains) else chains
        return list(self.stream(many))

    def stream(self, chains: Iterable[Scorable]) -> Iterator[ChainScore]:
        """Score chains block by block, in bounded memory; arguments and errors as in `score`."""
        if not isinstance(chains, Iterable):
            raise DataError("not chains", expected="an iterable of chains", got=chains)
        iterator = (_as_chain(item) for item in chains)
        while block := list(islice(iterator, BLOCK)):
            yield from self._score_block(block)

    def _score_block(self, chains: Sequence[Chain]) -> list[ChainScore]:
        tokenized = list(self.model.builder.build_all(chains))
        fitting = {
            index: tokens
            for index, tokens in enumerate(tokenized)
            if isinstance(tokens, TokenizedChain)
        }
        logits: dict[int, list[list[float]]] = {}
        for members in plan_packs(fitting, self.max_tokens):
            logits |= self._forward(members, [fitting[index] for index in members])
        return [
            self._result(chain, tokens, logits.get(index, []))
            for index, (chain, tokens) in enumerate(zip(chains, tokenized, strict=True))
        ]

    @torch.inference_mode()
    def _forward(
        self, members: Sequence[int], tokenized: Sequence[TokenizedChain]
    ) -> dict[int, list[list[float]]]:
        """Return chain index to log-odds, read by read and objective by objective."""
        device = next(self.model.heads.parameters()).device
        trees = pack([tokens.tree for tokens in tokenized])
        columns = self.model(trees.to(device)).columns
        values = (
            self.model.step_logits(columns)
            .cpu()
            .split([tokens.tree.num_reads for tokens in tokenized])
        )
        return {index: part.tolist() for index, part in zip(members, values, strict=True)}

    def _result(
        self,
        chain: Chain,
        tokens: TokenizedChain | DroppedChain,
        logits: Sequence[Sequence[float]],
    ) -> ChainScore:
        steps = tokens.steps if isinstance(tokens, TokenizedChain) else ()
        finite = {
            step: values
            for step, values in zip(steps, logits, strict=True)
            if all(map(math.isfinite, values))
        }
        reason = str(tokens) if isinstance(tokens, DroppedChain) else ""
        if len(finite) < len(steps):
            num_lost = len(steps) - len(finite)
            reason = f"the model gave no finite number for {num_lost} steps; try float32"
        step_logits = {
            objective.name: tuple(
                finite[step][column] if step in finite else None
                for step in range(len(chain.completions))
            )
            for column, objective in enumerate(self.spec.objectives)
        }
        scores = {
            name: None if reason else aggregate(self.aggregation, values)
            for name, values in step_logits.items()
        }
        return ChainScore(
            id=chain.id,
            step_logits=step_logits,
            scores=scores,
            reward=scores[self.spec.reward_objective],
            reward_objective=self.spec.reward_objective,
            aggregation=self.aggregation.name,
            num_truncated=tokens.num_truncated if isinstance(tokens, TokenizedChain) else 0,
            reason=reason,
        )


def aggregate(aggregation: StepAggregation, logits: Sequence[float | None]) -> float | None:
    """Aggregate one chain's log-odds; `None` if no step has one.

    Example:
        >>> from prm.aggregation.steps import Last
        >>> aggregate(Last(), [2.0, 0.0, None])
        0.5
    """
    present = [logit for logit in logits if logit is not None]
    if not present:
        return None
    return float(aggregation(torch.tensor(present, dtype=torch.float64)))


def plan_packs(chains: Mapping[int, TokenizedChain], max_tokens: int) -> list[list[int]]:
    """Group chains into forward passes: equal prompts together, at most `max_tokens` each.

    A chain that is longer than `max_tokens` gets a pass of its own.
    """
    families: dict[tuple[int, ...], list[int]] = {}
    for index, tokens in chains.items():
        families.setdefault(tokens.tree.segments[0].input_ids, []).append(index)
    packs: list[list[int]] = []
    room = 0
    for prompt, members in sorted(families.items(), key=lambda item: -len(item[0])):
        paid = False
        for index in members:
            branch = chains[index].tree.num_tokens - len(prompt)
            cost = branch + (0 if paid else len(prompt))
            if not packs or cost > room:
                packs.append([])
                room, cost = max_tokens, branch + len(prompt)
            packs[-1].append(index)
            room -= cost
            paid = True
    return packs


def _resolve(aggregation: StepAggregation | str | None, spec: RewardSpec) -> StepAggregation:
    if aggregation is None:
        return spec.step_aggregation
    return step_aggregation(aggregation) if isinstance(aggregation, str) else aggregation


def _is_one(chains: object) -> bool:
    return isinstance(chains, Chain | Mapping) or (
        isinstance(chains, tuple) and len(chains) == 2 and isinstance(chains[0], str)
    )


def _as_chain(item: object) -> Chain:
    if isinstance(item, Chain):
        return item
    if isinstance(item, Mapping) and "prompt" in item and "completions" in item:
        return Chain(item["prompt"], item["completions"], id=str(item.get("id", "")))
    if isinstance(item, tuple) and len(item) == 2:
        return Chain(item[0], item[1])
    raise DataError(
        "not a chain", expected="a Chain, a row with prompt and completions, or a pair", got=item
    )


def _sigmoid(logit: float) -> float:
    return float(torch.tensor(logit, dtype=torch.float64).sigmoid())
