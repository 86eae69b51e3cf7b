"""Bad data: files, rows and outputs of `prm data`, each refused with one clear line."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration import test_bad_inputs_fit as fit
from tests.integration import test_bad_inputs_outcome as outcome
from tests.integration import test_bad_inputs_score as score
from tests.integration import test_bad_inputs_stored as stored
from tests.refusals import Case, documented_errors, refuse

GOOD: dict[str, Any] = {
    "prompt": "2 + 3 * 4 = ?",
    "completions": ["3 * 4 = 12", "2 + 12 = 15"],
    "labels": [1, 0],
}
LINE = json.dumps(GOOD) + "\n"
CSV = 'question,steps\n2 + 3?,"[""2 + 3 = 5""]"\n'
CONVERT = "data convert --input rows.jsonl --output out.jsonl"
COLUMNS = (
    "data convert --input rows.csv --output out.jsonl --format ChainColumns "
    "--format.prompt question --format.completions steps"
)


def line(**changes: Any) -> str:
    return json.dumps(GOOD | changes) + "\n"


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([GOOD] * 50), stream)
    return stream.getvalue()


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[: middle - 200] + bytes(400) + data[middle + 200 :]


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", fsync)


def read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make `folder/closed` a folder that cannot be written to, for root too."""
    closed = folder / "closed"
    closed.mkdir()
    really_open = os.open

    def refusing(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(os.fsdecode(path)).parent.name == closed.name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really_open(path, flags, *arguments, **options)

    patch.setattr(os, "open", refusing)


def lost_connection(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let a streamed dataset end with a network error after its first row."""
    import datasets

    def rows() -> Any:
        yield GOOD
        raise ConnectionError("connection reset by peer")

    patch.setattr(
        datasets, "load_dataset", lambda *_a, **_o: datasets.IterableDataset.from_generator(rows)
    )


FILES = [
    Case(
        "a JSON array that ends in the middle",
        CONVERT,
        ("rows.jsonl:1: the JSON ends in the middle", "interrupted"),
        {"rows.jsonl": json.dumps([GOOD, GOOD])[:-30]},
    ),
    Case(
        "JSON lines whose last line is cut off",
        CONVERT,
        ("rows.jsonl:3: the JSON ends in the middle", "interrupted"),
        {"rows.jsonl": LINE * 2 + LINE[:-20]},
    ),
    Case(
        "JSON lines broken in the middle",
        CONVERT,
        ("rows.jsonl:2: this is not JSON", "column"),
        {"rows.jsonl": LINE + LINE.replace(":", "=", 1) + LINE},
    ),
    Case(
        "JSON nested without end",
        CONVERT,
        ("rows.jsonl:1: the JSON cannot be read", "recursion depth"),
        {"rows.jsonl": "[" * 200_000},
    ),
    Case(
        "a number with thousands of digits",
        CONVERT,
        ("rows.jsonl:2: the JSON cannot be read", "digits"),
        {"rows.jsonl": LINE + LINE.replace("[1, 0]", f"[{'9' * 5000}, 0]")},
    ),
    Case(
        "a gzip file that is cut off",
        "data convert --input rows.jsonl.gz --output out.jsonl",
        ("rows.jsonl.gz: the gzip file is cut off", "interrupted"),
        {"rows.jsonl.gz": gzip.compress(LINE.encode() * 100, mtime=0)[:-20]},
    ),
    Case(
        "a UTF-16 file",
        CONVERT,
        ("rows.jsonl: the file is UTF-16 text", "expected UTF-8"),
        {"rows.jsonl": LINE.encode("utf-16")},
    ),
    Case(
        "a Latin-1 file",
        CONVERT,
        ("rows.jsonl:2: the file is not UTF-8 text", "byte 0xe9"),
        {"rows.jsonl": LINE.encode() + LINE.replace("= ?", "= é").encode("latin-1")},
    ),
    Case(
        "a binary file",
        CONVERT,
        ("rows.jsonl: the file is binary",),
        {"rows.jsonl": b"PK\x03\x04\x14\0\0\0\x08\0"},
    ),
    Case("an empty file", CONVERT, ("rows.jsonl: the file is empty",), {"rows.jsonl": ""}),
    Case("a file of blank lines", CONVERT, ("only blank lines",), {"rows.jsonl": "\n \n\n"}),
    Case(
        "a file that does not exist",
        CONVERT,
        ("there is no file rows.jsonl", "Did you mean row.jsonl?"),
        {"row.jsonl": LINE},
    ),
    Case(
        "a folder without data",
        "data convert --input mine --output out.jsonl",
        ("mine: the folder holds no data file", ".jsonl"),
        {"mine/notes.txt": "nothing"},
    ),
    Case(
        "a pattern that no file matches",
        "data convert --input *.jsonl --output out.jsonl",
        ("no file matches the pattern", "*.jsonl"),
    ),
    Case(
        "text of no known kind",
        CONVERT,
        ("rows.jsonl:1: the file's kind is not known", "JSON lines or CSV"),
        {"rows.jsonl": "two plus three is five\n"},
    ),
    Case(
        "one object where rows should be",
        CONVERT,
        ("one JSON object, not rows", "'prompt'"),
        {"rows.jsonl": json.dumps(GOOD, indent=2)},
    ),
    Case(
        "an array of numbers",
        CONVERT,
        ("rows.jsonl[0]: the row is not an object", "got 1"),
        {"rows.jsonl": "[1, 2]"},
    ),
    Case(
        "a CSV row with a cell too many",
        COLUMNS,
        ("rows.csv:3: the row does not match the header", "expected 2 cells, got 3"),
        {"rows.csv": CSV + "a,b,c\n"},
    ),
    Case(
        "a CSV file with an open quote",
        COLUMNS,
        ("rows.csv:", "this is not CSV"),
        {"rows.csv": CSV + '"a,b\n'},
    ),
    Case(
        "a CSV file without a named column",
        COLUMNS + " --format.prompt problem",
        ("rows.csv:2: there is no column 'problem'", "question, steps"),
        {"rows.csv": CSV},
    ),
    Case(
        "a Parquet file that is cut off",
        "data convert --input rows.parquet --output out.jsonl",
        ("rows.parquet: the Parquet file is cut off or damaged",),
        {"rows.parquet": parquet()[:-30]},
    ),
    Case(
        "a Parquet file with damaged pages",
        "data convert --input rows.parquet --output out.jsonl",
        ("rows.parquet: the Parquet file is cut off or damaged",),
        {"rows.parquet": damaged(parquet())},
    ),
    Case(
        "a saved dataset without its data",
        "data convert --input saved --output out.jsonl",
        ("saved: the saved dataset cannot be read",),
        {"saved/dataset_info.json": "{}"},
    ),
    Case(
        "a dataset name without a network",
        "data convert --input nobody/no-such-dataset --output out.jsonl",
        ("there is no file 'nobody/no-such-dataset'", "network"),
    ),
    Case(
        "a download that is interrupted",
        "data convert --input some/dataset --output out.jsonl --streaming --split train",
        ("some/dataset[train]: reading stopped after 1 rows", "connection reset by peer"),
        arrange=lost_connection,
    ),
]

ROWS = {
    "a NaN label": (LINE.replace("[1, 0]", "[1, NaN]"), ("label 1 of 'correctness'", "got nan")),
    "an infinite label": (LINE.replace("[1, 0]", "[1e999, 0]"), ("label 0", "got inf")),
    "a label of 2": (line(labels=[1, 2]), ("label 1", "a probability in [0, 1]", "got 2")),
    "a label in words": (line(labels=[1, "bad"]), ("label 1", "got bad")),
    "a label too few": (line(labels=[1]), ("expected 2 labels, one per step, got 1",)),
    "labels that are no list": (line(labels=1), ("labels of 'correctness'", "a list", "got 1")),
    "a chain without steps": (line(completions=[], labels=[]), ("'completions' has no step",)),
    "a chain of blank steps": (line(completions=[" ", ""]), ("'completions' has no step",)),
    "a step that is no text": (line(completions=["a", 5]), ("'completions[1]'", "text, got 5")),
    "steps that are null": (line(completions=None), ("field 'completions' is wrong", "got null")),
    "steps in one text": (line(completions="a\nb"), ("field 'completions'", "a list")),
    "a prompt that is missing": (
        json.dumps({"problem": "?", "completions": ["a"]}),
        ("field 'prompt' is missing", "'problem'"),
    ),
    "a prompt that is a number": (line(prompt=7), ("field 'prompt' is wrong", "got 7")),
    "an empty conversation": (line(prompt=[]), ("field 'prompt' is wrong", "messages")),
    "a message without content": (
        line(prompt=[{"role": "user"}]),
        ("field 'prompt' is wrong", "'content'"),
    ),
    "half of a surrogate pair": (
        line(prompt="\ud83d"),
        ("half of a surrogate pair", r"'\ud83d'"),
    ),
    "an id that is a list": (line(id=[1]), ("field 'id' is wrong", "got [1]")),
    "metadata that are no object": (line(metadata="[1"), ("field 'metadata' is wrong",)),
}
"""Kind of row to its text and what the error says besides file and line."""

RECORDS = [
    Case(name, CONVERT, ("rows.jsonl:2", *says), {"rows.jsonl": LINE + text})
    for name, (text, says) in ROWS.items()
] + [
    Case(
        "two chains with one id",
        CONVERT,
        ("rows.jsonl:2: two records have the id 'a'", "rows.jsonl:1"),
        {"rows.jsonl": line(id="a") * 2},
    )
]

PROCESS_BENCH = json.dumps({"id": "gsm8k-0", "problem": "?", "steps": ["a", "b"], "label": 2})
FORMATS = [
    Case(
        "an unknown format",
        CONVERT + " --format MathSheperd",
        ("unknown format", "got MathSheperd", "Did you mean MathShepherd?"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a format without its required option",
        CONVERT + " --format PRM800K",
        ("neutral", "required"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a format option with an unknown value",
        CONVERT + " --format PRM800K --format.neutral maybe",
        ("neutral", "good", "maybe"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a first error behind the last step",
        CONVERT + " --format ProcessBench",
        ("rows.jsonl:1: field 'label' is wrong", "-1 to 1", "got 2"),
        {"rows.jsonl": PROCESS_BENCH},
    ),
    Case(
        "the format of another file",
        CONVERT + " --format MathShepherd",
        ("rows.jsonl:1: field 'input' is missing", "right format"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a Math-Shepherd row whose texts differ",
        CONVERT + " --format MathShepherd",
        ("rows.jsonl:1: field 'label' does not match field 'input'",),
        {"rows.jsonl": json.dumps({"input": "1+1? Step 1: 2 ки", "label": "1+1? Step 1: 3 +"})},
    ),
    Case(
        "column options that contradict",
        COLUMNS + " --format.labels a --format.first_error b",
        ("`labels` or `first_error`, not both",),
        {"rows.csv": CSV},
    ),
    Case(
        "a first error without its index base",
        COLUMNS + " --format.first_error b",
        ("`first_error` and `index_base` go together",),
        {"rows.csv": CSV},
    ),
]

OUTPUTS = [
    Case(
        "an output that exists",
        CONVERT,
        ("the output exists", "out.jsonl", "--overwrite"),
        {"rows.jsonl": LINE, "out.jsonl": "mine"},
    ),
    Case(
        "an output of an unknown kind",
        "data convert --input rows.jsonl --output out.xlsx",
        (".jsonl or .parquet", "got out.xlsx"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "an output below a file",
        "data convert --input rows.jsonl --output rows.jsonl/out.jsonl",
        ("rows.jsonl/out.jsonl: cannot write",),
        {"rows.jsonl": LINE},
    ),
    Case(
        "an output in a read-only folder",
        "data convert --input rows.jsonl --output closed/out.jsonl",
        ("closed/out.jsonl: cannot write", "Read-only file system"),
        {"rows.jsonl": LINE},
        read_only,
    ),
    Case(
        "a full disk",
        CONVERT + " --overwrite",
        ("out.jsonl: cannot write", "No space left on device"),
        {"rows.jsonl": LINE, "out.jsonl": "old rows"},
        full_disk,
    ),
    Case(
        "a full disk while Parquet is written",
        "data convert --input rows.jsonl --output new/out.parquet",
        ("new/out.parquet: cannot write", "No space left on device"),
        {"rows.jsonl": LINE},
        full_disk,
    ),
    Case(
        "a wrong row behind a new output folder",
        "data convert --input rows.jsonl --output new/folder/out.jsonl",
        ("rows.jsonl:2", "label 1"),
        {"rows.jsonl": LINE + line(labels=[1, 7])},
    ),
    Case(
        "conversations and texts in one Parquet file",
        "data convert --input rows.jsonl --output out.parquet",
        ("text and conversation prompts", "cannot share a Parquet file", "JSON lines"),
        {"rows.jsonl": LINE + line(prompt=[{"role": "user", "content": "?"}])},
    ),
]

COMMANDS = [
    Case(
        "an unknown command",
        "data chek",
        ("unknown command 'data chek'", "Did you mean `prm data check`?"),
    ),
    Case(
        "an option with a typo",
        "data convert --input rows.jsonl --outptu out.jsonl",
        ("--outptu", "Did you mean --output?"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a required option that is missing",
        "data convert --input rows.jsonl",
        ("output",),
        {"rows.jsonl": LINE},
    ),
    Case(
        "an option of the wrong type",
        "data check --input rows.jsonl --limit many",
        ("--limit", "int", "many"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a length without a tokenizer",
        "data check --input rows.jsonl --max_length 100",
        ("max_length", "--tokenizer"),
        {"rows.jsonl": LINE},
    ),
    Case(
        "a tokenizer that is missing",
        "data check --input rows.jsonl --tokenizer mine",
        ("mine: cannot load the tokenizer",),
        {"rows.jsonl": LINE, "mine/notes.txt": ""},
    ),
    Case(
        "a report that cannot be written",
        "data check --input rows.jsonl --output rows.jsonl/report.json",
        ("rows.jsonl/report.json: cannot write",),
        {"rows.jsonl": LINE},
    ),
    Case(
        "an evaluation set that is missing",
        "data decontaminate --input rows.jsonl --against test.jsonl --output out.jsonl",
        ("there is no file test.jsonl",),
        {"rows.jsonl": LINE},
    ),
    Case(
        "nothing left after decontamination",
        "data decontaminate --input rows.jsonl --against rows.jsonl --output out.jsonl "
        "--against_format HFStepwise",
        ("no record to write",),
        {"rows.jsonl": LINE},
    ),
    Case(
        "generated data without a chain",
        "data make arithmetic --output out.jsonl --num_chains 0",
        ("num_chains", "at least 1", "got 0"),
    ),
    Case(
        "an impossible rate",
        "data make arithmetic --output out.jsonl --error_rate 1.5",
        ("error_rate", "got 1.5"),
    ),
    Case(
        "an unknown kind of error",
        'data make arithmetic --output out.jsonl --error_kinds ["typo"]',
        ("error_kinds", "typo"),
    ),
    Case(
        "a full disk while data are made",
        "data make arithmetic --output new/out.jsonl --num_chains 3",
        ("new/out.jsonl: cannot write", "No space left on device"),
        arrange=full_disk,
    ),
]

CASES = [*FILES, *RECORDS, *FORMATS, *OUTPUTS, *COMMANDS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_data_is_one_clear_line(
    case: Case,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse(case, run_dir, monkeypatch, capsys)


def test_every_documented_error_is_tried() -> None:
    cases = (*CASES, *fit.RUNS, *score.CASES, *outcome.CASES, *stored.CASES)
    tried = {case.name for case in cases}
    tried |= fit.CONFIGURATIONS.keys() | fit.ARRANGED.keys() | outcome.CONFIGURATIONS.keys()
    assert documented_errors().keys() <= tried
    assert len(documented_errors()) > 40
