"""Rows of the table of scored validation records."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, cast

from prm.data.items import LabeledChain, LabeledItem, LabeledResponses
from prm.markdown import table
from prm.spec import RewardSpec
from prm.training.reads import Reads, ResponseReads, StepReads


class SampleRow(NamedTuple):
    """One number that the model gives, beside the label.

    Args:
        id: Id of the chain, or of the first record about the response.
        part: Index of the step or of the response.
        text: Its text.
        objective: What is scored.
        score: Probability of a step, score of a response.
        label: The label or rating, if there is one.
    """

    id: str
    part: int
    text: str
    objective: str
    score: float
    label: float | None


def sample_rows(
    reads: Reads, items: Sequence[LabeledItem], spec: RewardSpec, chosen: Container[int]
) -> Iterator[SampleRow]:
    """Yield the rows of those records of a micro-batch whose index is chosen."""
    if reads.steps is not None:
        yield from _step_rows(reads.steps, items, spec, chosen)
    if reads.responses is not None:
        yield from _response_rows(reads.responses, items, spec, chosen)


def _step_rows(
    reads: StepReads, items: Sequence[LabeledItem], spec: RewardSpec, chosen: Container[int]
) -> Iterator[SampleRow]:
    objective = spec.chain_reward
    probabilities = reads.logits[:, spec.step_names.index(objective)].sigmoid().tolist()
    for position, step, probability in zip(
        reads.chain.tolist(), reads.step.tolist(), probabilities, strict=True
    ):
        if position < len(reads.records) and reads.records[position] in chosen:
            chain = cast(LabeledChain, items[reads.records[position]]).chain
            labels = chain.labels.get(objective)
            label = labels[step] if labels else None
            yield SampleRow(chain.id, step, chain.completions[step], objective, probability, label)


def _response_rows(
    reads: ResponseReads, items: Sequence[LabeledItem], spec: RewardSpec, chosen: Container[int]
) -> Iterator[SampleRow]:
    first = 0
    for record in reads.records:
        item = cast(LabeledResponses, items[record])
        for place, branch in enumerate(item.tokens.branches if record in chosen else ()):
            if branch is None:
                continue
            id_, text = item.responses.records[0].id, item.responses.responses[place]
            row = reads.scores[first + branch], reads.labels.values[first + branch]
            scores, values = (part.tolist() for part in row)
            for name, score, value in zip(spec.response_names, scores, values, strict=True):
                label = None if math.isnan(value) else value
                yield SampleRow(id_, place, text, name, score, label)
        first += item.tree.num_reads


def markdown(rows: Sequence[SampleRow]) -> str:
    """Return the rows as a Markdown table."""
    cells = [
        [
            row.id,
            str(row.part),
            row.text,
            row.objective,
            f"{row.score:.3f}",
            "" if row.label is None else f"{row.label:g}",
        ]
        for row in rows
    ]
    return table(SampleRow._fields, cells, names=(0, 2, 3)) + "\n"
