"""Groups: which records are about one problem, and so are kept together.

Records are about one problem if they share the group that their source gives, or if
`prm.data.checks.problems` finds the problem of one in the other; and so on from record to record.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.problems import Problems, problem_text
from prm.records import Record, prompt_text

Block = tuple[list[str], NDArray[np.int32]]
"""Different texts of problems, and for each record the index of its own."""


def problem_groups(records: Sequence[Record]) -> NDArray[np.int32]:
    r"""Number the problems that records are about.

    Args:
        records: The records.

    Returns:
        Number of each record's problem, from 0 up, shape `[record]`, int32. Problems are in the
        order of their first given group, so the numbers do not depend on the order of records, and
        are those of the sorted groups where no two groups have a problem in common.

    Example:
        >>> from prm.records import Chain
        >>> prompts = [r"What is $2 \times 3$?", "What is 2 + 3?", "What is 2 × 3?"]
        >>> problem_groups([Chain(prompt, ["6"]) for prompt in prompts]).tolist()
        [0, 1, 0]
    """
    rank_of = {group: rank for rank, group in enumerate(sorted({r.group for r in records}))}
    texts: dict[str, int] = {}
    places = [texts.setdefault(joining_text(record), len(texts)) for record in records]
    block = list(texts), np.array(places, np.int32)
    return joined_groups(
        np.array([rank_of[record.group] for record in records], np.int32), lambda: iter([block])
    )


def joining_text(record: Record) -> str:
    """Return the text by which a record's problem is told: `problem_text`, as a rule.

    It is empty where the prompt is one word ("Continue.") and the source gives groups of its own:
    such a word is no problem, and what it is about is elsewhere.
    """
    text = problem_text(record)
    is_given = record.group != prompt_text(record.prompt)
    return "" if is_given and len(text.split()) == 1 else text


def joined_groups(
    groups: NDArray[np.int32], blocks: Callable[[], Iterator[Block]]
) -> NDArray[np.int32]:
    """Join groups that are about one problem.

    The texts are read twice, block by block; what is held are a few numbers for each of them.

    Args:
        groups: Rank of each record's group among all groups, shape `[record]`.
        blocks: Gives the texts of the records' problems, as `joining_text` returns them, each block
            those of the next records.

    Returns:
        Number of each record's problem, as of `problem_groups`.
    """
    if not len(groups):
        return groups
    problems = Problems.of(text for texts, _ in blocks() for text in texts)
    edges = _edges(groups, blocks(), problems)
    first = _first_of_each(int(groups.max()) + 1, len(problems.keys), *edges)
    numbers = np.unique(first, return_inverse=True)[1].astype(np.int32)
    return numbers[groups]


def _edges(
    groups: NDArray[np.int32], blocks: Iterator[Block], problems: Problems
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return which group has which problem, each pair of a text and a group once."""
    of_groups, of_problems = array("i"), array("i")
    start = 0
    for texts, places in blocks:
        own = groups[start : start + len(places)]
        start += len(places)
        found = [problems.found_in(text) for text in texts]
        pairs = np.unique(np.stack([places, own], axis=1), axis=0)
        for place, group in pairs.tolist():
            of_groups.extend([group] * len(found[place]))
            of_problems.extend(found[place])
    return np.array(of_groups, np.int32), np.array(of_problems, np.int32)


def _first_of_each(
    num_groups: int,
    num_problems: int,
    of_groups: NDArray[np.int32],
    of_problems: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Return for each group the first of the groups that it is connected to through problems."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = num_groups + num_problems
    ends = (of_groups, of_problems + num_groups)
    graph = coo_array((np.ones(len(of_groups), np.int8), ends), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    labels = labels[:num_groups]
    first = np.full(labels.max() + 1, num_groups, np.int32)
    np.minimum.at(first, labels, np.arange(num_groups, dtype=np.int32))
    return first[labels]
