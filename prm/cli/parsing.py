"""Dataclasses as commands: jsonargparse reads their fields, and its errors fit on a line."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn, get_type_hints

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader

from prm.cli.aggregation import fold_dotted
from prm.cli.nulls import refuse_nulls
from prm.cli.options import Options
from prm.errors import PrmError
from prm.moved import OPTIONS

_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """Read YAML as jsonargparse does, but a text such as `###` is one, not a comment on nothing."""
    value = _load_yaml(text)
    is_nothing = "\n" in text or text.strip().casefold() in ("", "null")
    return text if value is None and not is_nothing else value


set_loader("yaml", _load, (yaml.YAMLError,))


def run_command(command: type[Any], args: Sequence[str], *, prog: str) -> int | None:
    """Set the options of a command from `args`, run it, and return its exit code.

    Args:
        command: A subclass of `Options` with a method `run`; each field becomes an option, the
            docstring the help.
        args: Words of the command line. Options cannot be abbreviated; dashes in their names may
            stand for underscores, and a boolean option without a value means true.
        prog: Name of the command in messages.

    Raises:
        SystemExit: Help was asked for (code 0), or an option is wrong (code 2).
        PrmError: The command, or a class that an option names, refuses its arguments, or one is
            null that cannot be.
    """
    parser = command_parser(command, prog)
    try:
        parsed = parser.parse_args(spell_out(args, command))
        refuse_nulls(parsed, command)
        options = parser.instantiate(parsed)
        options.pop("config", None)
        code: int | None = command(**options).run()
    except ValueError as error:
        raise refusal(error)  # noqa: B904
    return code


def command_parser(command: type[Options], prog: str) -> CommandParser:
    """Return the parser of a command: required options first, those of groups last."""
    parser = CommandParser(
        prog=prog,
        allow_abbrev=False,
        description=_description(command),
        formatter_class=CommandHelp,
    )
    parser.add_argument("--config", action="config", help="Path to a configuration file.")
    # jsonargparse looks for inherited types in the modules of the first bases only.
    command.__init__.__annotations__.update(get_type_hints(command))
    every = {field.name for field in fields(command)}
    for heading, names in _sections(command):
        place = parser.add_argument_group(heading) if heading else parser
        place.add_class_arguments(command, as_group=False, sub_configs=True, skip=every - names)
    return parser


def _sections(command: type[Options]) -> list[tuple[str, set[str]]]:
    """Return the options in the order of the help: sets of names, each with its heading.

    Options of the command itself have no heading, nor has one that is alone in its group.
    """
    every = {field.name for field in fields(command)}
    required = {field.name for field in fields(command) if field.default is MISSING}
    rest = every - required
    groups: dict[str, set[str]] = {}
    for owner in command.__mro__:
        names = rest & inspect.get_annotations(owner).keys()
        rest -= names
        groups.setdefault(_heading(owner), set()).update(names)
    own = groups.pop(_heading(command))
    alone = {name for names in groups.values() if len(names) == 1 for name in names}
    large = [(heading, names) for heading, names in groups.items() if len(names) > 1]
    sections = [("", required), ("", own), ("", alone), *large]
    return [(heading, names) for heading, names in sections if names]


def _heading(group: type) -> str:
    return (group.__doc__ or "").partition("\n")[0].rstrip(".")


def refusal(error: BaseException) -> BaseException:
    """Return the error of ours that jsonargparse wrapped, or the error itself."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, PrmError):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def spell_out(args: Sequence[str], command: type[Options]) -> list[str]:
    """Write options as jsonargparse wants them: `--keep-text` becomes `--keep_text true`.

    Formats may be named as their files are, in any case: `mr_ben` becomes `MRBen`. A command on
    stored scores takes their file as its first word.

    Raises:
        ConfigError: There is no format of that name, or as `fold_dotted`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Command:
        ...     keep_text: bool = False
        ...     name: str = ""
        >>> spell_out(["--keep-text", "--name", "a-b"], Command)
        ['--keep_text', 'true', '--name', 'a-b']
    """
    types = {field.name: str(field.type) for field in fields(command)}
    flags = {f"--{name}" for name, kind in types.items() if kind in ("bool", "<class 'bool'>")}
    formats = {f"--{name}" for name, kind in types.items() if "Format" in kind}
    args = fold_dotted(args, list(types))
    if "scores" in types and args[:1] and args[0][0] != "-":
        args = ["--scores", *args]
    words: list[str] = []
    for index, word in enumerate(args):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        elif words and words[-1] in formats:
            option = _format_class(option)
        words.append(option + equals + value)
        alone = index + 1 == len(args) or args[index + 1].startswith("--")
        if option in flags and not equals and alone:
            words.append("true")
    return words


def _format_class(name: str) -> str:
    """Return the class name of a format; a class path or a JSON value stays as it is."""
    if not re.fullmatch(r"[\w-]+", name):
        return name
    from prm.data.formats import format_named

    return format_named(name).__name__


def _description(command: type[Options]) -> str:
    return (inspect.getdoc(command) or "").partition("\nArgs:\n")[0].strip()


class CommandHelp(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Shows descriptions as they are written, so that examples keep their lines."""


class CommandParser(ArgumentParser):
    """A parser that reports a wrong option in one line, with the option that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where help is, and exit with code 2.

        An error in a nested argument goes up instead, to be reported with its place.
        """
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        short = shorten_error(message)
        text = short + _suggestion(short, parser._option_string_actions)
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
    for kind in _OTHER_KINDS:
        telling = [line for line in kept if not re.match(kind, line)]
        if not all(re.match(_AROUND, line) for line in telling):
            kept = telling
    short = "; ".join(kept)
    for pattern, replacement in _CLEARER:
        short = re.sub(pattern, replacement, short)
    return short


def _suggestion(message: str, options: Iterable[str]) -> str:
    moved = re.search(r"(?:there is no class|Option|unrecognized arguments:) \W*([\w.]+)", message)
    new = moved and OPTIONS.get(moved[1].rpartition(".")[2])
    if new:
        return f". It is {new} now."
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)|there is no class (\S+)", message)
    if unknown is None:
        return "."
    known = options if unknown[1] else _class_names()
    name = unknown[1] or unknown[2].rpartition(".")[2]
    near = difflib.get_close_matches(name, known, 1)
    if near == [name]:
        return " of this kind."
    return f". Did you mean {near[0]}?" if near else "."


def _class_names() -> set[str]:
    """Return the names of our classes that are loaded, and so can be named in an option."""
    modules = [module for name, module in sys.modules.items() if name.startswith("prm.")]
    return {name for module in modules for name, _ in inspect.getmembers(module, inspect.isclass)}


_CLEARER = (
    (r'Parser key "([^"]+)":;', r"--\1:"),
    (r"Problem with given class_path '(?:\w+\.)*(\w+)':;", r"\1:"),
    (r"[.;] (?:Given|Got) value: ", ", got "),
    (r",? got \[?(?:Namespace\(|NestedArg\(|\{'class_path').*$", ""),
    (r"module '([\w.]+)' has no attribute '(\w+)'", r"there is no class \1.\2"),
    (r"Type Callable\[.*?\] expects a function or a callable class: ", ""),
    (r"(, got [^\[{]+), got [\[{].*$", r"\1"),
    (r"Import path (?:\w+\.)*(\w+) does not .* subclass of (\w+)", r"\1 is no \2"),
    (r"Expected a path but (\S+) either not accessible or invalid;.*", r"there is no class \1"),
    (r"Expected a dot import path string: ([^\s,;]+)", r"there is no class \1"),
    (r"((?:there is no class| is no) \w+), got [\[{].*$", r"\1"),
    (r"Expected a Literal\[([^\]]*)\]", r"expected one of \1"),
    (r"Expected a (?=[aeiou])", "expected an "),
    (r"\bExpected\b", "expected"),
)
"""What jsonargparse says, and how a person would say it."""

_OTHER_KINDS = (r"Not a valid subclass of", r"Expected a (?!path|dot)")
"""What alternatives say that were not meant; a reason beside them is what is wrong."""

_AROUND = r"Parser key|Problem with given class_path|(?:Given|Got) value"
"""Where it is, and what came: no reason."""

_NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a NoneType",
    "Given value type:",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
)
