"""Why records were not scored, as kinds that can be counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_PLACE = re.compile(r"^(?:.*?\brow (['\"]).*?\1|\S+:\d+): ")
_FACTS = re.compile(r": (?:expected|got) .*$")


def kind_of(reason: str) -> str:
    """Return what a reason says without the record that it is about, and without its numbers.

    Example:
        >>> kind_of("a.jsonl:7, row 'c-6': no room for it: expected 13 tokens, got 101 tokens")
        'no room for it'
    """
    kinds = (_FACTS.sub("", _PLACE.sub("", part)) for part in reason.split("; "))
    return "; ".join(dict.fromkeys(kinds))


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return the kinds of some reasons to how many there are, the most frequent first.

    Example:
        >>> count_kinds(["row 'a': too long: got 9", "row 'b': too long: got 7", "no score"])
        {'too long': 2, 'no score': 1}
    """
    return dict(Counter(map(kind_of, reasons)).most_common())
