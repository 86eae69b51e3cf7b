"""Canonical files: lossless, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.data.sources.writers import write_records
from prm.errors import DataError, OutputError
from prm.records import Chain

texts = st.text(max_size=8)
labels = st.none() | st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
text_prompts = st.text(min_size=1, max_size=8)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": text_prompts}),
    min_size=1,
    max_size=2,
)


@st.composite
def chain_lists(draw: st.DrawFn) -> list[Chain]:
    prompts = draw(st.sampled_from([text_prompts, conversations]))
    chains = []
    for index in range(draw(st.integers(1, 3))):
        steps = [*draw(st.lists(texts, max_size=2)), "end"]
        names = draw(st.sets(st.sampled_from(["correctness", "redundancy", "x"])))
        chains.append(
            Chain(
                draw(prompts),
                steps,
                {
                    name: draw(st.lists(labels, min_size=len(steps), max_size=len(steps)))
                    for name in sorted(names)
                },
                id=str(index),
                source="s",
                group=draw(texts),
                metadata=draw(st.dictionaries(texts, json_values, max_size=2)),
            )
        )
    return chains


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@given(chains=chain_lists())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back_equal(tmp_path: Path, suffix: str, chains: list[Chain]) -> None:
    path = tmp_path / f"chains{suffix}"
    assert write_records(chains, path, overwrite=True) == len(chains)
    assert Source(str(path), HFStepwise()).load() == chains


def test_more_rows_than_one_group(tmp_path: Path) -> None:
    chains = [Chain("p", ["a"], [i % 2], id=str(i), source="s") for i in range(2500)]
    write_records(iter(chains), tmp_path / "a.parquet")
    assert Source(str(tmp_path / "a.parquet"), HFStepwise()).load() == chains


def broken(chain: Chain) -> Iterator[Chain]:
    yield chain
    raise DataError("row 2 is wrong")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("before")
    with pytest.raises(DataError, match="row 2 is wrong"):
        write_records(broken(Chain("p", ["a"])), path, overwrite=True)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="cannot write: got No space left"):
        write_records([Chain("p", ["a"])], tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_records([Chain("p", ["a"])], tmp_path / "file" / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "message"), [("a.jsonl", "the output exists"), ("b.txt", "jsonl or .parquet")]
)
def test_refused_outputs(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text("before")
    with pytest.raises(OutputError, match=message):
        write_records([Chain("p", ["a"])], tmp_path / name)
    assert (tmp_path / "a.jsonl").read_text() == "before"


@pytest.mark.parametrize(
    "chain",
    [
        Chain("p", ["a"], id="7", metadata={"x": float("nan")}),
        Chain("p", ["a"], id="7", metadata={"x": object()}),
    ],
)
def test_what_is_no_json_names_the_row(tmp_path: Path, chain: Chain) -> None:
    with pytest.raises(DataError, match="row '7'"):
        write_records([chain], tmp_path / "a.jsonl")


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record to write"):
        write_records([], tmp_path / "a.jsonl")


def test_mixed_prompts_need_json_lines(tmp_path: Path) -> None:
    message: Any = [{"role": "user", "content": "p"}]
    chains = [Chain("p", ["a"]), Chain(message, ["a"])]
    with pytest.raises(OutputError, match="JSON lines"):
        write_records(chains, tmp_path / "a.parquet")
    assert write_records(chains, tmp_path / "a.jsonl") == 2
