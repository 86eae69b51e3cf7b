"""The `prm` command: finds the class behind a command's name, runs it, reports its errors.

Nothing heavy is imported before a command is known, so `prm --help` answers at once. The table
`COMMANDS` is the whole command line: a new command is a dataclass of options and one row here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import prm
from prm.errors import ConfigError, PrmError


class Command(NamedTuple):
    """One row of the command table.

    Args:
        target: `module:Class` of a command, or `module:function` that parses its own arguments.
        summary: What the command does, for the help.
    """

    target: str
    summary: str


TRAINING = {
    "fit": Command("prm.cli.fit:main", "train a model and save it with its spec"),
    "validate": Command("prm.cli.fit:main", "measure a checkpoint on the validation data"),
    "test": Command("prm.cli.fit:main", "measure a checkpoint on the test data"),
    "predict": Command("prm.cli.fit:main", "run a checkpoint over the prediction data"),
}
"""Commands that parse their own arguments: LightningCLI with configuration files."""

USE = {
    "score": Command("prm.cli.score:Score", "score chains step by step, or responses by objective"),
    "reward": Command("prm.cli.reward:Reward", "aggregate stored scores into rewards again"),
    "rank": Command("prm.cli.rank:Rank", "order the responses to each prompt: best of N"),
    "search": Command("prm.cli.search:Search", "sample responses or steps and choose the best"),
    "filter": Command("prm.cli.filter:Filter", "keep or drop rows by reward, objective or rank"),
    "serve": Command("prm.cli.serve:Serve", "answer over HTTP: trainers, engines, and a page"),
    "gate": Command("prm.cli.gate:Gate", "let the prompt choose the weights of the objectives"),
    "export": Command("prm.cli.export:Export", "write a model for trainers and serving engines"),
    "size": Command("prm.cli.size:Size", "estimate the memory and speed of a training"),
    "audit tradeoffs": Command(
        "prm.cli.audit:Tradeoffs", "show how the choice of aggregation changes decisions"
    ),
}

DATA = {
    "data check": Command("prm.cli.data:Check", "find what is wrong in labeled data"),
    "data convert": Command("prm.cli.data:Convert", "write any source format as canonical rows"),
    "data decontaminate": Command(
        "prm.cli.data:Decontaminate", "remove problems that an evaluation set contains"
    ),
    "data make arithmetic": Command(
        "prm.cli.make:Arithmetic", "generate chains whose step labels are known exactly"
    ),
    "data make replies": Command(
        "prm.cli.make:Replies", "generate replies whose helpfulness, safety, factuality are known"
    ),
}

GROUPS = {"Train and measure": TRAINING, "Use a model": USE, "Prepare data": DATA}
COMMANDS = TRAINING | USE | DATA

EXAMPLES = """\
Start here:
  prm data make arithmetic --help             chains with known labels, to try everything on
  prm data make replies --help                replies with known values, for several objectives
  prm fit --config configs/outcome/replies.yaml
  prm score --help                            score with the model that fit saved
"""

DEBUG_VARIABLE = "PRM_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The words after `prm`; the arguments of the process if `None`.

    Returns:
        What the command returns (`None` counts as 0); 2 after a `PrmError`, which is printed as one
        line unless the environment variable `PRM_DEBUG` is set; 130 after Ctrl-C; 141 when the
        reader of a pipe has gone.

    Example:
        >>> main(["--version"])
        prm 0.1.0
        0
    """
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except PrmError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _fail(" ".join(str(error).split()), 2)
    except KeyboardInterrupt:
        return _fail("stopped by the user", 130)
    except BrokenPipeError:
        _discard_output()
        return 141


def run(*words: str) -> None:
    """Show a command and run it.

    Raises:
        PrmError: It failed.
    """
    sys.stdout.write(f"$ prm {' '.join(words)}\n")
    sys.stdout.flush()
    code = main(words)
    if code != 0:
        raise PrmError(f"`prm {' '.join(words)}` failed", got=f"exit code {code}")


def _dispatch(args: list[str]) -> int:
    if args == ["--version"]:
        print(f"prm {prm.__version__}")
        return 0
    name, rest = _find_command(args)
    if name in COMMANDS:
        return _run(name, rest)
    if _is_group(name) and rest in ([], ["-h"], ["--help"]):
        print(_help(name))
        return 0 if rest else 2
    raise _unknown_command(args)


def _find_command(args: list[str]) -> tuple[str, list[str]]:
    """Split the arguments after the longest name of a command or a group of commands."""
    for length in (3, 2, 1):
        name = " ".join(args[:length])
        if name in COMMANDS or _is_group(name):
            return name, args[length:]
    return "", args


def _is_group(name: str) -> bool:
    return not name or any(command.startswith(f"{name} ") for command in COMMANDS)


def _run(name: str, rest: list[str]) -> int:
    module, _, attribute = COMMANDS[name].target.partition(":")
    target: Any = getattr(importlib.import_module(module), attribute)
    if name in TRAINING:
        return target([name, *rest]) or 0
    from prm.cli.parsing import run_command

    return run_command(target, rest, prog=f"prm {name}") or 0


def _help(group: str) -> str:
    """Return the help of `prm` itself (`group` empty) or of a group such as `data`."""
    program = f"prm {group}".strip()
    blocks = [f"usage: {program} COMMAND [options]"]
    if not group:
        blocks.append("Train process and multi-objective reward models, and score with them.")
    for title, commands in GROUPS.items():
        names = [name for name in commands if name.startswith(group)]
        if names:
            blocks.append("\n".join([f"{title}:", *_rows(names)]))
    if not group:
        blocks.append(EXAMPLES.rstrip())
    blocks.append(f"`{program} COMMAND --help` explains the options of a command.")
    return "\n\n".join(blocks)


def _rows(names: Iterable[str]) -> list[str]:
    return [f"  {name:<22}{COMMANDS[name].summary}" for name in names]


def _unknown_command(args: list[str]) -> ConfigError:
    import difflib

    words = []
    for word in args[:3]:
        if word.startswith("-"):
            break
        words.append(word)
    typed = [" ".join(words[:length]) for length in range(len(words), 0, -1)]
    near = [match for text in typed for match in difflib.get_close_matches(text, COMMANDS)]
    fix = f"Did you mean `prm {near[0]}`?" if near else "`prm --help` lists the commands."
    return ConfigError(f"unknown command {' '.join(words or args[:1])!r}", fix=fix)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush cannot fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
