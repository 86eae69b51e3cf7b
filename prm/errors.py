"""The errors a user can meet: each says what was expected, what came, where, and what to do.

Every class also derives from the built-in that callers would guess (`ValueError`, `OSError`), so
code that does not know `prm` still catches it.
"""

from __future__ import annotations

from functools import partial


class PrmError(Exception):
    """Base of all errors that `prm` raises on purpose.

    Args:
        problem: One sentence that names the problem.
        expected: What would have been right.
        got: What came instead; long values are cut to 200 characters.
        where: File, line, row id or field that the problem was found at.
        fix: What the user can do about it.

    Example:
        >>> print(PrmError("step counts differ", expected="3 labels", got=2, where="a.jsonl:7"))
        a.jsonl:7: step counts differ: expected 3 labels, got 2
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        got: object = None,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = expected
        self.got = got
        self.where = where
        self.fix = fix
        super().__init__(problem)

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        facts = []
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if self.got is not None:
            facts.append(f"got {_shorten(self.got)}")
        if facts:
            text += ": " + ", ".join(facts)
        if self.fix:
            text = f"{text.removesuffix('.')}. {self.fix}"
        return text

    def at(self, where: str) -> PrmError:
        """Return this error with `where` put in front of the place it already names."""
        self.where = f"{where}: {self.where}" if self.where else where
        return self

    def __reduce__(self) -> tuple[object, ...]:
        facts = {name: getattr(self, name) for name in ("expected", "got", "where", "fix")}
        return partial(type(self), self.problem, **facts), ()


def _shorten(value: object, limit: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class DataError(PrmError, ValueError):
    """A file, row or record cannot be read as what it is said to be."""


class SpecError(PrmError, ValueError):
    """A `RewardSpec` is incomplete, contradictory, too new, or does not fit its model."""


class ConfigError(PrmError, ValueError):
    """Options contradict each other or name something that does not exist."""


class ModelError(PrmError, ValueError):
    """A model folder cannot be loaded, or a model cannot do what is asked of it."""


class OutputError(PrmError, OSError):
    """A result cannot be written."""


class RemoteError(PrmError, ConnectionError):
    """A server cannot be reached, refuses, or gives an answer that cannot be right."""


class MissingDependencyError(PrmError, ImportError):
    """An optional package is needed for what was asked."""
