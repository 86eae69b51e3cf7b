"""Options: rules between them, and that those of several commands stand in one place."""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import ClassVar

import pytest

from prm.cli.main import DATA, USE, main
from prm.cli.options import AggregationOptions, OptionRules, Options, ScoringOptions
from prm.cli.parsing import command_parser
from prm.errors import ConfigError

COMMANDS = USE | DATA

MEANS_SOMETHING_ELSE = {
    "model": "loaded, or a source of the spec, or a name to size",
    "input": "each command says what its rows are",
    "output": "each command says what it writes",
    "format": "each command says what it reads without it",
    "prompt": "of a chain, of responses, or to be answered",
    "max_tokens": "`prm size` is about training",
    "seed": "of samples, of a gate, or of data",
    "split": "of a dataset, or of generated problems",
    "temperature": "of a generator, or of a gate",
    "against": "evaluation sets, or an objective",
}
"""Options that have the same name in several commands, but not one meaning."""


def command_of(name: str) -> type[Options]:
    module, _, attribute = COMMANDS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def owner(command: type[Options], name: str) -> type:
    """The class that declares an option without asking for one that is optional elsewhere."""
    owners = [cls for cls in command.__mro__ if name in inspect.get_annotations(cls)]
    return owners[-1]


def test_an_option_of_several_commands_has_one_default_and_one_help() -> None:
    found: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
    for name in COMMANDS:
        for action in command_parser(command_of(name), name)._actions:
            found[action.dest].add((str(action.default), action.help))
    differ = {option for option, said in found.items() if len(said) > 1} - {"format.help"}
    assert differ == MEANS_SOMETHING_ELSE.keys()


def test_an_option_of_several_commands_is_declared_in_one_class() -> None:
    owners: dict[str, set[type]] = defaultdict(set)
    for name in COMMANDS:
        for option in fields(command_of(name)):
            owners[option.name].add(owner(command_of(name), option.name))
    several = {option for option, classes in owners.items() if len(classes) > 1}
    assert several <= MEANS_SOMETHING_ELSE.keys()
    assert len(owners["max_tokens"]) == 2


def test_every_option_is_explained() -> None:
    for name in COMMANDS:
        helps = {
            action.dest: action.help for action in command_parser(command_of(name), name)._actions
        }
        assert all(helps[option.name] for option in fields(command_of(name))), name


def test_help_has_groups_with_headings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rank", "--help"])
    shown = capsys.readouterr().out
    plain, scores = shown.index("\noptions:\n"), shown.index("\nScores, stored or to be made:\n")
    assert plain < shown.index("\n  --top TOP") < shown.index("\n  --overwrite ") < scores
    assert scores < shown.index("\n  --scores SCORES") < shown.index("\n  --input INPUT")
    assert shown.index("\n  --aggregation ") > shown.index("\nHow scores become the reward:\n")


@dataclass(frozen=True, kw_only=True)
class Source(Options):
    """A source."""

    NEEDS: ClassVar[OptionRules] = (("--rows", "--file", "--folder"),)

    file: str | None = None
    folder: str | None = None
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Copy(Source, AggregationOptions):
    """Copy something."""

    CONFLICTS: ClassVar[OptionRules] = (("--fast", "--how slow"),)
    NEEDS: ClassVar[OptionRules] = (("--how slow", "--to"),)

    to: str
    how: str = "quick"
    fast: bool = False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fast": True, "how": "slow"}, "--fast and --how slow contradict each other. Give one of"),
        ({"rows": 0}, "--rows needs --file or --folder. Give --file or --folder as well"),
        ({"rows": 2, "fast": True}, "--rows needs --file or --folder"),
    ],
)
def test_rules_of_groups_and_of_the_command_hold(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Copy(to="a", **options)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    "options", [{"rows": 2, "folder": "b"}, {"how": "slow"}, {"fast": True}, {"how": "quick"}]
)
def test_options_that_fit_are_accepted(options: dict[str, object]) -> None:
    assert Copy(to="a", **options).to == "a"  # type: ignore[arg-type]


def test_given_options_differ_from_their_default() -> None:
    given = Copy(to="a", how="slow", rows=None).given()
    assert given == {"--to", "--to a", "--how", "--how slow"}


def test_a_group_can_ask_for_an_option_that_is_optional_elsewhere() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Strict(Source):
        """Strict."""

        file: str = field()

    with pytest.raises(TypeError, match="file"):
        Strict()  # type: ignore[call-arg]
    assert Strict(file="a").given() >= {"--file"}


def test_a_forward_pass_has_tokens() -> None:
    with pytest.raises(ConfigError, match="--max_tokens is wrong: expected at least 1, got 0"):
        ScoringOptions(max_tokens=0)
