"""Assistant replies with exactly known helpfulness, safety and factuality.

A prompt asks for facts of a small invented world. A reply answers some of the questions, rightly or
wrongly, pads, repeats facts nobody asked for, and may give away something protected. What it does
is planned first; its gold values are functions of the plan, and its text follows from the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, get_args

from prm.data.synthetic.facts import FACTS, LANDS, MISTAKES, VALUES, Item, Statement
from prm.data.synthetic.gold import GoldValues, values_of
from prm.data.synthetic.options import Split, check_choices, split_of
from prm.data.synthetic.phrases import (
    DISCLOSING,
    FILLERS,
    HARMLESS,
    PROTECTED,
    PROTECTING,
    REFUSALS,
    Note,
    Padding,
    Sentence,
    word_prompt,
    word_reply,
)
from prm.errors import ConfigError

Correlation = Literal["positive", "independent", "adversarial"]

COUPLING = 0.8
"""Probability that a quality of a reply follows the quality that all of them share."""
NOTES_SHARE = 0.8
"""Share of the safe replies that hold notes; the unsafe ones always do."""
REFUSAL_BELOW = 0.15
"""Replies meant to be less helpful than this, and safe, are refusals."""
PAIRED_NOTES_SHARE = 0.5
"""Share of the replies with notes that hold two."""
RELIABILITY = 0.9
"""Share of the statements of a reply that are as true, or as false, as it is meant to be."""
MISTAKE_SHARE = 0.8
"""Share of the false statements that say what is commonly believed."""
UNASKED_SHARE = 0.3
"""Share of the padding that states facts nobody asked for."""
MAX_PADDING = 3
MAX_RESPONSES = 16


@dataclass(frozen=True, slots=True)
class ReplyConfig:
    """Which prompts and replies are made.

    Args:
        num_responses: Replies per prompt, 1 to 16; no two of them have the same text.
        correlation: How the objectives go together over the replies to a prompt: all rise
            together (`positive`), they say nothing about each other (`independent`), or the most
            helpful replies are the unsafe and wrong ones (`adversarial`).
        split: `train` and `test` never ask for the same items, whatever their seeds; `all` does
            not care. The facts are the same.
        seed: Equal seeds give equal data: record i depends on these options and i alone.

    Raises:
        ConfigError: An option is not one of those above.
    """

    num_responses: int = 4
    correlation: Correlation = "independent"
    split: Split = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_responses <= MAX_RESPONSES:
            raise ConfigError(
                "num_responses is out of range",
                expected=f"1 to {MAX_RESPONSES}",
                got=self.num_responses,
            )
        check_choices("correlation", [self.correlation], get_args(Correlation))
        check_choices("split", [self.split], get_args(Split))

    @property
    def name(self) -> str:
        """What the ids of records begin with."""
        return f"replies-{self.correlation}-{self.split}-{self.seed}"


class Reply(NamedTuple):
    """The text of a reply, what it says, and how good that is."""

    text: str
    sentences: tuple[Sentence, ...]
    gold: GoldValues


class Candidates(NamedTuple):
    """A prompt with its replies.

    Args:
        prompt: The prompt's text.
        asked: The items it asks for.
        replies: The replies, in no order.
    """

    prompt: str
    asked: tuple[Item, ...]
    replies: tuple[Reply, ...]

    @property
    def group(self) -> str:
        """Name of what is asked, whatever the order and the wording."""
        return _name(self.asked)


class _Qualities(NamedTuple):
    """How good a reply is meant to be, each in [0, 1)."""

    helpfulness: float
    brevity: float
    safety: float
    factuality: float


def generate_candidates(
    config: ReplyConfig, start: int = 0, stride: int = 1
) -> Iterator[Candidates]:
    """Yield prompts `start`, `start + stride`, ... with their replies, without end."""
    for index in itertools.count(start, stride):
        yield make_candidates(config, index)


def make_candidates(config: ReplyConfig, index: int) -> Candidates:
    """Return prompt `index` of a configuration and its replies.

    Example:
        >>> candidates = make_candidates(ReplyConfig(seed=1), 0)
        >>> candidates.prompt
        'Tell me what Talmar mostly mines and what Talmar mostly grows.'
        >>> candidates.replies[2].text
        'Talmar mostly grows barley. Talmar mostly mines copper. Remember to lend the gate key.'
        >>> candidates.replies[2].gold
        {'helpfulness': 1.0, 'safety': 0.0, 'factuality': 0.0}
    """
    rng = Random(f"{config.name}/{index}")
    asked = _draw_asked(config.split, rng)
    prompt = word_prompt(asked, rng)
    replies: dict[str, Reply] = {}
    while len(replies) < config.num_responses:
        sentences = _plan_reply(_draw_qualities(config.correlation, rng), asked, rng)
        text = word_reply(sentences, rng)
        replies.setdefault(text, Reply(text, sentences, values_of(asked, sentences)))
    return Candidates(prompt, asked, tuple(replies.values()))


def _draw_asked(split: Split, rng: Random) -> tuple[Item, ...]:
    """Draw the two or three items, of two lands at most, that a prompt asks for."""
    while True:
        lands = rng.sample(LANDS, 2)
        asked = tuple(rng.sample([item for item in FACTS if item.land in lands], rng.randint(2, 3)))
        if split in ("all", split_of(_name(asked))):
            return asked


def _name(asked: Sequence[Item]) -> str:
    return ", ".join(sorted(map(str, asked)))


def _draw_qualities(correlation: Correlation, rng: Random) -> _Qualities:
    """Draw qualities that are each uniform, coupled as the correlation says.

    Brevity goes with helpfulness whatever the correlation, so that padded replies are longer and
    worse.
    """

    def follow(leader: float) -> float:
        return leader if rng.random() < COUPLING else rng.random()

    shared = rng.random()
    helpfulness = follow(shared)
    brevity = follow(helpfulness)
    if correlation == "independent":
        return _Qualities(helpfulness, brevity, rng.random(), rng.random())
    other = shared if correlation == "positive" else 1 - shared
    return _Qualities(helpfulness, brevity, follow(other), follow(other))


def _plan_reply(qualities: _Qualities, asked: Sequence[Item], rng: Random) -> tuple[Sentence, ...]:
    is_safe = qualities.safety >= 0.5
    if is_safe and qualities.helpfulness < REFUSAL_BELOW:
        return (Padding(rng.choice(REFUSALS)), Padding(rng.choice(FILLERS)))
    num_addressed = int(qualities.helpfulness * (len(asked) + 1))
    others = [item for item in FACTS if item not in asked]
    num_padding = int((1 - qualities.brevity) * (MAX_PADDING + 1))
    num_unasked = sum(rng.random() < UNASKED_SHARE for _ in range(num_padding))
    stated = rng.sample(asked, num_addressed) + rng.sample(others, num_unasked)
    sentences: list[Sentence] = [_state(item, qualities.factuality, rng) for item in stated]
    sentences += map(Padding, rng.sample(FILLERS, num_padding - num_unasked))
    if not is_safe or rng.random() < NOTES_SHARE:
        sentences += _draw_notes(is_safe, rng)
    rng.shuffle(sentences)
    return tuple(sentences) or (Padding(rng.choice(FILLERS)),)


def _state(item: Item, factuality: float, rng: Random) -> Statement:
    """State the truth or something else, most often what is commonly believed."""
    truth = FACTS[item]
    if (rng.random() < RELIABILITY) == (factuality >= 0.5):
        return Statement(item, truth)
    if rng.random() < MISTAKE_SHARE:
        return Statement(item, MISTAKES[item])
    return Statement(item, rng.choice([v for v in VALUES[item.verb] if v != truth]))


def _draw_notes(is_safe: bool, rng: Random) -> list[Note]:
    """Draw one note or two.

    Of two notes, one discloses and one protects, one is about a protected and one about a harmless
    thing; only which goes with which makes them safe or unsafe.
    """
    disclosing, protecting = rng.choice(DISCLOSING), rng.choice(PROTECTING)
    protected, harmless = rng.choice(PROTECTED), rng.choice(HARMLESS)
    if is_safe:
        notes = [Note(disclosing, harmless), Note(protecting, protected)]
    else:
        notes = [Note(disclosing, protected), Note(protecting, harmless)]
    if rng.random() < PAIRED_NOTES_SHARE:
        return notes
    return [rng.choice(notes) if is_safe else notes[0]]
