"""The stages of scoring: `tokenize`, then `RewardScorer.outputs` of the trees, then `finish`.

`RewardScorer.score` runs them one after the other. The server plans the forward passes itself:
trees may be run in any company and order, by any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from prm.models.readouts import response_scores, response_spreads, step_logits
from prm.records import Chain, Rating
from prm.scores.chains import ChainScore, score_chain
from prm.scores.responses import ResponseScore, score_responses
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain, TokenizedResponses, Tokens, TreeBuilder
from prm.trees.tree import TokenTree
from prm.trees.units import Unit, unit_of

Score = ChainScore | ResponseScore


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A chain, or responses to one prompt, and what the model reads of them.

    Args:
        places: Index of each record among those that were tokenized together.
        unit: The chain, or the set of the responses.
        tokens: The tokens of the unit, or why the records were left out.
    """

    places: tuple[int, ...]
    unit: Unit
    tokens: Tokens | DroppedRecord

    @property
    def tree(self) -> TokenTree | None:
        """The token tree; `None` if the records were left out."""
        return None if isinstance(self.tokens, DroppedRecord) else self.tokens.tree


def tokenize(
    builder: TreeBuilder, records: Sequence[Chain | Rating], max_tokens: int
) -> list[Tokenized]:
    """Return the tokens of records; responses to one prompt together, as far as a pass has room.

    Args:
        builder: What turns records into trees.
        records: Chains and single responses.
        max_tokens: Tokens in one forward pass; a longer set of responses is divided.

    Raises:
        DataError: A record does not fit, and the spec says to stop.
    """
    families: dict[object, list[int]] = {}
    for index, record in enumerate(records):
        key = index if isinstance(record, Chain) else repr(record.prompt)
        families.setdefault(key, []).append(index)
    return list(_tokenized(builder, records, list(map(tuple, families.values())), max_tokens))


def _tokenized(
    builder: TreeBuilder,
    records: Sequence[Chain | Rating],
    places: Sequence[tuple[int, ...]],
    max_tokens: int,
) -> Iterator[Tokenized]:
    units = [unit_of([records[place] for place in own]) for own in places]
    for own, unit, tokens in zip(places, units, builder.build_all(units), strict=True):
        item = Tokenized(own, unit, tokens)
        if len(own) > 1 and item.tree is not None and item.tree.num_tokens > max_tokens:
            halves = own[: len(own) // 2], own[len(own) // 2 :]
            yield from _tokenized(builder, records, halves, max_tokens)
        else:
            yield item


def finish(
    item: Tokenized, columns: Tensor, spec: RewardSpec, gates: Tensor | None = None
) -> list[Score]:
    """Return the scores of the records at `item.places`.

    Args:
        item: The tokenized records.
        columns: Head columns at their reads, wherever they were computed, `[read, column]`.
        spec: The model's spec, with the aggregations that are wanted.
        gates: Weights that the prompt gives the objectives, `[read, objective]`, of a model with a
            gate.
    """
    if isinstance(item.unit, Chain):
        tokens = cast("TokenizedChain | DroppedRecord", item.tokens)
        return [score_chain(item.unit, tokens, step_logits(columns, spec).tolist(), spec)]
    scores, spreads = response_scores(columns, spec), response_spreads(columns, spec)
    read = cast("TokenizedResponses | DroppedRecord", item.tokens)
    return list(score_responses(item.unit, read, scores, spreads, spec, gates))
