"""The stages of scoring: `tokenize`, then `RewardScorer.outputs` of the trees, then `finish`.

`RewardScorer.score` runs them one after the other. The server plans the forward passes itself:
trees may be run in any company and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prm.models.reward_model import ModelOutput
from prm.records import Chain, Rating
from prm.scores.chains import score_chain
from prm.scores.responses import by_prompt, score_responses
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain
from prm.trees.tokenize_responses import TokenizedResponses
from prm.trees.tree import TokenTree
from prm.trees.units import ResponseSet

if TYPE_CHECKING:
    from prm.scoring.scorer import RewardScorer, Score


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A chain, or responses to one prompt, and what the model reads of them.

    Args:
        places: Index of each record among those that were tokenized together.
        source: The chain, or the set of the responses.
        tokens: The tokens, or why the records were left out.
    """

    places: tuple[int, ...]
    source: Chain | ResponseSet
    tokens: TokenizedChain | TokenizedResponses | DroppedRecord

    @property
    def tree(self) -> TokenTree | None:
        """The token tree; `None` if the records were left out."""
        return None if isinstance(self.tokens, DroppedRecord) else self.tokens.tree


def tokenize(scorer: RewardScorer, records: Sequence[Chain | Rating]) -> list[Tokenized]:
    """Return the tokens of records; responses to one prompt together, as far as a pass has room.

    Raises:
        DataError: A record does not fit, and the spec says to stop.
    """
    chains = [index for index, record in enumerate(records) if isinstance(record, Chain)]
    ratings = [index for index, record in enumerate(records) if isinstance(record, Rating)]
    return [*_chains(scorer, records, chains), *_responses(scorer, records, ratings)]


def finish(
    scorer: RewardScorer, item: Tokenized, output: ModelOutput, spec: RewardSpec
) -> list[Score]:
    """Return the scores of the records at `item.places`.

    Args:
        scorer: What tokenized them.
        item: The tokenized records.
        output: What the model gave at their reads.
        spec: The model's spec, with the aggregations that are wanted.
    """
    tokens, model = item.tokens, scorer.model
    if isinstance(item.source, Chain):
        assert not isinstance(tokens, TokenizedResponses)
        logits = model.step_logits(output.columns).tolist()
        return [score_chain(item.source, tokens, logits, spec)]
    assert not isinstance(tokens, TokenizedChain)
    scores, spreads = model.response_scores(output.columns), model.response_spreads(output.columns)
    found = score_responses(item.source, tokens, scores, spreads, spec, output.gates)
    return list(found)


def _chains(
    scorer: RewardScorer, records: Sequence[Chain | Rating], places: Sequence[int]
) -> Iterator[Tokenized]:
    chains = [record for place in places if isinstance(record := records[place], Chain)]
    if chains:
        built = scorer.builder.build_all(chains)
        for place, chain, tokens in zip(places, chains, built, strict=True):
            yield Tokenized((place,), chain, tokens)


def _responses(
    scorer: RewardScorer, records: Sequence[Chain | Rating], places: Sequence[int]
) -> Iterator[Tokenized]:
    ratings = [record for place in places if isinstance(record := records[place], Rating)]
    families = by_prompt(ratings)
    sets = [ResponseSet.of([ratings[index] for index in family]) for family in families]
    if not sets:
        return
    built = scorer.response_builder.build_all(sets)
    for family, source, tokens in zip(families, sets, built, strict=True):
        own = tuple(places[index] for index in family)
        item = Tokenized(own, source, tokens)
        if len(own) > 1 and item.tree is not None and item.tree.num_tokens > scorer.max_tokens:
            half = len(own) // 2
            yield from _responses(scorer, records, own[:half])
            yield from _responses(scorer, records, own[half:])
        else:
            yield item
