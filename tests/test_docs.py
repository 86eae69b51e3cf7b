"""What the README and the documentation show is run: Python blocks, commands, configurations."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from prm.cli.fit import RunCLI
from prm.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    REPOSITORY / "README.md",
    *(page for page in sorted(REPOSITORY.glob("docs/**/*.md")) if "_build" not in page.parts),
]

TUTORIAL = REPOSITORY / "docs/tutorials/add-objective.md"
OUTCOME = REPOSITORY / "docs/guides/outcome.md"
WHOLE = [TUTORIAL, REPOSITORY / "docs/guides/aggregation.md"]
"""Pages whose blocks build on each other: run from top to bottom, nothing left out."""

NOT_RUN = {
    "make ": "sets up an environment; continuous integration runs `make test`",
    "pip install ": "changes the environment that the tests run in",
    "python tests/benchmarks/": "trains for minutes",
    "prm fit ": "trains; tests of the configurations run them",
    "prm test ": "needs what `prm fit` wrote; the integration tests run it",
}
"""Starts of commands that are shown and not run, each with the reason."""


def shell_commands(page: Path) -> list[str]:
    r"""Return the commands of a page's `bash` blocks: continued lines joined, comments cut."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = (re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in lines)
    return [command for command in commands if command]


COMMANDS = {page: shell_commands(page) for page in PAGES}


SINGLE = [page for page in PAGES if page not in WHOLE]


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.fixture
def working_copy(run_dir: Path) -> Path:
    """A working directory with the repository's read-only inputs, where pages may write."""
    for folder in ("configs", "data"):
        (run_dir / folder).symlink_to(REPOSITORY / folder)
    return run_dir


@pytest.mark.parametrize("page", SINGLE, ids=name)
def test_python_blocks_run(page: Path, working_copy: Path) -> None:
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", [page for page in SINGLE if COMMANDS[page]], ids=name)
def test_shell_commands_run(page: Path, working_copy: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in COMMANDS[page]:
        if command.startswith(tuple(NOT_RUN)):
            continue
        run = subprocess.run(
            command, shell=True, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"


BLOCK = re.compile(
    r"^<!--- invisible-code-block: (python)\n(.*?)^--->|^```(python|bash|yaml)\n(.*?)^```",
    re.M | re.S,
)


@pytest.mark.parametrize("page", WHOLE, ids=name)
def test_page_runs_from_top_to_bottom(page: Path, working_copy: Path) -> None:
    """Configurations are files named in their first line; commands run in this process."""
    names: dict[str, Any] = {}
    for hidden, setup, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "yaml":
            Path(text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif kind == "bash":
            for command in text.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(command, comments=True)
                assert program == "prm", command
                assert main(words) == 0, command
        else:
            exec(compile(setup if hidden else text, page.name, "exec"), names)


@pytest.mark.parametrize("whole", [False, True], ids=["parts", "whole"])
def test_outcome_snippets_are_configurations(
    whole: bool, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are stacked on the tutorial's configuration."""
    (base,) = re.findall(r"^# (replies.yaml\n.*?)^```", TUTORIAL.read_text("utf-8"), re.M | re.S)
    snippets = re.findall(r"^```yaml\n(.*?)^```", OUTCOME.read_text("utf-8"), re.M | re.S)
    texts = [text for text in snippets if text.startswith("run_dir") == whole]
    words = []
    for index, text in enumerate(texts if whole else [f"# {base}", *texts]):
        Path(f"{index}.yaml").write_text(text, encoding="utf-8")
        words += ["--config", f"{index}.yaml"]
    built: list[RunCLI] = []
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda cli, _: built.append(cli))
    assert main(["fit", *words]) == 0
    assert len(texts) == (1 if whole else 6)
    assert len(built) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]], ids=name)
def test_named_files_exist(page: Path) -> None:
    for path in re.findall(r"(?<![\w./-])(?:configs|data)/[\w./-]+", "\n".join(COMMANDS[page])):
        assert (REPOSITORY / path).exists(), path


def test_every_exception_is_shown_somewhere() -> None:
    shown = [command for commands in COMMANDS.values() for command in commands]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in shown), start


PITFALLS = REPOSITORY / "docs/reference/pitfalls.md"


def names_in(file: Path) -> set[str]:
    """Return the names of a file's tests, as pytest writes them, without parameters."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        prefix, members = ("", [node])
        if isinstance(node, ast.ClassDef):
            prefix, members = (f"{node.name}::", node.body)
        found |= {prefix + item.name for item in members if isinstance(item, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_tests_exist(page: Path) -> None:
    for path in re.findall(r"`(tests/[^`\n]*::[^`\n]*)`", page.read_text(encoding="utf-8")):
        file, _, test = path.partition("::")
        assert test.rpartition("::")[2].startswith("test_"), path
        assert test in names_in(REPOSITORY / file), path


def test_every_pitfall_names_its_tests() -> None:
    pitfalls = re.split(
        r"^### ", PITFALLS.read_text("utf-8").partition("## Not held")[0], flags=re.M
    )
    for text in pitfalls[1:]:
        assert re.search(r"^- `tests/[\w/]+\.py::[\w:]+`$", text, re.M), text.splitlines()[0]
