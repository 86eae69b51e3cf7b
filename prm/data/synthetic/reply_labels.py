"""Labels of generated replies: what raters, right or wrong, would have said about them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from prm.data.synthetic.gold import OBJECTIVES
from prm.data.synthetic.options import check_choices
from prm.data.synthetic.replies import Candidates, ReplyConfig, make_candidates
from prm.errors import ConfigError
from prm.records import Comparison, Outcome, Rating

Supervision = Literal["ratings", "pairs", "mixed"]

SOURCE = "replies"


@dataclass(frozen=True)
class LabelConfig:
    """How replies are labeled.

    Args:
        supervision: `ratings` rates every reply for every objective; `pairs` compares every two
            replies to a prompt for every objective that tells them apart; `mixed` supervises one
            objective per prompt, the prompts taking turns: helpfulness by pairs, safety by 0/1
            labels, factuality by the share of true facts.
        label_noise: Probability that a judgment is turned around, in [0, 0.5]: a vote goes to the
            worse reply, a value v becomes 1 - v.
        num_votes: Raters who vote on a pair, the majority deciding; 0 for one judgment without a
            vote count.

    Raises:
        ConfigError: An option is not one of those above.
    """

    supervision: Supervision = "mixed"
    label_noise: float = 0.0
    num_votes: int = 0

    def __post_init__(self) -> None:
        check_choices("supervision", [self.supervision], get_args(Supervision))
        if not 0 <= self.label_noise <= 0.5:
            raise ConfigError(
                "label_noise is out of range", expected="a number in [0, 0.5]", got=self.label_noise
            )
        if self.num_votes < 0:
            raise ConfigError("num_votes is too small", expected="0 or more", got=self.num_votes)
        if self.num_votes and self.supervision == "ratings":
            raise ConfigError("num_votes has no effect", fix="Votes need pairs or mixed")


def generate(
    config: ReplyConfig, labels: LabelConfig, start: int = 0, stride: int = 1
) -> Iterator[Outcome]:
    """Yield the records of prompts `start`, `start + stride`, ..., without end.

    Example:
        >>> records = generate(ReplyConfig(num_responses=1), LabelConfig("ratings"))
        >>> [record.id for record in itertools.islice(records, 2)]
        ['replies-independent-all-0-0-0', 'replies-independent-all-0-1-0']
    """
    for index in itertools.count(start, stride):
        yield from make_records(config, labels, index)


def make_records(config: ReplyConfig, labels: LabelConfig, index: int) -> list[Outcome]:
    """Return the records of prompt `index`; the replies do not depend on how they are labeled.

    The metadata of a record hold the gold values of its responses, in their order.
    """
    candidates = make_candidates(config, index)
    name = f"{config.name}-{index}"
    rng = Random(f"{name}/labels")
    if labels.supervision == "pairs":
        return [
            pair
            for objective in OBJECTIVES
            for pair in _compare(candidates, objective, labels, name, rng)
        ]
    if labels.supervision == "ratings":
        return _rate(candidates, OBJECTIVES, labels, name, rng)
    objective = OBJECTIVES[index % len(OBJECTIVES)]
    if objective == "helpfulness":
        return [*_compare(candidates, objective, labels, name, rng)]
    return _rate(candidates, (objective,), labels, name, rng)


def _compare(
    candidates: Candidates, objective: str, labels: LabelConfig, name: str, rng: Random
) -> Iterator[Comparison]:
    for (i, first), (j, second) in itertools.combinations(enumerate(candidates.replies), 2):
        first_value, second_value = first.gold[objective], second.gold[objective]
        if first_value is None or second_value is None or first_value == second_value:
            continue
        better, worse = (first, second) if first_value > second_value else (second, first)
        wrong = sum(rng.random() < labels.label_noise for _ in range(labels.num_votes or 1))
        right = (labels.num_votes or 1) - wrong
        if wrong > right:
            better, worse, right, wrong = worse, better, wrong, right
        yield Comparison(
            candidates.prompt,
            [better.text, worse.text],
            [0, int(right > wrong)],
            objective=objective,
            votes=[right, wrong] if labels.num_votes else None,
            id=f"{name}-{objective}-{i}-{j}",
            source=SOURCE,
            group=candidates.group,
            metadata={"gold": [better.gold, worse.gold]},
        )


def _rate(
    candidates: Candidates,
    objectives: tuple[str, ...],
    labels: LabelConfig,
    name: str,
    rng: Random,
) -> list[Outcome]:
    """Rate all replies; a reply without a value for any of the objectives is left out."""
    noise = labels.label_noise
    ratings = (
        {name: _noisy(reply.gold[name], noise, rng) for name in objectives}
        for reply in candidates.replies
    )
    return [
        Rating(
            candidates.prompt,
            reply.text,
            values,
            id=f"{name}-{number}",
            source=SOURCE,
            group=candidates.group,
            metadata={"gold": [reply.gold]},
        )
        for number, (reply, values) in enumerate(zip(candidates.replies, ratings, strict=True))
        if any(value is not None for value in values.values())
    ]


def _noisy(value: float | None, noise: float, rng: Random) -> float | None:
    is_wrong = rng.random() < noise
    return round(1 - value, 4) if is_wrong and value is not None else value
