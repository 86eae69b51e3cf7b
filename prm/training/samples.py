"""Rows of the table of scored validation records."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, cast

from prm.data.items import LabeledChain, LabeledItem, LabeledResponses
from prm.markdown import table
from prm.spec import RewardSpec
from prm.training.reads import Reads


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
    yield from _step_rows(reads, items, spec, chosen)
    yield from _response_rows(reads, items, spec, chosen)


def _step_rows(
    reads: Reads, items: Sequence[LabeledItem], spec: RewardSpec, chosen: Container[int]
) -> Iterator[SampleRow]:
    if reads.steps is None:
        return
    column = spec.step_names.index(spec.chain_reward)
    probabilities = reads.steps.logits[:, column].sigmoid().tolist()
    places = zip(reads.steps.chain.tolist(), reads.steps.step.tolist(), probabilities, strict=True)
    for position, step, probability in places:
        if position >= len(reads.steps.records) or reads.steps.records[position] not in chosen:
            continue
        item = cast(LabeledChain, items[reads.steps.records[position]])
        labels = item.chain.labels.get(spec.chain_reward)
        label = labels[step] if labels else None
        text = item.chain.completions[step]
        yield SampleRow(item.chain.id, step, text, spec.chain_reward, probability, label)


def _response_rows(
    reads: Reads, items: Sequence[LabeledItem], spec: RewardSpec, chosen: Container[int]
) -> Iterator[SampleRow]:
    if reads.responses is None:
        return
    first = 0
    for record in reads.responses.records:
        item = cast(LabeledResponses, items[record])
        if record in chosen:
            yield from _set_rows(reads, item, first, spec.response_names)
        first += item.tree.num_reads


def _set_rows(
    reads: Reads, item: LabeledResponses, first: int, names: Sequence[str]
) -> Iterator[SampleRow]:
    assert reads.responses is not None
    name_of_set = item.responses.records[0].id
    for place, branch in enumerate(item.tokens.branches):
        if branch is None:
            continue
        scores = reads.responses.scores[first + branch].tolist()
        values = reads.responses.labels.values[first + branch].tolist()
        for name, score, value in zip(names, scores, values, strict=True):
            label = None if value != value else value
            text = item.responses.responses[place]
            yield SampleRow(name_of_set, place, text, name, score, label)


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
