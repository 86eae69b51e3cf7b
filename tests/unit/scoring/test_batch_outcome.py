"""Batch scoring of responses: their rows, their spec, and runs that are interrupted."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from outcome_models import SPREAD_OBJECTIVES, outcome_model

from prm.aggregation.objectives import WorstCase
from prm.errors import ConfigError
from prm.models.reward_model import RewardModel
from prm.records import Comparison, Outcome, Rating
from prm.scores.responses import single_responses
from prm.scores.stored import read_scores
from prm.scoring import batch
from prm.scoring.batch import survey
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec

BLOCK = 4
score_file = functools.partial(batch.score_file, block=BLOCK)
UNSCORABLE, TRUNCATED = 3, 6


def record(index: int) -> Outcome:
    if index % 2:
        texts = [f"It is {index}.", "No."]
        return Comparison(f"{index % 3} + 1 = ?", texts, objective="help", id=f"r{index}")
    prompt = "long " * 100 if index == 2 else f"{index % 3} + 1 = ?"
    response = "so on " * 40 if index == 4 else "Two."
    return Rating(prompt, response, {"safety": index % 4 / 2}, id=f"r{index}")


RESPONSES = list(single_responses([record(index) for index in range(12)]))


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return outcome_model(response_heads=SPREAD_OBJECTIVES, max_length=64)


@pytest.fixture(scope="module")
def scorer(model: RewardModel) -> RewardScorer:
    return RewardScorer(model)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupt(scorer: RewardScorer, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score two blocks and stop."""
    calls = iter([None, None])

    def score(records: Sequence[Rating]) -> list[Any]:
        if next(calls, 0) is not None:
            raise KeyboardInterrupt
        return RewardScorer.score(scorer, records)

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score", score)
        with pytest.raises(KeyboardInterrupt):
            score_file(scorer, survey(RESPONSES), output)


def test_every_response_has_a_row(scorer: RewardScorer, tmp_path: Path) -> None:
    summary = score_file(scorer, survey(RESPONSES), tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    blocks = [RESPONSES[start : start + BLOCK] for start in range(0, len(RESPONSES), BLOCK)]
    assert rows == [score.to_row() for block in blocks for score in scorer.score(block)]
    assert len({(row["id"], row["response"]) for row in rows}) == len(rows) == 18
    assert [row["reward"] is None for row in rows].index(True) == UNSCORABLE
    assert "no room" in rows[UNSCORABLE]["reason"]
    assert [row["num_truncated"] for row in rows].index(1) == TRUNCATED
    assert (summary.num_scored, summary.num_truncated) == (17, 1)


def test_the_spec_lies_beside(scorer: RewardScorer, tmp_path: Path) -> None:
    score_file(scorer, survey(RESPONSES), tmp_path / "a.jsonl")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.jsonl", "a.jsonl.spec.json"]
    text = (tmp_path / "a.jsonl.spec.json").read_text()
    assert RewardSpec.from_json(text) == scorer.spec
    table = read_scores(tmp_path / "a.jsonl")
    rewards = table.with_aggregation(table.known_spec().objective_aggregation).rewards()
    assert rewards == pytest.approx(table.stored_rewards, nan_ok=True)


@pytest.mark.parametrize("keep_text", [False, True])
def test_parquet_equals_json_lines(scorer: RewardScorer, tmp_path: Path, keep_text: bool) -> None:
    for name in ("a.jsonl", "a.parquet"):
        score_file(scorer, survey(RESPONSES), tmp_path / name, keep_text=keep_text)
    lines, columns = rows_of(tmp_path / "a.jsonl"), pq.read_table(tmp_path / "a.parquet")
    for row, line in zip(columns.to_pylist(), lines, strict=True):
        known = {name: value for name, value in (row["spreads"] or {}).items() if value is not None}
        assert known == (line["spreads"] or {})
        assert {**row, "spreads": None} == {**line, "spreads": None}


def test_kept_text_is_prompt_response_and_labels(scorer: RewardScorer, tmp_path: Path) -> None:
    score_file(scorer, survey(RESPONSES), tmp_path / "a.jsonl", keep_text=True)
    for row, rating in zip(rows_of(tmp_path / "a.jsonl"), RESPONSES, strict=True):
        assert (row["prompt"], row["response_text"]) == (rating.prompt, rating.response)
        assert row["labels"] == (dict(rating.values) or None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_continued_file_is_the_uninterrupted_one(
    scorer: RewardScorer, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_file(scorer, survey(RESPONSES), tmp_path / f"whole{suffix}")
    output = tmp_path / f"cut{suffix}"
    interrupt(scorer, output, monkeypatch)
    assert not output.exists()
    assert not output.with_name(f"{output.name}.spec.json").exists()
    assert score_file(scorer, survey(RESPONSES), output).num_resumed == 2 * BLOCK
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_other_settings_are_refused_by_name(
    model: RewardModel,
    scorer: RewardScorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "a.jsonl"
    interrupt(scorer, output, monkeypatch)
    before = (tmp_path / "a.jsonl.partial").read_bytes()
    cautious = RewardScorer(model, objective_aggregation=WorstCase())
    with pytest.raises(ConfigError, match=r"another aggregation.*--overwrite"):
        score_file(cautious, survey(RESPONSES), output)
    other = RewardScorer(outcome_model(response_heads=SPREAD_OBJECTIVES, max_length=65))
    with pytest.raises(ConfigError, match="another model"):
        score_file(other, survey(RESPONSES), output)
    with pytest.raises(ConfigError, match="another input"):
        score_file(scorer, survey(RESPONSES[1:]), output)
    assert (tmp_path / "a.jsonl.partial").read_bytes() == before
    assert score_file(cautious, survey(RESPONSES), output, overwrite=True).num_resumed == 0
    assert {row["aggregation"] for row in rows_of(output)} == {"worst_case"}


def test_labels_never_change_a_score(scorer: RewardScorer, tmp_path: Path) -> None:
    bare = [
        Rating(item.prompt, item.response, id=item.id, metadata=item.metadata, origin=item.origin)
        for item in RESPONSES
    ]
    for name, ratings in {"a": RESPONSES, "b": bare}.items():
        score_file(scorer, survey(ratings), tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
