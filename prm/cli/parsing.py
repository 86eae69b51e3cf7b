"""Typed functions as commands: jsonargparse reads the signature, and its errors fit on a line."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli


def run_function(function: Callable[..., Any], args: Sequence[str], *, prog: str) -> Any:
    """Call `function` with the options in `args` and return what it returns.

    Args:
        function: A typed function; each parameter becomes an option, its docstring the help.
        args: Words of the command line. Options cannot be abbreviated; dashes in their names may
            stand for underscores, and a boolean option without a value means true.
        prog: Name of the command in messages.

    Raises:
        SystemExit: Help was asked for (code 0), or an option is wrong (code 2).
    """
    return auto_cli(
        function,
        args=spell_out(args, function),
        as_positional=False,
        parser_class=CommandParser,
        prog=prog,
        allow_abbrev=False,
        description=_description(function),
        formatter_class=CommandHelp,
    )


def spell_out(args: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """Write options as jsonargparse wants them: `--keep-text` becomes `--keep_text true`.

    Example:
        >>> def command(keep_text: bool = False, name: str = ""): ...
        >>> spell_out(["--keep-text", "--name", "a-b"], command)
        ['--keep_text', 'true', '--name', 'a-b']
    """
    parameters = inspect.signature(function).parameters.items()
    flags = {f"--{name}" for name, item in parameters if item.annotation in (bool, "bool")}
    words: list[str] = []
    for index, word in enumerate(args):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        words.append(option + equals + value)
        alone = index + 1 == len(args) or args[index + 1].startswith("--")
        if option in flags and not equals and alone:
            words.append("true")
    return words


def _description(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\nArgs:\n")[0].strip()


class CommandHelp(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Shows descriptions as they are written, so that examples keep their lines."""


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
