"""`ChainScore`: what a model says about the steps of one chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from prm.aggregation.steps import StepAggregation
from prm.records import Chain
from prm.scores.rows import ChainRow, record_columns, row_of
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain


@dataclass(frozen=True, slots=True)
class ChainScore:
    """What a model says about one chain.

    Args:
        id: The chain's id.
        step_logits: Objective to one log-odds per step; `None` for a step that was not scored
            (empty, or cut off at `max_length`).
        scores: Objective to the aggregated score of the chain, in the aggregation's unit.
        reward: The score of the spec's reward objective, shaped as the spec says; `None` if no step
            was scored.
        aggregation: Name of the step aggregation.
        num_truncated: Steps that were cut off at `max_length`.
        reason: Why there is no reward: the chain was left out, or the model gave a NaN. Empty if
            there is one.
        group: Chains with the same group answer the same problem.
    """

    id: str
    step_logits: Mapping[str, tuple[float | None, ...]]
    scores: Mapping[str, float | None]
    reward: float | None
    reward_objective: str
    aggregation: str
    num_truncated: int = 0
    reason: str = ""
    group: str = ""

    gates: ClassVar[Mapping[str, float | None] | None] = None

    @property
    def utilities(self) -> Mapping[str, float | None]:
        """Objective to the score of which more is better: the aggregated one."""
        return self.scores

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
        return row_of(ChainRow, self, first_error=self.first_error(threshold))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], spec: RewardSpec) -> ChainScore:
        """Return the score that `to_row` wrote.

        Args:
            row: The row.
            spec: The spec that the chain was scored with.

        Raises:
            KeyError: A field is missing.
        """
        stored = {field.name: row[field.name] for field in fields(cls) if field.name in _COLUMNS}
        logits = {name: tuple(values) for name, values in stored["step_logits"].items()}
        return cls(**{**stored, "step_logits": logits}, reward_objective=spec.chain_reward)


_COLUMNS = ChainRow.__annotations__


def score_chain(
    chain: Chain,
    tokens: TokenizedChain | DroppedRecord,
    logits: Sequence[Sequence[float]],
    spec: RewardSpec,
) -> ChainScore:
    """Return the score of a chain.

    Args:
        chain: The chain.
        tokens: What the model read of it, or why it was left out.
        logits: Log-odds, read by read and step objective by step objective.
        spec: The model's spec.
    """
    steps: tuple[int, ...] = ()
    num_truncated, reason = 0, ""
    if isinstance(tokens, DroppedRecord):
        reason = str(tokens)
    else:
        steps, num_truncated = tokens.steps, tokens.num_truncated
    finite = {
        step: values
        for step, values in zip(steps, logits, strict=True)
        if all(map(math.isfinite, values))
    }
    if len(finite) < len(steps):
        num_lost = len(steps) - len(finite)
        reason = f"the model gave no finite number for {num_lost} steps; try float32"
    step_logits = {
        objective.name: tuple(
            finite[step][column] if step in finite else None
            for step in range(len(chain.completions))
        )
        for column, objective in enumerate(spec.step_heads)
    }
    score = ChainScore(
        step_logits=step_logits,
        scores=dict.fromkeys(step_logits),
        reward=None,
        reward_objective=spec.chain_reward,
        aggregation=spec.step_aggregation.name,
        num_truncated=num_truncated,
        reason=reason,
        **record_columns(chain),
    )
    return aggregated_chain(score, spec)


def aggregated_chain(score: ChainScore, spec: RewardSpec) -> ChainScore:
    """Return a chain's score with its steps aggregated as a spec says; its log-odds stay.

    Args:
        score: The score; one with a reason gets no reward.
        spec: The spec, with the step aggregation that is wanted.
    """
    scores = {
        name: None if score.reason else aggregate(spec.step_aggregation, logits)
        for name, logits in score.step_logits.items()
    }
    return replace(
        score,
        scores=scores,
        reward=_shaped(scores[spec.chain_reward], spec),
        reward_objective=spec.chain_reward,
        aggregation=spec.step_aggregation.name,
    )


def _shaped(score: float | None, spec: RewardSpec) -> float | None:
    if score is None:
        return None
    return float(spec.shaping(torch.tensor(score, dtype=torch.float64)))


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


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)
