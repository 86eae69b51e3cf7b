"""Rows from every kind of file, and the errors of damaged ones."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prm.data.formats.chain_columns import ChainColumns
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.outcome_columns import OutcomeColumns
from prm.data.sources.rows import read_rows
from prm.data.sources.source import Skipped, Source
from prm.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": f"p{i}", "completions": ["ä", "b"], "labels": [1.0, 0.0]} for i in range(3)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows_of(path: str, **options: Any) -> list[Any]:
    return [row for row, _ in read_rows(path, **options)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


class TestKinds:
    @pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt", "rows"])
    @pytest.mark.parametrize(
        "content",
        [
            LINES,
            "\ufeff" + LINES,
            LINES.replace("\n", "\r\n\n"),
            json.dumps(ROWS),
            json.dumps(ROWS, indent=2),
            json.dumps({"u": ROWS[:2], "v": ROWS[2:]}),
            json.dumps({"u": ROWS[:2], "v": ROWS[2:]}, indent=2),
        ],
        ids=["lines", "bom", "blank lines", "array", "pretty array", "lists", "pretty lists"],
    )
    def test_json_is_told_by_content(self, tmp_path: Path, name: str, content: str) -> None:
        assert rows_of(write(tmp_path / name, content)) == ROWS

    def test_gzip(self, tmp_path: Path) -> None:
        assert rows_of(write(tmp_path / "a.json", gzip.compress(LINES.encode(), mtime=0))) == ROWS

    def test_parquet(self, tmp_path: Path) -> None:
        assert rows_of(write_parquet(tmp_path / "a.bin", ROWS)) == ROWS

    @pytest.mark.parametrize("mark", [",", "\t"])
    def test_csv_with_line_breaks_in_cells(self, tmp_path: Path, mark: str) -> None:
        path = write(tmp_path / "a", f'q{mark}a\n"x\n\ny"{mark}1\nz{mark}2\n')
        assert list(read_rows(path)) == [
            ({"q": "x\n\ny", "a": "1"}, f"{path}:4"),
            ({"q": "z", "a": "2"}, f"{path}:5"),
        ]

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_cell_of_code_keeps_its_lines(self, tmp_path: Path, end: str) -> None:
        code = end.join(["def f():", "    x = 1", "    ", "    return x", "", ""])
        path = write(tmp_path / "a.csv", f'{end}q,a{end}Write f.,"{code}"{end}  {end}z,2{end}')
        assert rows_of(path) == [{"q": "Write f.", "a": code}, {"q": "z", "a": "2"}]

    @pytest.mark.parametrize(
        ("content", "row"),
        [
            ("q;a;n\nx, y;7;5\n", {"q": "x, y", "a": "7", "n": "5"}),
            ("q, then\ta\nx\ty, z\n", {"q, then": "x", "a": "y, z"}),
            ("q, then\ta\nx, y\tz\n", {"q, then": "x, y", "a": "z"}),
            ('"q; then",a\n"x; y",z\n', {"q; then": "x; y", "a": "z"}),
            ("q; then,a\nx,z\n", {"q; then": "x", "a": "z"}),
        ],
    )
    def test_what_stands_between_cells(
        self, tmp_path: Path, content: str, row: dict[str, str]
    ) -> None:
        assert rows_of(write(tmp_path / "a.csv", content)) == [row]

    @pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
    @pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
    def test_one_line_of_conversations_is_a_row(
        self, tmp_path: Path, name: str, keys: tuple[str, str]
    ) -> None:
        turn = dict(zip(keys, ("user", "Hi"), strict=True))
        row = {"prompt": [turn], "chosen": [turn], "rejected": [turn], "tools": []}
        assert rows_of(write(tmp_path / name, json.dumps(row))) == [row]

    def test_origins_are_lines_or_indices(self, tmp_path: Path) -> None:
        lines = write(tmp_path / "a.jsonl", "\n" + LINES)
        assert [origin for _, origin in read_rows(lines)] == [f"{lines}:{n}" for n in (2, 3, 4)]
        array = write(tmp_path / "b.json", json.dumps({"u": ROWS}))
        assert [origin for _, origin in read_rows(array)][2] == f"{array}[u][2]"

    def test_one_json_line_is_one_row(self, tmp_path: Path) -> None:
        assert rows_of(write(tmp_path / "a.jsonl", json.dumps(ROWS[0]))) == ROWS[:1]

    def test_folder_and_glob(self, tmp_path: Path) -> None:
        write(tmp_path / "b.jsonl", json.dumps(ROWS[1]))
        write(tmp_path / "a.jsonl", json.dumps(ROWS[0]))
        write(tmp_path / "README.md", "text")
        assert rows_of(str(tmp_path)) == ROWS[:2]
        assert rows_of(str(tmp_path / "*.jsonl")) == ROWS[:2]

    def test_saved_dataset(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_list(ROWS)
        data.save_to_disk(tmp_path / "one")
        assert rows_of(str(tmp_path / "one")) == ROWS
        datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "two")
        assert rows_of(str(tmp_path / "two"), split="test") == ROWS[:1]
        with pytest.raises(DataError, match=r"several splits: expected .* train, test"):
            rows_of(str(tmp_path / "two"))

    def test_a_configuration_of_a_hub_dataset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")

        def load(name: str, config_name: str, *, split: str, streaming: bool) -> Any:
            assert (name, split, streaming) == ("owner/set", "train", False)
            return [{"config": config_name}]

        monkeypatch.setattr(datasets, "load_dataset", load)
        source = Source("owner/set", HFStepwise(), split="train", config_name="preference")
        assert rows_of("owner/set", split="train", config_name="x") == [{"config": "x"}]
        with pytest.raises(DataError, match=r"\['config'\]"):
            source.load()

    def test_json_lines_are_not_read_ahead(self, tmp_path: Path) -> None:
        rows = read_rows(write(tmp_path / "a.jsonl", LINES + "{broken\n"))
        assert [next(rows)[0] for _ in range(3)] == ROWS
        with pytest.raises(DataError, match=r"a\.jsonl:4"):
            next(rows)


class TestDamage:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "the file is empty"),
            ("\n \n", "only blank lines"),
            (LINES[:-5], r":3: the JSON ends in the middle"),
            (LINES + "{]\n", r":4: this is not JSON: got .* at column 2"),
            (LINES + "[1]\n", r":4: the row is not an object"),
            ("{x\n" + LINES, r":1: this is not JSON"),
            (json.dumps(ROWS)[:-20], "the JSON ends in the middle"),
            (json.dumps(ROWS, indent=1)[:-20], "the JSON ends in the middle"),
            (json.dumps([1, 2]), r"\[0\]: the row is not an object"),
            (json.dumps(ROWS[0], indent=2), "one JSON object, not rows"),
            (
                LINES.encode() + b'{"a": "\xe4"}\n',
                rf":4: .* byte 0xe4 at offset {len(LINES.encode()) + 7}",
            ),
            (LINES.encode("utf-16"), "UTF-16 text: expected UTF-8"),
            (b"\x7fELF\0\0\0", "the file is binary"),
            ("just text\n", "the file's kind is not known"),
            ("a,b\n1,2\n1\n", ":3: the row does not match the header: expected 2 cells, got 1"),
            ("a,b\n1,2,3\n", ":2: the row does not match the header: expected 2 cells, got 3"),
            ('a,b\n"1,2\n', "this is not CSV"),
            ("q;a,b\n1;2,3\n", "commas and semicolons"),
            ("a,b,a\n1,2,3\n", "two columns are called 'a'"),
            (gzip.compress(LINES.encode(), mtime=0)[:-12], "gzip file is cut off"),
            (b"PAR1 and then nothing", "Parquet file is cut off"),
        ],
    )
    def test_each_damage_is_one_clear_error(
        self, tmp_path: Path, content: str | bytes, message: str
    ) -> None:
        path = write(tmp_path / "data.jsonl", content)
        with pytest.raises(DataError, match=message) as caught:
            rows_of(path)
        assert path in str(caught.value)

    def test_a_parquet_file_cut_in_the_middle(self, tmp_path: Path) -> None:
        path = Path(write_parquet(tmp_path / "a.parquet", ROWS))
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(DataError, match="cut off"):
            rows_of(str(path))

    def test_a_missing_file_suggests_near_names(self, tmp_path: Path) -> None:
        write(tmp_path / "train.jsonl", LINES)
        with pytest.raises(DataError, match=r"Did you mean train\.jsonl"):
            rows_of(str(tmp_path / "trian.jsonl"))

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nor is there a folder"):
            rows_of(str(tmp_path / "no" / "a.jsonl"))

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no data file"):
            rows_of(str(tmp_path))
        with pytest.raises(DataError, match="no file matches"):
            rows_of(str(tmp_path / "*.csv"))

    def test_an_unknown_dataset_offline(self) -> None:
        pytest.importorskip("datasets")
        with pytest.raises(DataError, match="no Hugging Face dataset of this name can be loaded"):
            rows_of("nobody/no-such-dataset")


class TestChainSource:
    def test_names_ids_and_origins(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mine.jsonl", LINES)
        chains = Source(path, HFStepwise()).load()
        assert [(c.id, c.source, c.origin) for c in chains] == [
            (f"mine-{i}", "mine", f"{path}:{i + 1}") for i in range(3)
        ]
        assert Source(path, HFStepwise(), name="x").load()[1].id == "x-1"

    @pytest.mark.parametrize("pattern", ["", "*.jsonl", "**/*.json*"])
    def test_folders_and_patterns_are_named_by_their_folder(
        self, tmp_path: Path, pattern: str
    ) -> None:
        (tmp_path / "mine").mkdir()
        write(tmp_path / "mine" / "a.jsonl", LINES)
        source = Source(str(tmp_path / "mine" / pattern), HFStepwise())
        assert source.load()[0].source == "mine"

    def test_iterates_anew_and_stops_at_the_limit(self, tmp_path: Path) -> None:
        source = Source(write(tmp_path / "a.jsonl", LINES), HFStepwise(), limit=2)
        assert source.load() == source.load()
        assert len(source.load()) == 2

    def test_a_sample_of_a_sorted_file_is_even(self, tmp_path: Path) -> None:
        rows = [ROWS[0] | {"prompt": f"{n}?", "labels": [1, n // 500]} for n in range(1000)]
        path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

        def drawn(seed: int | None) -> list[int]:
            source = Source(path, HFStepwise(), limit=200, sample_seed=seed)
            return [int(str(chain.prompt)[:-1]) for chain in source.load()]

        assert drawn(None) == list(range(200))
        assert drawn(3) == drawn(3) == sorted(set(drawn(3)))
        assert drawn(3) != drawn(4)
        share = sum(n >= 500 for seed in range(10) for n in drawn(seed)) / 2000
        assert share == pytest.approx(0.5, abs=0.05)  # 4.5 standard errors

    def test_a_sample_is_of_what_can_be_read(self, tmp_path: Path) -> None:
        wrong = json.dumps(ROWS[0] | {"labels": [1]}) + "\n"
        path = write(tmp_path / "a.jsonl", LINES + wrong)
        with pytest.raises(DataError, match=r"a\.jsonl:4"):
            Source(path, HFStepwise(), limit=2, sample_seed=0).load()
        skipped = Skipped()
        source = Source(path, HFStepwise(), limit=9, sample_seed=0, on_error="skip")
        assert len(list(source.records(skipped))) == 3
        assert skipped.count == 1
        with pytest.raises(ConfigError, match="sample_seed needs a limit"):
            Source(path, HFStepwise(), sample_seed=0)

    def test_a_row_keeps_the_source_it_names(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", json.dumps(ROWS[0] | {"source": "s", "id": "1"}))
        assert Source(path, HFStepwise()).load()[0].source == "s"

    def test_equal_ids_name_both_places(self, tmp_path: Path) -> None:
        line = json.dumps(ROWS[0] | {"id": "7"}) + "\n"
        path = write(tmp_path / "a.jsonl", line * 2)
        with pytest.raises(DataError, match=r"a\.jsonl:2: two records .*'7'.*a\.jsonl:1"):
            Source(path, HFStepwise()).load()

    def test_errors_stand_in_the_place_of_their_rows(self, tmp_path: Path) -> None:
        wrong = json.dumps(ROWS[0] | {"labels": [1]}) + "\n"
        path = write(tmp_path / "a.jsonl", wrong + LINES + wrong)
        kinds = [type(result).__name__ for result in Source(path, HFStepwise()).results()]
        assert kinds == ["DataError", "Chain", "Chain", "Chain", "DataError"]

    def test_wrong_rows_stop_or_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(tmp_path / "a.jsonl", LINES + json.dumps(ROWS[0] | {"labels": [1]}))
        with pytest.raises(DataError, match=r"a\.jsonl:4: labels of 'correctness' do not match"):
            Source(path, HFStepwise()).load()
        with caplog.at_level(logging.WARNING):
            assert len(Source(path, HFStepwise(), on_error="skip").load()) == 3
        assert "1 rows left out" in caplog.text

    def test_a_broken_line_is_an_error_in_its_place(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", LINES + "{]\n[1]\n" + LINES)
        kinds = [type(result).__name__ for result in Source(path, HFStepwise()).results()]
        assert kinds == ["Chain"] * 3 + ["DataError"] * 2 + ["Chain"] * 3

    def test_rows_of_a_csv_file_that_do_not_fit_are_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'prompt,completions\np,"[""a""]"\nq\nr,"[""b""]"\n')
        source = Source(path, ChainColumns(), on_error="skip")
        assert [chain.prompt for chain in source] == ["p", "r"]

    def test_the_end_of_a_broken_file_is_never_left_out(self, tmp_path: Path) -> None:
        """A reading that ends early has lost rows that nobody can count."""
        path = write(tmp_path / "a.jsonl", LINES.encode() + b"\xff\n" + LINES.encode())
        *chains, error = Source(path, HFStepwise()).results()
        assert (len(chains), type(error)) == (3, DataError)
        with pytest.raises(DataError, match="not UTF-8"):
            Source(path, HFStepwise(), on_error="skip").load()

    def test_what_is_left_out_is_counted_by_reason(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        again = "".join(json.dumps(ROWS[0] | {"id": name}) + "\n" for name in "abab")
        path = write(tmp_path / "a.jsonl", again + json.dumps(ROWS[0] | {"labels": [1]}))
        skipped = Skipped()
        source = Source(path, HFStepwise(), on_error="skip")
        assert [chain.id for chain in source.records(skipped)] == ["a", "b"]
        assert skipped.count == 3
        assert [line.split(":")[0] for line in skipped.lines()] == [
            "2 rows left out; the first",
            "1 rows left out; the first",
        ]
        with caplog.at_level(logging.WARNING):
            source.load()
        assert "2 rows left out" in caplog.text
        assert len(list(source.results(unique=False))) == 5


class PolarsFrame:
    """What polars' frames have; the library itself need not be here."""

    __module__ = "polars.dataframe.frame"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def iter_rows(self, *, named: bool) -> Iterator[dict[str, Any]]:
        assert named
        return iter(self.rows)


def tables(rows: list[dict[str, Any]]) -> Iterator[Any]:
    yield from (rows, tuple(rows), PolarsFrame(rows))
    for library, name, maker in (
        ("datasets", "Dataset", "from_list"),
        ("pandas", "DataFrame", "from_records"),
        ("polars", "DataFrame", "__call__"),
        ("pyarrow", "Table", "from_pylist"),
    ):
        try:
            kind = getattr(importlib.import_module(library), name)
        except ImportError:
            continue
        yield kind(rows) if maker == "__call__" else getattr(kind, maker)(rows)


class TestMemory:
    def test_rows_in_memory_are_read_as_those_of_a_file(self, tmp_path: Path) -> None:
        expected = Source(write(tmp_path / "rows.jsonl", LINES), HFStepwise()).load()
        for rows in tables(ROWS):
            source = Source(rows, HFStepwise())
            assert source.load() == expected
            assert source.load()[2].origin == "rows[2]"

    def test_missing_cells_of_a_table_are_null(self) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"prompt": ["p", "q"], "response": ["a", "b"], "n": [1.0, None]})
        ratings = Source(frame, OutcomeColumns(response="response", ratings={"x": "n"})).load()
        assert [rating.values for rating in ratings] == [{"x": 1.0}, {"x": None}]

    def test_a_split_of_a_dictionary_of_data_sets(self) -> None:
        datasets = pytest.importorskip("datasets")
        data = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))
        data["test"] = data["train"].select([0])
        assert len(Source(data, HFStepwise(), split="test").load()) == 1
        with pytest.raises(DataError, match="several splits"):
            Source(data, HFStepwise()).load()

    @pytest.mark.parametrize("data", [3, iter(ROWS), {"prompt": "p"}, None])
    def test_other_things_are_refused(self, data: Any) -> None:
        with pytest.raises(DataError, match=r"no data: expected a path, a list of rows.*got \w+"):
            Source(data, HFStepwise())

    def test_a_row_that_is_no_object(self) -> None:
        with pytest.raises(DataError, match=r"rows\[1\]: the row is not an object"):
            Source([ROWS[0], "p"], HFStepwise()).load()

    def test_columns_of_several_kinds_are_refused(self) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"prompt": ["p", [{"role": "user", "content": "q"}]]})
        with pytest.raises(DataError, match="table cannot be read"):
            Source(frame, HFStepwise()).load()

    def test_what_the_rows_are_decides_the_identity(self) -> None:
        first, same, other = (Source(rows, HFStepwise()) for rows in (ROWS, [*ROWS], ROWS[:2]))
        assert first.identity() == same.identity() != other.identity()

    def test_a_path_object_is_a_path(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", LINES)
        assert len(Source(tmp_path / "a.jsonl", HFStepwise()).load()) == 3
