from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

import prm
from prm.cli import main as cli
from prm.cli.main import COMMANDS, DATA, GROUPS, USE, Command, main
from prm.cli.options import Options
from prm.cli.parsing import shorten_error
from prm.errors import DataError


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module behind the commands `probe` (a dataclass) and `fit` (parses by itself)."""
    module = ModuleType("prm_probe")

    @dataclass(frozen=True, kw_only=True)
    class Probe(Options):
        """Probe.

        Args:
            count: How many.
            name: Which one.
        """

        count: int
        name: str = "a"

        def run(self) -> int | None:
            if self.name == "interrupt":
                raise KeyboardInterrupt
            if self.name == "pipe":
                raise BrokenPipeError
            if self.name == "bad":
                raise DataError("row is\nbroken", where="a.jsonl:3", fix="Repair it")
            print(f"probed {self.name}")
            return self.count or None

    module.Probe = Probe  # type: ignore[attr-defined]
    module.main = lambda argv: len(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prm_probe", module)
    monkeypatch.setitem(cli.COMMANDS, "probe", Command("prm_probe:Probe", "probe"))
    monkeypatch.setitem(cli.COMMANDS, "fit", Command("prm_probe:main", "fit"))
    return module


def test_import_prm_loads_no_torch() -> None:
    assert "torch" not in loaded_modules("import prm; prm.PrmError")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["data", "--help"]])
def test_help_loads_neither_torch_nor_jsonargparse(args: list[str]) -> None:
    loaded = loaded_modules(f"from prm.cli.main import main\nassert main({args}) == 0")
    assert not loaded & {"torch", "jsonargparse", "lightning", "numpy"}


@pytest.mark.parametrize("name", [*USE, *DATA])
def test_help_of_a_command_loads_no_torch(name: str) -> None:
    words = [*name.split(), "--help"]
    code = f"from prm.cli.main import main\ntry: main({words})\nexcept SystemExit: pass"
    assert not loaded_modules(code) & {"torch", "transformers", "lightning"}


def test_help_names_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert shown.count(f"  {name:<22}{command.summary}") == 1
    assert sum(len(commands) for commands in GROUPS.values()) == len(COMMANDS)


def test_every_command_exists() -> None:
    for name, command in COMMANDS.items():
        module, function = command.target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"prm {prm.__version__}\n"


@pytest.mark.parametrize(
    ("args", "code"),
    [([], 2), (["-h"], 0), (["data"], 2), (["data", "--help"], 0), (["data", "make", "-h"], 0)],
)
def test_group_lists_its_commands(
    args: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == code
    shown = capsys.readouterr().out
    assert "data make arithmetic" in shown
    assert ("data check" in shown) == ("make" not in args)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["scorre", "--chain", "x"], "score"),
        (["ft"], "fit"),
        (["data", "chexk"], "data check"),
        (["check", "a.jsonl"], "data check"),
        (["data", "make", "aritmetik"], "data make arithmetic"),
    ],
)
def test_unknown_command_suggests_the_nearest(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    shown = capsys.readouterr()
    assert f"Did you mean `prm {meant}`?" in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_unknown_command_without_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "`prm --help` lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 3])
def test_returned_number_is_the_exit_code(
    probe: ModuleType, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", f"--count={count}"]) == count
    assert capsys.readouterr().out == "probed a\n"


def test_training_commands_get_their_name_and_arguments(probe: ModuleType) -> None:
    assert main(["fit", "--config", "a.yaml"]) == 3


def test_prm_error_is_one_line(probe: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--count=1", "--name=bad"]) == 2
    assert capsys.readouterr().err == "error: a.jsonl:3: row is broken. Repair it\n"


def test_debug_shows_the_traceback(probe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRM_DEBUG", "1")
    with pytest.raises(DataError, match="broken"):
        main(["probe", "--count=1", "--name=bad"])


def test_interrupt_exits_with_130(probe: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--count=1", "--name=interrupt"]) == 130
    assert capsys.readouterr().err == "error: stopped by the user\n"


def test_closed_pipe_ends_quietly() -> None:
    code = (
        "import sys; from prm.cli import main as cli\n"
        "cli.print = lambda *_: [sys.stdout.write('x' * 1000) for _ in range(10000)]\n"
        "sys.exit(cli.main(['--help']))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--count=x"], "--count: expected an int, got x"),
        (["--cou=1"], "unrecognized arguments: --cou=1"),
        (["--coumt=1"], "Did you mean --count?"),
        ([], "the following arguments are required: count"),
    ],
)
def test_wrong_option_is_one_line(
    probe: ModuleType, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["probe", *args])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.endswith("See `prm probe --help`\n")
    assert error.count("\n") == 1


def test_shorten_error_keeps_a_message_it_does_not_know() -> None:
    assert shorten_error("no such file: a.yaml") == "no such file: a.yaml"
