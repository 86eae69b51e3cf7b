"""The score of one record from the head columns at its reads, wherever they were computed."""

from __future__ import annotations

from torch import Tensor

from prm.models.readouts import response_scores, response_spreads, step_logits
from prm.records import Chain, Rating
from prm.scores.chains import score_chain
from prm.scores.responses import score_responses
from prm.scoring.scorer import Score
from prm.spec import RewardSpec
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedChain
from prm.trees.tokenize_responses import TokenizedResponses
from prm.trees.units import ResponseSet


def column_score(
    record: Chain | Rating,
    tokens: TokenizedChain | TokenizedResponses | DroppedRecord,
    columns: Tensor,
    spec: RewardSpec,
) -> Score:
    """Return the score of a record, without gates, which are no columns.

    Args:
        record: The record.
        tokens: Its own tokens, or why it was left out.
        columns: Head columns at its reads, shape `[read, column]`.
        spec: The model's spec, with the aggregations that are wanted.
    """
    if isinstance(record, Chain):
        assert not isinstance(tokens, TokenizedResponses)
        return score_chain(record, tokens, step_logits(columns, spec).tolist(), spec)
    assert not isinstance(tokens, TokenizedChain)
    scores, spreads = response_scores(columns, spec), response_spreads(columns, spec)
    (score,) = score_responses(ResponseSet.of([record]), tokens, scores, spreads, spec)
    return score
