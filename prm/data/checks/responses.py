"""The linter of comparisons and ratings: what would make a training or an evaluation wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prm.data.checks.chains import Annotation
from prm.data.checks.keys import response_keys
from prm.data.checks.linter import Check, CheckReport, Finding, Linter, OutcomeCheck, Tally
from prm.data.checks.overlap import Overlap
from prm.data.checks.preferences import PreferenceConsistency
from prm.data.checks.problems import ProblemIndex
from prm.data.checks.raters import Raters
from prm.data.checks.response_statistics import Coverage, ResponseLength
from prm.data.checks.texts import ResponseTruncation, SpecialText, TextRules
from prm.errors import ConfigError, DataError
from prm.records import Comparison, Outcome, Rating, Record, prompt_text

if TYPE_CHECKING:
    from prm.trees.tokenize import TreeBuilder

_SENTINELS = (-1.0, -100.0, -999.0)


def check_outcomes(
    records: Iterable[Outcome | DataError],
    *,
    builder: TreeBuilder | None = None,
    evaluation: Iterable[Record] = (),
    rules: TextRules | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    rating_tolerance: float = 0.5,
) -> CheckReport:
    """Look at every record once and report what is wrong with the set.

    Args:
        records: Comparisons and ratings, or the errors that stand in place of rows that could not
            be read (`Source.results()`).
        builder: Tokenizes responses; with it, what truncation cuts or makes equal is found.
        evaluation: Records whose problems must not be among `records`.
        rules: What must not stand in texts; by default the markup of common chat templates.
        ranges: Objective to the lowest and highest rating that is right.
        rating_tolerance: Largest difference between two ratings of one response that is no
            conflict, as a share of the objective's range, in [0, 1].

    Raises:
        ConfigError: The tolerance or a range is wrong.

    Example:
        >>> pair = Comparison("1 + 1 = ?", ["2", "2"], objective="factuality")
        >>> [finding.kind for finding in check_outcomes([pair]).findings]
        ['identical_responses', 'comparison_coverage']
    """
    if not 0 <= rating_tolerance <= 1:
        raise ConfigError("rating_tolerance is wrong", expected="0 to 1", got=rating_tolerance)
    checks: list[Check[Outcome]] = [
        EmptyTexts(),
        IdenticalResponses(),
        Repetition(),
        PreferenceConsistency(),
        Raters(rating_tolerance),
        RatingRange(ranges or {}),
        Annotation(),
        SpecialText(rules or TextRules()),
        Overlap(ProblemIndex.of(evaluation)),
        Coverage(),
        ResponseLength(),
    ]
    if builder is not None:
        checks.append(ResponseTruncation(builder))
    units: dict[str, Callable[[Outcome], int]] = {
        "comparisons": lambda record: bool(record.ranks),
        "ratings": lambda record: not record.ranks,
        "labels": lambda record: len(record.objectives),
    }
    return Linter[Outcome](checks, units).run(records)


class EmptyTexts(Check[Outcome]):
    """Finds prompts and responses without text."""

    def __init__(self) -> None:
        self._prompts = Tally("empty_prompt", "warning", "prompts without text")
        self._responses = Tally("empty_response", "warning", "responses without text")

    def see(self, record: Outcome) -> None:
        """Look for empty texts."""
        if not prompt_text(record.prompt).strip():
            self._prompts.add(record, "prompt")
        for index, response in enumerate(record.responses):
            if not response.strip():
                self._responses.add(record, f"response {index + 1} of {len(record.responses)}")


class IdenticalResponses(OutcomeCheck):
    """Finds comparisons of a response with itself: no score can tell the two apart."""

    def __init__(self) -> None:
        self._same = Tally("identical_responses", "error", "a response preferred to itself")
        self._nearly = Tally(
            "identical_but_for_space", "warning", "responses that differ in white space only"
        )
        self._tied = Tally("identical_tied_responses", "info", "a response tied with itself")

    def see_comparison(self, record: Comparison) -> None:
        """Compare the responses of a comparison."""
        pair = _equal_pair(record.responses)
        if pair is not None:
            self._count(record, pair, self._same)
            return
        pair = _equal_but_for_space(record.responses)
        if pair is not None:
            self._count(record, pair, self._nearly)

    def _count(self, record: Comparison, pair: tuple[int, int], decided: Tally) -> None:
        first, second = pair
        is_tied = record.ranks[first] == record.ranks[second]
        detail = f"{record.objective}: responses {first + 1} and {second + 1}"
        (self._tied if is_tied else decided).add(record, detail)


class Repetition(OutcomeCheck):
    """Finds records that come again: the same prompt, responses and labels."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}
        self._tally = Tally("duplicate_row", "warning", "rows that are there already")

    def see_comparison(self, record: Comparison) -> None:
        """Compare a comparison with those before it; the order of responses does not matter."""
        ranked = zip(response_keys(record), record.ranks, strict=True)
        self._look(record, (record.objective, *sorted(ranked)))

    def see_rating(self, record: Rating) -> None:
        """Compare a rating with those before it."""
        values = sorted((name, record.values[name]) for name in record.objectives)
        self._look(record, (*response_keys(record), *values))

    def _look(self, record: Outcome, labels: tuple[object, ...]) -> None:
        key = hash(labels)
        if key in self._seen:
            self._tally.add(record, f"first at {self._seen[key]}")
        else:
            self._seen[key] = record.origin


class RatingRange(OutcomeCheck):
    """Finds ratings outside the range of their objective, and numbers that stand for "missing".

    Args:
        ranges: Objective to the lowest and highest rating that is right.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        for objective, (low, high) in ranges.items():
            if not low < high:
                expected = "the lowest rating before the highest"
                raise ConfigError(
                    f"range of {objective!r} is wrong", expected=expected, got=(low, high)
                )
        self._ranges = ranges
        self._outside = Tally("rating_out_of_range", "error", "ratings outside the declared range")
        self._sentinels: dict[str, Tally] = {}
        self._lowest: dict[str, float] = {}
        self._rated: set[str] = set()

    def see_rating(self, record: Rating) -> None:
        """Look at the values of a rating."""
        self._rated.update(record.objectives)
        for objective in record.objectives:
            value = record.values[objective] or 0.0
            low, high = self._ranges.get(objective, (value, value))
            if not low <= value <= high:
                self._outside.add(record, f"{objective}: {value:g} is not in [{low:g}, {high:g}]")
            if value in _SENTINELS:
                self._sentinel(objective).add(record, f"{objective}: {value:g}")
            else:
                self._lowest[objective] = min(self._lowest.get(objective, value), value)

    def findings(self) -> list[Finding]:
        """Return both, and ranges of no rating; a sentinel is one where no other is negative."""
        found = super().findings()
        unused = sorted(self._ranges.keys() - self._rated)
        if unused:
            message = f"ranges of objectives without ratings: {', '.join(map(repr, unused))}"
            found.append(Finding("unused_range", "warning", message, len(unused)))
        for objective, tally in sorted(self._sentinels.items()):
            if self._lowest.get(objective, -1.0) >= 0:
                found += tally.findings()
        return found

    def _sentinel(self, objective: str) -> Tally:
        message = f"negative ratings of {objective!r} among others that are not: missing values?"
        return self._sentinels.setdefault(objective, Tally("sentinel_rating", "warning", message))


def _equal_pair(texts: Sequence[str]) -> tuple[int, int] | None:
    """Return the indices of the first two equal texts."""
    places: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text in places:
            return places[text], index
        places[text] = index
    return None


def _equal_but_for_space(texts: Sequence[str]) -> tuple[int, int] | None:
    """Return the indices of two texts with the same words; most differ in how they start or end."""
    bare = [text.strip() for text in texts]
    if len({(text[:1], text[-1:]) for text in bare}) == len(texts):
        return None
    return _equal_pair([" ".join(text.split()) for text in bare])
