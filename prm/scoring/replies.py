"""What `prm serve` answers, checked: a score is right as a whole, or it is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prm.errors import RemoteError
from prm.records import Chain, Rating
from prm.scores.chains import ChainScore
from prm.scores.responses import ResponseScore
from prm.scoring.stages import Score
from prm.spec import RewardSpec


@dataclass(frozen=True, slots=True)
class ScoredStep:
    """A step of a response and what the model says about it.

    Args:
        index: Its place among the steps.
        text: The step.
        start: Index of its first character in the response; `None` if steps were given.
        end: Index after its last character; likewise.
        probabilities: Step objective to probability; `None` if the step was not scored.
    """

    index: int
    text: str
    start: int | None
    end: int | None
    probabilities: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ScoredSteps:
    """The steps of one response, and the score of the whole.

    Args:
        steps: The steps.
        first_error: Index of the first step below the threshold, -1 if there is none, `None` if it
            is not known.
        reward: The aggregated score of the reward objective; `None` if there is none.
        scores: Step objective to aggregated score.
        aggregation: Name of the step aggregation.
        num_truncated: Steps that were cut off at `max_length`.
        reason: Why there is no reward. Empty if there is one.
    """

    steps: tuple[ScoredStep, ...]
    first_error: int | None
    reward: float | None
    scores: Mapping[str, float | None]
    aggregation: str
    num_truncated: int
    reason: str


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """A candidate in a ranking.

    Args:
        index: Its place among the candidates that were sent.
        rank: 0 for the best; `None` without a reward.
        margin: Its reward minus that of the next; `None` if there is none.
        win_probability: Probability that it is really better than the next; `None` if unknown.
        score: What the model says about it.
    """

    index: int
    rank: int | None
    margin: float | None
    win_probability: float | None
    score: ChainScore | ResponseScore


class ReplyReader:
    """Reads the answers of one server.

    Args:
        url: Its address, for error messages.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def read(self, found: Any, *path: str | int) -> Any:
        """Return what is at a path of names and indices.

        Raises:
            RemoteError: There is nothing.
        """
        place = found
        try:
            for key in path:
                place = place[key]
        except (LookupError, TypeError):
            raise self.wrong(f"field {'.'.join(map(str, path))}", found) from None
        return place

    def rows(self, found: Any, key: str, count: int) -> list[Any]:
        """Return the list at `key`; raises `RemoteError` if it does not have `count` items."""
        rows = self.read(found, key)
        if not isinstance(rows, list) or len(rows) != count:
            raise self.wrong(f"{count} results, one per record", rows)
        return rows

    def built(self, cls: type[Any], row: Mapping[str, Any]) -> Any:
        """Return a dataclass of the fields of a row; raises `RemoteError` if one is missing."""
        return cls(**{name: self.read(row, name) for name in cls.__slots__})

    def score(self, row: Any, spec: RewardSpec, sent: Chain | Rating | Score) -> Score:
        """Return a row as a score, if it can be the score of what was sent.

        Raises:
            RemoteError: Id, objectives, number of steps or a value cannot be right, or there is
                neither a reward nor a reason for that.
        """
        is_chain = isinstance(sent, Chain | ChainScore)
        score = self.any_score(row, spec, is_chain=is_chain)
        if score.id != sent.id:
            raise self.wrong(f"the score of record {sent.id!r}", score.id)
        if isinstance(sent, Chain):
            self._check_steps(score, len(sent.completions))
        return score

    def _check_steps(self, score: Score, count: int) -> None:
        lengths = [len(logits) for logits in score.step_logits.values()]
        if set(lengths) != {count}:
            raise self.wrong(f"one log-odds for each of {count} steps", lengths)

    def any_score(self, row: Any, spec: RewardSpec, *, is_chain: bool) -> Score:
        """Return a row as a score of the model; raises `RemoteError` if it cannot be one."""
        try:
            score = ChainScore.from_row(row, spec) if is_chain else ResponseScore.from_row(row)
            values = [score.reward, *score.scores.values()]
            values += [value for logits in score.step_logits.values() for value in logits]
            names = set(score.scores)
        except (LookupError, TypeError, AttributeError) as error:
            raise self.wrong("a score", row) from error
        known = [item.name for item in (spec.step_heads if is_chain else spec.response_heads)]
        if names != set(known):
            raise self.wrong(f"scores of {', '.join(known)}", row)
        if not all(value is None or is_finite(value) for value in values):
            raise self.wrong("finite numbers or null", values)
        if score.reward is None and not score.reason:
            raise self.wrong("a reason where there is no reward", row)
        return score

    def wrong(self, expected: str, got: object) -> RemoteError:
        """Return the error that an answer cannot be right."""
        return RemoteError(
            "the answer cannot be right",
            expected=expected,
            got=got,
            where=self.url,
            fix="Do server and client have the same version of prm?",
        )


def is_finite(value: object) -> bool:
    """Whether a value of an answer is a number, and a finite one."""
    return isinstance(value, int | float) and math.isfinite(value)
