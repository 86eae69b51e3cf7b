"""Problems that two data sets share, found by normalized problem text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prm.data.formats.base import PROBLEM
from prm.records import Chain, prompt_text

_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle)(?![a-z])|\\[,;:! ]|\\?\$|[\s{}]|(?<=\\)[dt](?=frac)"
)


def normalize_problem(text: str) -> str:
    r"""Return a problem's text without what changes between copies of it.

    Case, white space, Unicode forms, LaTeX layout commands, braces, dollar signs and the last
    full stop or question mark go; digits, letters and operators stay.

    Example:
        >>> normalize_problem(r"What is $\dfrac{1}{2} + x$ ?") == normalize_problem(
        ...     r"what is \frac{1}{2}+x"
        ... )
        True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _LAYOUT.sub("", folded).rstrip(".?!")


def problem_keys(chain: Chain) -> set[str]:
    """Return the normalized texts of a chain's problem: the bare problem and the whole prompt."""
    texts = (str(chain.metadata.get(PROBLEM) or ""), prompt_text(chain.prompt))
    return {key for text in texts if (key := normalize_problem(text))}


@dataclass
class ProblemIndex:
    """Problems of evaluation sets, by normalized text.

    Args:
        sources: Normalized text to the names of the sets that hold it.
    """

    sources: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, chains: Iterable[Chain]) -> ProblemIndex:
        """Index the problems of chains."""
        index = cls()
        for chain in chains:
            for key in problem_keys(chain):
                index.sources.setdefault(key, set()).add(chain.source)
        return index

    def sets_with(self, chain: Chain) -> set[str]:
        """Return the names of the sets that hold the chain's problem."""
        return set().union(*(self.sources.get(key, ()) for key in problem_keys(chain)))


@dataclass
class Decontamination:
    """What `without_overlap` has removed so far."""

    num_kept: int = 0
    num_removed: int = 0
    problems: set[str] = field(default_factory=set)
    removed_by_set: dict[str, int] = field(default_factory=dict)
    removed_ids: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {
            "kept_chains": self.num_kept,
            "removed_chains": self.num_removed,
            "removed_problems": len(self.problems),
            "removed_chains_by_evaluation_set": dict(sorted(self.removed_by_set.items())),
            "removed_ids": self.removed_ids,
        }


def without_overlap(
    chains: Iterable[Chain], index: ProblemIndex, removed: Decontamination
) -> Iterator[Chain]:
    """Yield the chains whose problem is in no evaluation set, and count the others in `removed`.

    Example:
        >>> test = ProblemIndex.of([Chain("1 + 1 = ?", ["2"], source="test")])
        >>> removed = Decontamination()
        >>> train = [Chain("1+1=", ["3"]), Chain("1-1=", ["0"])]
        >>> [chain.prompt for chain in without_overlap(train, test, removed)], removed.num_removed
        (['1-1='], 1)
    """
    for chain in chains:
        names = index.sets_with(chain)
        if not names:
            removed.num_kept += 1
            yield chain
            continue
        removed.num_removed += 1
        removed.problems.add(min(problem_keys(chain) & index.sources.keys()))
        removed.removed_ids.append(chain.id)
        for name in names:
            removed.removed_by_set[name] = removed.removed_by_set.get(name, 0) + 1
