"""Which of two responses is better: how columns say so, and columns that say otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from prm.data.formats.base import wrong_field
from prm.data.formats.cells import look_up, read_cell
from prm.errors import DataError

Winner = Literal[0, 1, "tie"]
"""Index of the better response of two, or a tie."""

TIES = ("tie", "tie (bothbad)", "tie (inconsistent)", "bothbad", "draw", "equal")
_ORDERS = (("a", "b"), ("0", "1"), ("1", "2"), ("first", "second"), ("left", "right"))
_OWNERS = ("model", "response", "answer", "output", "completion", "assistant", "option", "summary")

_SAYS_WHICH = re.compile(
    r"winner|prefer|better|best|safer|chosen|choice|label|verdict|judg|vote|annotator",
    re.IGNORECASE,
)
_SAYS_HOW_GOOD = re.compile(r"score|rating|reward|grade|stars|quality|votes|points", re.IGNORECASE)


def usual_winners(first: str, second: str) -> dict[str, Winner]:
    """Return what the usual words for the better of two columns mean.

    They are the columns' names, and the words in which the names differ (A and B, 1 and 2, 0 and
    1, first and second), alone or as in `model_a`, `A>B`, `A>>B`, `[[A]]`; for names that are not
    told apart so, A is the first column. `A=B`, tie, bothbad, draw and equal are ties. A number
    means something only where the columns are numbered.

    Example:
        >>> winners = usual_winners("response_A", "response_B")
        >>> [winners[word] for word in ("b>a", "a", "model_b", "tie")]
        [1, 0, 1, 'tie']
    """
    winners: dict[str, Winner] = dict.fromkeys(TIES, "tie")
    labels = _labels(first, second)
    if labels is None or labels[0].isdigit():
        letters = ("b", "a") if labels and labels[0] > labels[1] else ("a", "b")
        winners |= _words(*letters)
    if labels is not None:
        winners |= _words(*labels)
    return winners | {first.casefold(): 0, second.casefold(): 1}


def _words(first: str, second: str) -> dict[str, Winner]:
    words: dict[str, Winner] = {f"{first}={second}": "tie", f"{second}={first}": "tie"}
    for index, (own, other) in enumerate(((first, second), (second, first))):
        forms = (own, f"[[{own}]]", *(f"{owner}_{own}" for owner in _OWNERS))
        compared = [f"{own}{mark}{other}" for mark in (">", ">>")]
        compared += [f"{other}{mark}{own}" for mark in ("<", "<<")]
        words |= dict.fromkeys((*forms, *compared), 0 if index == 0 else 1)
    return words


def _labels(first: str, second: str) -> tuple[str, str] | None:
    """Return the words in which two columns differ, if they say an order: a and b, 1 and 2."""
    different = _difference(first, second)
    known = different is not None and tuple(sorted(different)) in _ORDERS
    return different if known else None


def _difference(first: str, second: str) -> tuple[str, str] | None:
    """Return the one word in which two names differ; `None` if there is none, or several."""
    pairs = list(zip(_parts(first), _parts(second), strict=False))
    different = [pair for pair in pairs if pair[0] != pair[1]]
    same_length = len(_parts(first)) == len(_parts(second))
    return different[0] if same_length and len(different) == 1 else None


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.casefold() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name))


def read_winner(
    cell: Any, winners: Mapping[str, Winner | None], column: str, origin: str
) -> Winner | None:
    """Return what a cell says; `None` if it means that the pair is no example.

    Raises:
        DataError: The cell is none of the words that are known.
    """
    found = _known(cell, winners)
    if found is None:
        error = wrong_field(column, f"one of {', '.join(list(winners)[:12])}", cell, origin)
        error.fix = "Say what each value means with the format's option `winners`"
        raise error
    return winners[found]


def _known(cell: Any, winners: Mapping[str, Any]) -> str | None:
    if isinstance(cell, str):
        cell = re.sub(r"\s*([<>=]+)\s*", r"\1", cell)
    return look_up(cell, winners)


def majority(verdicts: Sequence[Winner]) -> Winner:
    """Return what more than half of the raters say; a tie if they do not."""
    verdict, count = Counter(verdicts).most_common(1)[0]
    return verdict if count > len(verdicts) / 2 else "tie"


def votes(verdicts: Sequence[Winner]) -> tuple[float, float]:
    """Return how many raters are for each response; a tie is half a vote for both."""
    ties = verdicts.count("tie") / 2
    return verdicts.count(0) + ties, verdicts.count(1) + ties


def signed(verdicts: Sequence[Winner]) -> list[int]:
    """Return each rater's verdict: 1 for the better response (the first, if tied), 0 for a tie."""
    best = majority(verdicts)
    best = 0 if best == "tie" else best
    return [0 if verdict == "tie" else 1 if verdict == best else -1 for verdict in verdicts]


def refuse_contradictions(
    row: Mapping[str, Any],
    chosen: str,
    rejected: str,
    origin: str,
    ignore: Collection[str] = (),
) -> None:
    """Refuse a row that says in another column that the rejected response is the better one.

    Such a column says which is better (`label: "B>A"` beside `response_A` as chosen), or there are
    two that say how good each is (`chosen_rating` below `rejected_rating`).

    Args:
        row: The row.
        chosen: Column of the response that is taken as the better one.
        rejected: Column of the other.
        origin: Where the row was read.
        ignore: Columns that may say what they like.

    Raises:
        DataError: The row contradicts itself; the message names the column.
    """
    names = [name for name in _names(row, chosen, rejected, origin) if name not in ignore]
    for name, got in (
        *_other_winners(row, names, chosen, rejected, origin),
        *_other_scores(row, names, chosen, rejected, origin),
    ):
        raise DataError(
            f"{chosen!r} is chosen, but {name!r} says that {rejected!r} is no worse or better",
            got=got,
            where=origin,
            fix="Read it as OutcomeColumns with `first`, `second` and `better`, or with "
            f"`ignore: [{name}]`",
        )


def _names(row: Mapping[str, Any], chosen: str, rejected: str, origin: str) -> Iterator[str]:
    """Yield the columns of a row, and what lies beside the texts of a pair in their objects."""
    yield from (name for name in row if isinstance(name, str))
    for column in (chosen, rejected):
        outer = "" if column in row else column.rpartition(".")[0]
        if outer and isinstance(beside := read_cell(row, outer, origin), Mapping):
            yield from (f"{outer}.{name}" for name in beside)


def _other_winners(
    row: Mapping[str, Any], names: Sequence[str], chosen: str, rejected: str, origin: str
) -> Iterator[tuple[str, Any]]:
    winners = usual_winners(chosen, rejected)
    if _labels(chosen, rejected) is None:  # A or 1 may be either of them; their names are clear
        winners = {chosen.casefold(): 0, rejected.casefold(): 1}
    for name in names:
        cell = read_cell(row, name, origin)
        if name in (chosen, rejected) or not isinstance(cell, str | int | float):
            continue
        compares = isinstance(cell, str) and len(cell) < 20 and re.search(r"[<>]|\Amodel_", cell)
        if not compares and not _SAYS_WHICH.search(name):
            continue
        found = _known(cell, winners)
        if found is not None and winners[found] != 0:
            yield name, cell


def _other_scores(
    row: Mapping[str, Any], names: Sequence[str], chosen: str, rejected: str, origin: str
) -> Iterator[tuple[str, Any]]:
    difference = _difference(chosen, rejected)
    if difference is None:
        return
    by_parts = {_parts(name): name for name in names}
    for parts, name in by_parts.items():
        swapped = tuple(difference[1] if part == difference[0] else part for part in parts)
        if swapped == parts or swapped not in by_parts or not _SAYS_HOW_GOOD.search(name):
            continue
        better, worse = (_number(row, key, origin) for key in (name, by_parts[swapped]))
        if better is not None and worse is not None and better < worse:
            yield name, f"{better:g}, and {worse:g} for the other"


def _number(row: Mapping[str, Any], name: str, origin: str) -> float | None:
    cell = read_cell(row, name, origin)
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None
