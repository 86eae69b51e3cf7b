"""`prm data make arithmetic`: the files it writes and what it refuses."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from prm.cli.make import Arithmetic
from prm.data.synthetic.arithmetic import ArithmeticConfig, generate
from prm.errors import ConfigError, OutputError


def test_json_lines_hold_the_generated_chains(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    Arithmetic(output=path, num_chains=20, difficulty="easy", split="test", seed=5).run()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    config = ArithmeticConfig(difficulty="easy", split="test", seed=5)
    assert rows == [chain.to_row() for chain in islice(generate(config), 20)]


def test_the_same_options_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        Arithmetic(output=tmp_path / name, num_chains=20).run()
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_parquet_has_one_row_per_chain(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    Arithmetic(output=tmp_path / "chains.parquet", num_chains=7).run()
    assert parquet.read_table(tmp_path / "chains.parquet").num_rows == 7


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    path.write_text("precious\n")
    with pytest.raises(OutputError, match="exists"):
        Arithmetic(output=path, num_chains=1).run()
    assert path.read_text() == "precious\n"
    Arithmetic(output=path, num_chains=1, overwrite=True).run()
    assert json.loads(path.read_text())["source"] == "arithmetic"


def test_no_chains_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_chains"):
        Arithmetic(output=tmp_path / "chains.jsonl", num_chains=0).run()
    assert list(tmp_path.iterdir()) == []


def test_nothing_goes_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Arithmetic(output=tmp_path / "chains.jsonl", num_chains=5).run()
    assert capsys.readouterr().out == ""
