r"""LaTeX and plain notation of one text, folded to one list of tokens.

A token is a number, a word, a symbol or an unknown command (`\overline`). Tokens hold no white
space, so a list of them, joined by spaces, is read as itself again. What a reader of the typeset
text cannot see is gone: dollar signs, sizes, fonts, spacing. What he can see stays: braces that
hold an argument together become parentheses, those of a set stay braces (`\{`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, takewhile

from prm.data.checks.notation import (
    FONTS,
    FUNCTIONS,
    HIDDEN,
    LAYOUTS,
    SYMBOLS,
    UNSEEN,
    plain_characters,
    plain_spelling,
)

_LEXEME = re.compile(
    r"""
      \\(?:begin|end)\s*\{[^{}\s]*\}       # an environment
    | \\(?:left|right|middle)\s*\.         # a delimiter that is not seen
    | \\(?:operatorname|hspace|vspace)\*
    | \\[A-Za-z]+ | \\.                    # commands
    | \d+(?:\.\d+)?
    | (?:[^\W\d_\u0370-\u03ff\u1f00-\u1fff][\u0300-\u036f]*)+    # a word; Greek letters are symbols
    | \$\$? | <= | >= | \.{2,}
    | \S
    """,
    re.VERBOSE | re.DOTALL,
)

_ROOT = "√["
"""A root with its degree, which no text can name."""

_FRACTIONS = frozenset(["frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"])
_BINOMIALS = frozenset(["binom", "dbinom", "tbinom"])
_ARGUMENTS = {
    **dict.fromkeys(FONTS | HIDDEN | {"^", "_", "√", "sqrt", "pmod"}, 1),
    **dict.fromkeys(_FRACTIONS | _BINOMIALS | {_ROOT}, 2),
}
"""What takes arguments, and how many."""

_SPLITTING = _FRACTIONS | _BINOMIALS | {"sqrt", _ROOT}
"""Commands whose argument is one character where it has no braces."""

_ORDINALS = ("th", "st", "nd", "rd")
"""Ends of ordinal numbers, which may be raised."""

_COMMANDS = FUNCTIONS | UNSEEN | set(_ARGUMENTS) | {name[1:] for name in SYMBOLS if name[0] == "\\"}
"""Commands that are known; others are looked for in lower case."""

_DEEPEST = 32
"""Groups in groups, and commands in arguments, that are read as such: it bounds the time."""

_OPEN, _CLOSE = "( ", " )"
"""Ends of a fraction until its neighbors are known; no other token holds a space."""


def plain_tokens(text: str) -> list[str]:
    r"""Return a text's tokens.

    Args:
        text: Plain text, LaTeX, or both.

    Returns:
        Its tokens. Joined by spaces and read again, they are the same.

    Example:
        >>> plain_tokens(r"Is $\left(\dfrac12\right)^{n+1} \le 1{,}000$?")
        ['is', '(', '1', '/', '2', ')', '^', '(', 'n', '+', '1', ')', '≤', '1000', '?']
        >>> plain_tokens("1 1 + 2"), plain_tokens("11+2")
        (['1', '1', '+', '2'], ['11', '+', '2'])
    """
    plain = plain_spelling(plain_characters(text))
    if _STRUCTURE.search(plain):
        return _settled(_Parser(_LEXEME.findall(plain)).tokens())
    lexemes = _LEXEME.findall(plain.lower())
    if not SYMBOLS.keys().isdisjoint(lexemes) or ".." in plain:
        lexemes = [_shown(lexeme) for lexeme in lexemes]
    return _settled(lexemes)


_STRUCTURE = re.compile(r"[\\{}$^_√]")
"""Characters of a text that is more than a row of numbers, words and symbols."""


def _shown(lexeme: str) -> str:
    """Return the token of a number, a word, or a character."""
    if lexeme[0] == "." and len(lexeme) > 1:
        return "..."
    return SYMBOLS.get(lexeme) or lexeme.lower()


class _Group:
    """What stands between two braces, as far as it is read.

    Args:
        is_layout: Whether the braces are not seen if nothing takes them for an argument.
    """

    __slots__ = ("after_command", "after_script", "is_layout", "tokens", "waiting")

    def __init__(self, is_layout: bool) -> None:
        self.is_layout = is_layout
        self.tokens: list[str] = []
        self.waiting: list[tuple[str, list[list[str]]]] = []
        self.after_command = False
        self.after_script = False

    def take(self, unit: list[str], *, is_group: bool = False) -> None:
        """Take the next token or group: as an argument of what waits for one, if anything does."""
        if is_group and not self.waiting and self.after_command:
            self.tokens += _held(unit)
            return
        self.after_command = self.after_script = False
        if not is_group and unit[0] in _NO_ARGUMENTS:
            self.end()
        while self.waiting:
            name, arguments = self.waiting[-1]
            short = name in "^_" and len(unit) == 1 and len(unit[0]) == 1
            arguments.append(unit if short or not is_group else _argument(name, unit))
            if len(arguments) < _ARGUMENTS[name]:
                return
            self.waiting.pop()
            unit, is_group = _result(name, arguments), True
            if not unit:
                return
            self.after_script = name in "^_"
        self.tokens += unit

    @property
    def waits_for_a_character(self) -> bool:
        """Whether what comes next is one character, if it has no braces."""
        return bool(self.waiting) and self.waiting[-1][0] in _SPLITTING

    def wait(self, name: str) -> None:
        """Wait for the arguments of a command, a root or a script."""
        if name in "^_" and self.waiting and self.waiting[-1][0] in "^_":
            self.take([self.waiting.pop()[0]])  # two in a row are no scripts
        if len(self.waiting) < _DEEPEST:
            self.waiting.append((name, []))
        else:
            self.take([name])

    def end(self) -> list[str]:
        """Return the tokens; what still waits for an argument shows its name."""
        while self.waiting:
            name, arguments = self.waiting.pop()
            shown = [] if name in FONTS | HIDDEN else ["√" if name in ("sqrt", _ROOT) else name]
            for token in chain(shown, *arguments):
                self.take([token])
        return self.tokens


_NO_ARGUMENTS = frozenset([")", "]", "\\{", "\\}"])
"""Tokens that are no argument of what stands before them."""


def _argument(name: str, unit: list[str]) -> list[str]:
    """Return the tokens of braces that are an argument."""
    if name in "^_":
        is_mark = (
            unit[:1] == ["∘"] or set(unit) == {"'"} or (len(unit) == 1 and unit[0] in _ORDINALS)
        )
        return unit if is_mark else _held(unit, 0)
    return unit if name in FONTS or name == "pmod" else _held(unit)


def _held(unit: list[str], most: int = 1) -> list[str]:
    """Return tokens in parentheses, unless they are in some, or at most so many."""
    if 0 < len(unit) <= most or _is_held(unit):
        return unit
    return ["(", *unit, ")"]


def _is_held(unit: Sequence[str]) -> bool:
    """Whether the first of the tokens is a parenthesis that the last one closes."""
    if unit[:1] != ["("]:
        return False
    depth = 0
    for index, token in enumerate(unit):
        depth += (token == "(") - (token == ")")
        if depth == 0:
            return index == len(unit) - 1
    return False


def _result(name: str, arguments: list[list[str]]) -> list[str]:
    """Return what a command with its arguments shows."""
    first = arguments[0]
    if name in _FRACTIONS:
        return [_OPEN, *first, "/", *arguments[1], _CLOSE]
    if name in _BINOMIALS:
        return ["\\binomial", *first, *arguments[1]]
    if name == "pmod":
        return ["(", "mod", *first, ")"]
    if name in "^_":
        return [name, *first]
    if name in ("√", "sqrt"):
        return ["√", *first]
    if name == _ROOT:
        return ["√", "[", *first, "]", *arguments[1]]
    return [] if name in HIDDEN else first


class _Parser:
    """Reads lexemes with commands, braces and scripts."""

    def __init__(self, lexemes: Sequence[str]) -> None:
        self.lexemes = lexemes
        self.groups = [_Group(is_layout=True)]
        self.in_math = False
        self.too_deep = 0
        self.place = 0

    def tokens(self) -> list[str]:
        """Return the tokens that the lexemes show."""
        while self.place < len(self.lexemes):
            lexeme = self.lexemes[self.place]
            self.place += 1
            self._read(lexeme)
        while len(self.groups) > 1:
            content = self.groups.pop().end()
            self._group.end()
            self._group.tokens += ["\\{", *content]
        return self.groups[0].end()

    def _read(self, lexeme: str) -> None:
        if lexeme == "{" and len(self.groups) == _DEEPEST:
            self.too_deep += 1
            self._group.take(["\\{"])
        elif lexeme == "{":
            self.groups.append(_Group(is_layout=self._is_layout()))
        elif lexeme == "}":
            self._close()
        elif lexeme[0] == "$":
            self.in_math = not self.in_math
        elif lexeme[0] == "\\":
            self._command(lexeme)
        else:
            self._plain(lexeme)

    def _symbol(self, symbol: str) -> None:
        if symbol in ("^", "_", "√"):
            self._group.wait(symbol)
        else:
            self._group.take([symbol])

    @property
    def _group(self) -> _Group:
        return self.groups[-1]

    def _next(self) -> str:
        return self.lexemes[self.place] if self.place < len(self.lexemes) else ""

    def _is_layout(self) -> bool:
        """Whether a brace that was just read belongs to LaTeX, and is not one of a set."""
        around = [*self.lexemes[max(self.place - 2, 0) : self.place - 1], self._next()]
        beside_command = any(lexeme[:1] == "\\" and lexeme[1:2].isalpha() for lexeme in around)
        return self.in_math or self._group.after_script or beside_command

    def _close(self) -> None:
        """End a group, or show a brace that closes nothing."""
        if self.too_deep or len(self.groups) == 1:
            self.too_deep = max(self.too_deep - 1, 0)
            self._group.take(["\\}"])
            return
        closed = self.groups.pop()
        content, outer = closed.end(), self._group
        is_layout = closed.is_layout or (len(content) == 1 and self._next() in ("^", "_"))
        if outer.waiting or outer.after_command:
            outer.take(content, is_group=True)
        elif is_layout:
            outer.tokens += content
        else:
            outer.tokens += ["\\{", *content, "\\}"]

    def _command(self, lexeme: str) -> None:
        name = "".join(lexeme[1:].split())
        if name.startswith(("begin{", "end{")):
            self._environment(name)
            return
        name = name if name in _COMMANDS else name.lower()
        if name in ("(", ")", "[", "]"):
            self.in_math = name in ("(", "[")
        elif name in _ARGUMENTS:
            self._group.wait(name)
            if name == "sqrt" and self._next() == "[":
                self._degree()
        elif f"\\{name}" in SYMBOLS:
            self._symbol(SYMBOLS[f"\\{name}"])
        elif name in FUNCTIONS:
            self._group.take([name])
        elif name and name not in UNSEEN:
            self._group.take([f"\\{name}"])
            self._group.after_command = name.isalpha()

    def _environment(self, name: str) -> None:
        kind, _, which = name.lower().rstrip("}").rstrip("*").partition("{")
        if which in LAYOUTS:
            self.in_math = kind == "begin"
            return
        self._group.take([f"\\{kind}{which}"])
        self._group.after_command = kind == "begin"

    def _degree(self) -> None:
        """Read the degree of a root, such as [3], if it is plain."""
        inside = self.lexemes[self.place + 1 : self.place + 6]
        degree = [_shown(lexeme) for lexeme in takewhile(lambda lexeme: lexeme != "]", inside)]
        if len(degree) < len(inside) and not _STRUCTURE.search("".join(degree)):
            self.place += len(degree) + 2
            self._group.waiting[-1] = (_ROOT, [degree])

    def _plain(self, lexeme: str) -> None:
        """Read a number, a word or a character."""
        group = self._group
        while len(lexeme) > 1 and lexeme.isalnum() and group.waits_for_a_character:
            group.take([lexeme[0].lower()])
            lexeme = lexeme[1:]
        self._symbol(_shown(lexeme))


def _settled(tokens: list[str]) -> list[str]:
    """Return tokens in the form that their neighbors ask for."""
    if _JOINED.isdisjoint(tokens) and tokens.count(".") < 2:
        return tokens
    found: list[str] = []
    for token in _with_fractions(tokens) if _OPEN in tokens else tokens:
        pair = (found[-1] if found else "", token)
        if pair in _PAIRS and found[-2:-1] not in (["^"], ["_"]):
            found[-1] = _PAIRS[pair]
        elif token == ")" and found[-3:-1] == ["√", "("] and found[-1] not in _ENDS:
            del found[-2]
        elif _DOTS.issuperset(pair):
            found[-1] = "..."
        else:
            found.append(token)
    return _with_products(found) if "·" in found else found


_PAIRS = {
    ("^", "∘"): "°",
    ("^", "'"): "'",
    ("\\not", "="): "≠",
    ("\\not", "∈"): "∉",
    **{("^", ordinal): ordinal for ordinal in _ORDINALS},
}
"""Two tokens that show one symbol."""

_DOTS = frozenset([".", "..."])
_JOINED = frozenset(["^", "\\not", "√", "...", "·", _OPEN])
"""Tokens that may become another one beside their neighbors."""

_ENDS = frozenset("([)]")


def _with_fractions(tokens: Sequence[str]) -> list[str]:
    """Put fractions into parentheses where a neighbor would take a part of one."""
    opened: list[int] = []
    found: list[str] = []
    for index, token in enumerate(tokens):
        if token == _OPEN:
            opened.append(len(found))
            before = found[-1] if found else ""
            found.append(_OPEN if before not in _TAKE_THE_NEXT else "(")
        elif token == _CLOSE:
            start = opened.pop()
            after = tokens[index + 1] if index + 1 < len(tokens) else ""
            is_held = found[start] == "(" or after in _TAKE_THE_LAST
            found[start] = "(" if is_held else ""
            found += [")"] * is_held
        else:
            found.append(token)
    return [token for token in found if token]


_TAKE_THE_NEXT = FUNCTIONS | {"/"}
_TAKE_THE_LAST = frozenset("^_!'°")


def _with_products(tokens: Sequence[str]) -> list[str]:
    """Write a dot beside a number as a cross: it is no product of vectors."""
    found = list(tokens)
    for index, token in enumerate(tokens):
        beside = tokens[max(index - 1, 0) : index + 2] if token == "·" else ()
        if any(other[0].isdigit() for other in beside):
            found[index] = "×"
    return found
