"""Typed functions as commands: jsonargparse reads the signature, and its errors fit on a line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli


def run_function(function: Callable[..., Any], args: Sequence[str], *, prog: str) -> Any:
    """Call `function` with the options in `args` and return what it returns.

    Args:
        function: A typed function; each parameter becomes an option, its docstring the help.
        args: Words of the command line; abbreviated options are refused.
        prog: Name of the command in messages.

    Raises:
        SystemExit: Help was asked for (code 0), or an option is wrong (code 2).
    """
    return auto_cli(
        function,
        args=list(args),
        as_positional=False,
        parser_class=CommandParser,
        prog=prog,
        allow_abbrev=False,
    )


class CommandParser(ArgumentParser):
    """A parser that reports a wrong option in one line, with the option that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where help is, and exit with code 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        text = shorten_error(message) + _suggestion(message, parser._option_string_actions)
        print(f"error: {text} See `{program} --help`", file=sys.stderr)
        self.exit(2)


def shorten_error(message: str) -> str:
    """Return a message of jsonargparse without its inner types and repeated alternatives.

    Example:
        >>> print(shorten_error('''Parser key "threshold":
        ...   Does not validate against any of the Union subtypes
        ...   Subtypes: [<class 'float'>, <class 'NoneType'>]
        ...   Errors:
        ...     - Expected a <class 'float'>
        ...     - Expected a <class 'NoneType'>
        ...   Given value type: <class 'str'>
        ...   Given value: abc'''))
        --threshold: expected a float, got abc
    """
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.", "")
    lines = [line.strip(" -") for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE)]
    short = re.sub(r'Parser key "([^"]+)":;', r"--\1:", "; ".join(kept))
    return re.sub(r"[.;] (?:Given|Got) value: ", ", got ", short).replace("Expected", "expected")


def _suggestion(message: str, options: Iterable[str]) -> str:
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    near = difflib.get_close_matches(unknown[1], options, 1) if unknown else []
    return f". Did you mean {near[0]}?" if near else "."


_NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a NoneType",
    "Given value type:",
)
