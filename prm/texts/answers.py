r"""Final answers: taken out of a response, and made comparable.

Answers are compared whole and never searched for in a text, so that 1 is not found in 21.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from prm.errors import ConfigError

Extractor = Callable[[str], str | None]
"""From a response to its canonical final answer; `None` if it has none."""

_NUMBER = r"[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?"
_RESULT = re.compile(rf"=\s*\$?({_NUMBER})(?![\w.]*\d)")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_MAX_DIGITS = 100


def extractor(kind: str = "auto") -> Extractor:
    r"""Return what finds the final answer of a response.

    Args:
        kind: `boxed`: the content of the last `\boxed{...}`. `number`: the number after the last
            `=` that has one. `auto`: `boxed` where there is a box, else `number`. Anything else is
            a regular expression with one group; its last match counts.

    Raises:
        ConfigError: It is neither a kind nor such a regular expression.

    Example:
        >>> extractor()("2 + 3 = 5\n5 * 4 = 20"), extractor()(r"So \boxed{\frac{1}{2}}.")
        ('20', '1/2')
        >>> extractor(r"answer is (\w+)")("The answer is B.")
        'B'
    """
    if kind in _KINDS:
        return _KINDS[kind]
    try:
        pattern = re.compile(kind)
    except re.error as error:
        raise _wrong(kind, f"{kind!r} ({error})") from None
    if pattern.groups != 1:
        raise _wrong(kind, f"{kind!r} with {pattern.groups} groups")
    return lambda text: _last(pattern, text)


def canonical_answer(text: str) -> str:
    r"""Return an answer in the form that equal answers share.

    Numbers become integers or reduced fractions; of other answers only white space, dollar signs,
    a final period and `\text{}` around the whole are taken away.

    Example:
        >>> [canonical_answer(text) for text in ("14.0", "$1,400$", r"\frac{2}{4}", "0.5", "x + 1")]
        ['14', '1400', '1/2', '1/2', 'x+1']
    """
    bare = re.sub(r"\\left|\\right|\\[,;! ]|[\s$]", "", text).rstrip(".")
    bare = re.sub(r"^\\(?:text|mathrm|mathbf)\{([^{}]*)\}$", r"\1", bare)
    plain = _FRACTION.sub(r"\1/\2", bare).replace("\u2212", "-")
    if not re.fullmatch(_NUMBER, plain) or len(plain) > _MAX_DIGITS:
        return bare
    whole, _, divisor = plain.replace(",", "").partition("/")
    if divisor and not int(divisor):
        return bare
    return str(Fraction(whole) / int(divisor or 1))


def _boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` whose braces close."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for index, character in enumerate(text[start:], start):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth == 0:
                return canonical_answer(text[start:index])
    return None


def _number(text: str) -> str | None:
    return _last(_RESULT, text)


def _auto(text: str) -> str | None:
    boxed = _boxed(text)
    return _number(text) if boxed is None else boxed


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = [match[1] for match in pattern.finditer(text) if match[1]]
    return canonical_answer(found[-1]) if found else None


def _wrong(kind: str, got: str) -> ConfigError:
    return ConfigError(
        "the answer cannot be found that way",
        expected=f"{', '.join(_KINDS)}, or a regular expression with one group",
        got=got,
    )


_KINDS: dict[str, Extractor] = {"auto": _auto, "boxed": _boxed, "number": _number}
