"""`prm serve` through the command line, and its end under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from prm.cli.main import main
from prm.models.checkpoint import save
from prm.scoring.scorer import RewardScorer
from tests.tiny_models import CHAINS, tiny_model

Captured = pytest.CaptureFixture[str]

ROWS = [{"prompt": chain.prompt, "completions": list(chain.completions)} for chain in CHAINS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(), tmp_path_factory.mktemp("runs") / "tiny" / "model")


@contextmanager
def running(*words: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the server in a process of its own; gives it and its address."""
    command = [sys.executable, "-m", "prm.cli.main", "serve", "--port", "0", *map(str, words)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        yield process, f"http://127.0.0.1:{_port(process)}"
    finally:
        process.kill()
        process.communicate()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if '"listening"' in line:
            return int(json.loads(line)["port"])
    raise AssertionError(f"the server ended with {process.wait()}")


def test_a_signal_under_load_loses_nothing_that_was_accepted(model: Path, tmp_path: Path) -> None:
    """Every request gets its scores or a refusal, and the process ends by itself."""
    expected = [score.reward for score in RewardScorer.from_pretrained(model).score(ROWS)]
    token = tmp_path / "token"
    token.write_text("secret\n", encoding="utf-8")
    statuses: list[str] = []
    is_loaded = threading.Event()

    def client(url: str) -> None:
        with httpx.Client(timeout=60, headers={"Authorization": "Bearer secret"}) as session:
            while not statuses or statuses[-1] == "200":
                statuses.append(_ask(session, url, expected))
                if len(statuses) > 30:
                    is_loaded.set()

    names = json.dumps({"tiny": str(model)})
    words = ("--model", names, "--token_file", token, "--max_tokens", 64, "--cache_tokens", 100)
    with running(*words) as (process, url):
        clients = [threading.Thread(target=client, args=(url,)) for _ in range(8)]
        for thread in clients:
            thread.start()
        assert is_loaded.wait(60)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        process.send_signal(signal.SIGTERM)
        for thread in clients:
            thread.join(60)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert set(statuses) <= {"200", "503", "refused"}
    logged = [json.loads(line).get("status") for line in log.splitlines()]
    assert logged.count(200) == statuses.count("200") > 20
    assert logged.count(401) == 1
    assert 0 not in logged
    assert CHAINS[0].completions[0] not in log


def _ask(session: httpx.Client, url: str, expected: list[Any]) -> str:
    """Return the status of a request; a reply must be whole and right."""
    try:
        reply = session.post(f"{url}/v1/score", json={"model": "tiny", "records": ROWS * 4})
    except (httpx.NetworkError, httpx.RemoteProtocolError):
        return "refused"
    if reply.status_code == 200:
        found = [row["reward"] for row in reply.json()["results"]]
        assert found == pytest.approx(expected * 4, abs=1e-5)
    return str(reply.status_code)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "other machines could use the server without a token"),
        (["--max_records", "0"], "--max_records is wrong"),
        (["--max_tokens", "0"], "--max_tokens is wrong"),
        (["--cache_tokens", "-1"], "--cache_tokens is wrong"),
        (["--threads", "0"], "--threads is wrong"),
        (["--reward_range", "[2, 1]"], "--reward_range is wrong"),
        (["--token_file", "missing"], "the token cannot be read"),
    ],
)
def test_wrong_options(
    model: Path, capsys: Captured, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRM_SERVE_TOKEN", raising=False)
    assert main(["serve", "--model", str(model), *words]) == 2
    assert message in capsys.readouterr().err


def test_folders_without_a_model(tmp_path: Path, capsys: Captured) -> None:
    assert main(["serve", "--model", str(tmp_path)]) == 2
    assert "no prm_config.json" in capsys.readouterr().err


def test_an_empty_token_file(model: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "token"
    file.write_text("\n", encoding="utf-8")
    assert main(["serve", "--model", str(model), "--token_file", str(file)]) == 2
    assert "is empty" in capsys.readouterr().err
