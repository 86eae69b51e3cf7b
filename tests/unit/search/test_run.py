from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from prm.data.sources.source import Skipped
from prm.errors import ConfigError, DataError, OutputError
from prm.records import Prompt
from prm.search.candidates import Candidate, SearchResult
from prm.search.problems import Problem, read_problems
from prm.search.run import SearchSummary, search_file

BLOCK = 8

PROBLEMS = [Problem(f"p{index}", f"{index} + 1?") for index in range(2 * BLOCK + 3)]


def search(prompts: Sequence[Prompt]) -> list[SearchResult]:
    """Answer every prompt but the first ones."""
    found = Candidate("a", ("a",), "end", None, "2")
    return [
        SearchResult(prompt, (), reason="not today")
        if prompt in ("0 + 1?", "1 + 1?")
        else SearchResult(prompt, (found,), 0, "2")
        for prompt in prompts
    ]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_row_per_prompt_in_order(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    seen: list[int] = []
    summary = search_file(
        search, PROBLEMS, path, {"n": 1}, on_block=lambda now: seen.append(now.num_prompts)
    )
    assert [row["id"] for row in rows(path)] == [problem.id for problem in PROBLEMS]
    assert [row["prompt"] for row in rows(path)] == [problem.prompt for problem in PROBLEMS]
    assert (summary.num_prompts, summary.num_chosen, summary.num_candidates) == (19, 17, 17)
    assert (summary.reasons, summary.mean_reward) == (["not today"], None)
    assert seen == [0, BLOCK, 2 * BLOCK, len(PROBLEMS)]
    assert [file.name for file in tmp_path.iterdir()] == ["found.jsonl"]


def test_killed_search_continues_after_its_last_block(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "found.jsonl"
    search_file(search, PROBLEMS, whole, {"n": 1})
    asked: list[Prompt] = []

    def killed(prompts: Sequence[Prompt]) -> list[SearchResult]:
        if asked:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return search(prompts)

    with pytest.raises(KeyboardInterrupt):
        search_file(killed, PROBLEMS, path, {"n": 1})
    assert not path.exists()
    with pytest.raises(ConfigError, match="another n"):
        search_file(search, PROBLEMS, path, {"n": 2})
    with pytest.raises(ConfigError, match="another input"):
        search_file(search, PROBLEMS[1:], path, {"n": 1})
    later: list[Prompt] = []

    def counted(prompts: Sequence[Prompt]) -> list[SearchResult]:
        later.extend(prompts)
        return search(prompts)

    summary = search_file(counted, PROBLEMS, path, {"n": 1})
    assert later == [problem.prompt for problem in PROBLEMS[BLOCK:]]
    assert (summary.num_resumed, summary.num_prompts) == (BLOCK, len(PROBLEMS))
    assert path.read_bytes() == whole.read_bytes()


def test_output_is_replaced_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        search_file(search, PROBLEMS, path, {})
    assert path.read_text() == "mine"
    search_file(search, PROBLEMS, path, {}, overwrite=True)
    assert len(rows(path)) == len(PROBLEMS)
    with pytest.raises(OutputError, match=r"\.jsonl"):
        search_file(search, PROBLEMS, tmp_path / "found.parquet", {})


def test_summary_names_few_reasons() -> None:
    summary = SearchSummary()
    for reason in "aabcd":
        summary.add([SearchResult("p", (), reason=reason).to_row()])
    assert summary.reasons == ["a", "b", "c"]


def test_problems_are_read_with_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    turn = {"role": "user", "content": "b"}
    values = [{"prompt": "a", "other": 1}, {"id": "x", "prompt": [turn]}]
    path.write_text("\n".join(map(json.dumps, values)))
    assert read_problems(str(path)) == [Problem("0", "a"), Problem("x", (turn,))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"problem": "a"}', "problems.jsonl:1: field 'prompt' is missing"),
        ('{"prompt": "a"}\n{"prompt": 3}', "problems.jsonl:2: field 'prompt' is wrong"),
        ('{"prompt": "a"}\n{"prompt": []}', "problems.jsonl:2"),
        ('{"prompt": "\\ud83d"}', "surrogate"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "the same id: got 1"),
        ("", "empty"),
        ("{", "JSON"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_problems(str(path))
    assert message in str(caught.value)


def test_wrong_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "a"}\n{]\n{"prompt": 3}\n{"id": 0, "prompt": "b"}\n{"prompt": "c"}')
    skipped = Skipped()
    found = read_problems(str(path), "skip", skipped)
    assert (found, skipped.count) == ([Problem("0", "a"), Problem("4", "c")], 3)
