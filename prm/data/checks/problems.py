r"""Which records are about one problem, however its text is laid out.

Two texts are of one problem if they are equal once normalized, or if one of them stands in the
other as whole sentences, with an instruction around it. What is compared are 64-bit keys.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from prm.data.checks.keys import text_key
from prm.data.checks.latex import plain_tokens
from prm.data.formats.base import PROBLEM
from prm.records import Record, prompt_text

LONG = 10
"""Tokens of a problem that is also found inside of a longer text."""

_AROUND = 4
"""Sentences before and after a problem in a prompt of an evaluation set that are looked past."""

_STEPS = "(?:carefully|in detail|step (?:by|- by -) step)"
_IT = (
    "(?:it|(?:the|this)(?: following)?(?: (?:math|maths|mathematics|mathematical|word))*"
    "(?: (?:problem|question|exercise|task))?)"
)
_BOX = r"(?:a )?\\boxed(?: \( \)| \( [^()]{1,40} \)| \w{1,20})?(?: format| notation)?"
_ANSWER = "(?: your| the)?(?: final)? answer (?:in|inside|within|with|using|as)"
_REQUEST = "|".join(
    [
        f"(?:think|reason|work|proceed|solve|answer)(?: about| through)?(?: {_IT})? {_STEPS}",
        f"(?:put|write|give|place|provide|state|present|enclose|return){_ANSWER} {_BOX}",
        "show(?: all)? your (?:work|working|steps|reasoning)",
    ]
)
_REQUESTS = (
    f"(?:please |let ' s )?(?:{_REQUEST})"
    f"(?:(?: [.,;])?(?: and| then| please| let ' s)* (?:{_REQUEST}))*"
)
_HEADING = "|".join(
    [
        r"(?:q|question|problem|exercise|math problem)(?: [\d.]+)? [:.]",
        f"(?:please )?(?:solve|answer) {_IT} :",
        rf"{_REQUESTS}(?: [:.!]|(?<=step)|(?<=boxed)|(?<=boxed \( \)))",
    ]
)
_LEADING = re.compile(f"(?:{_HEADING}) (?=.)")
_TRAILING = re.compile(f" (?:{_REQUESTS}|(?:a|answer|solution) :)$")
_ENDINGS = (" step", " carefully", " detail", " work", " working", " steps", " reasoning", " :")
_NEAR = 240
"""Characters at each end of a text among which a heading or a request is looked for."""


@lru_cache(maxsize=1024)  # neighboring rows are often about one problem
def normalize_problem(text: str) -> str:
    r"""Return a problem's text without what changes between copies of it.

    The text is a row of tokens: numbers, words and symbols, joined by spaces. LaTeX and plain
    notation of the same become the same, and so do upper and lower case. A heading ("Problem 3:"),
    a request to work in steps or to box the answer, and the last full stop or question mark go.

    Returns:
        The normalized text, which is its own normalized text.

    Example:
        >>> normalize_problem(r"**What** is $\dfrac{1}{2} \times 1{,}000$ ?")
        '× × what × × is 1 / 2 × 1000'
        >>> normalize_problem("Question: what is ½ · 1000?\n\nLet's think step by step.")
        'what is 1 / 2 × 1000'
    """
    return _bare(" ".join(plain_tokens(text)))


def _bare(key: str) -> str:
    """Return a normalized text without headings, requests and closing marks; never nothing."""
    bounds, before = (0, len(key)), (0, 0)
    while bounds != before:
        before = bounds
        for shorten in (_unmarked, _unheaded, _unasked):
            shorter = shorten(key, *bounds)
            if shorter != bounds and _SAYS_SOMETHING.search(key, *shorter):
                bounds = shorter
    return key[slice(*bounds)]


def _unmarked(key: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of a text without closing marks; that of a factorial stays."""
    while key.endswith((" .", " ?"), start, end) or (
        key.endswith(" !", start, end) and key[max(start, end - 4) : end - 2].isalpha()
    ):
        end -= 2
    return start, end


def _unheaded(key: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of a text without the heading or the request that it begins with."""
    found = _LEADING.match(key, start, min(end, start + _NEAR))
    return (found.end() if found else start), end


def _unasked(key: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of a text without the request that it ends with."""
    tail = max(start, end - _NEAR)
    if key.endswith(_ENDINGS, start, end) or key.find("\\boxed", tail, end) >= 0:
        found = _TRAILING.search(key, tail, end)
        end = found.start() if found else end
    return start, end


_SAYS_SOMETHING = re.compile(r"[^\W_]")
_FIRST = re.compile(rf"(?:\S+ ){{{LONG - 1}}}\S+")
_AFTER = r"^|(?<=[.?!:;\"'] )|(?<=[.?!] \) )|(?<=\[ / asy \] )"
_BEFORE = r"$|(?= [.?!;\"'])|(?<=[.?!] \)|\.\.\.)(?= )|(?<=\[ / asy \])(?= )"
_STARTS, _ENDS = re.compile(f"(?:{_AFTER})(?=({_FIRST.pattern}))"), re.compile(_BEFORE)
"""Where a sentence starts, with its first tokens, and where one ends; a drawing is one, too."""

_INNER = re.compile(r"[.?!:;\"'\]] ")
"""What stands between two sentences; most texts are one."""


def problem_text(record: Record) -> str:
    r"""Return a record's problem as `Problems` compares it: the normalized prompt.

    Where the metadata names the bare problem, which the prompt says more about (choices), its
    normalized text follows after a line feed.

    Example:
        >>> from prm.records import Chain
        >>> problem_text(Chain("1+1?\nA: 2", ["2"], metadata={"problem": "1+1?"}))
        '1 + 1 ? a : 2\n1 + 1'
    """
    whole = normalize_problem(prompt_text(record.prompt))
    bare = record.metadata.get(PROBLEM)
    return f"{whole}\n{normalize_problem(bare)}" if isinstance(bare, str) and bare else whole


@dataclass(frozen=True)
class Problems:
    """Keys of problems, in 8 to 16 bytes each, that are looked for in texts.

    Args:
        keys: Keys of the problems, sorted, each once, shape `[problem]`, int64.
        anchors: Keys of the first `LONG` tokens of the long ones, sorted, each once, int64.
        longest: Characters of the longest one.
    """

    keys: NDArray[np.int64]
    anchors: NDArray[np.int64]
    longest: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> Problems:
        """Collect the problems of texts that `problem_text` returned."""
        keys, anchors, longest = array("q"), array("q"), 0
        for text in texts:
            for problem in _problems_of(text):
                keys.append(text_key(problem))
                start = _FIRST.match(problem)
                if start:
                    anchors.append(text_key(start[0]))
                    longest = max(longest, len(problem))
        return cls(np.unique(np.array(keys)), np.unique(np.array(anchors)), longest)

    def found_in(self, text: str) -> list[int]:
        """Return the index of each problem that a text is about.

        Args:
            text: What `problem_text` returned.

        Returns:
            Indices in `keys` of the prompt and the bare problem, and of long problems that stand
            in the prompt as whole sentences; ascending.

        Example:
            >>> problem = normalize_problem("What is the sum of all primes p with 10 < p < 20?")
            >>> problems = Problems.of([problem, normalize_problem("1 + 1 = ?")])
            >>> long = normalize_problem(f"You are a pupil. {problem}? Answer in one word.")
            >>> problems.found_in(long) == problems.found_in(problem) != []
            True
            >>> problems.found_in(normalize_problem("You are a pupil. 1 + 1 = ? Answer."))
            []
        """
        whole, _, bare = text.partition("\n")
        problems = [problem for problem in (whole, bare) if problem]
        found = {_place(self.keys, problem) for problem in (*problems, *self._parts(whole))}
        return sorted(place for place in found if place is not None)

    def _parts(self, whole: str) -> Iterator[str]:
        """Yield the parts of a prompt, of whole sentences, that begin as a long problem does."""
        if not _INNER.search(whole):
            return
        ends = [end.start() for end in _ENDS.finditer(whole)]
        for start in _STARTS.finditer(whole):
            if _place(self.anchors, start[1]) is None:
                continue
            first, last = start.start() + len(start[1]), start.start() + self.longest
            for end in ends[bisect_left(ends, first) : bisect_right(ends, last)]:
                yield whole[start.start() : end]


def _problems_of(text: str) -> list[str]:
    """Return the normalized prompt, and the bare problem if it is one without the prompt.

    A short one that the prompt goes on from is none: several questions may begin with "Which of
    these is true?", and differ in their choices.
    """
    whole, _, bare = text.partition("\n")
    is_problem = _FIRST.match(bare) or not whole.startswith(bare)
    return [problem for problem in (whole, bare if is_problem else "") if problem]


def _place(keys: NDArray[np.int64], text: str) -> int | None:
    """Return the place of a text's key among sorted keys, `None` if it is not there."""
    key = text_key(text)
    place = int(keys.searchsorted(key))
    return place if place < len(keys) and keys[place] == key else None


class ProblemIndex:
    r"""Problems of evaluation sets, by normalized text.

    Args:
        sources: Text of each problem, as `problem_text` returns it, to the names of the sets that
            hold it.

    Example:
        >>> from prm.records import Chain
        >>> index = ProblemIndex.of([Chain(r"What is $2 \times 3$?", ["6"], source="test")])
        >>> index.sets_with(Chain("Question: What is 2 * 3?", ["6"]))
        {'test'}
    """

    def __init__(self, sources: Mapping[str, Iterable[str]]) -> None:
        self._problems = Problems.of(sources)
        self._sets: dict[int, set[str]] = {}
        for text, names in sources.items():
            for problem in (*_problems_of(text), *_inner_parts(text)):
                self._sets.setdefault(text_key(problem), set()).update(names)

    @classmethod
    def of(cls, records: Iterable[Record]) -> ProblemIndex:
        """Index the problems of records."""
        sources: dict[str, set[str]] = {}
        for record in records:
            sources.setdefault(problem_text(record), set()).add(record.source)
        return cls(sources)

    def sets_with(self, record: Record) -> set[str]:
        """Return the names of the sets that hold the record's problem."""
        return set().union(*self.find(record).values())

    def find(self, record: Record) -> dict[int, set[str]]:
        """Return the key of each indexed problem that a record is about, with its sets."""
        if not self._sets:
            return {}
        text = problem_text(record)
        own = map(text_key, text.split("\n"))
        inside = self._problems.keys[self._problems.found_in(text)].tolist()
        return {key: self._sets[key] for key in (*own, *inside) if key in self._sets}


def _inner_parts(text: str) -> Iterator[str]:
    """Yield what is long in a prompt once a few whole sentences around it are left out."""
    whole, _, _ = text.partition("\n")
    starts = [start.start() for start in _STARTS.finditer(whole)][: _AROUND + 1]
    ends = [end.start() for end in _ENDS.finditer(whole)][-_AROUND - 1 :]
    for start, end in product(starts, ends):
        if end - start < len(whole) and _FIRST.match(whole, start, end):
            yield whole[start:end]
