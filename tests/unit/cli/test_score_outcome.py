"""`prm score` with outcome and joint models, and the commands that go on with its files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from outcome_models import save_joint_model, save_outcome_model

from prm.cli.main import main
from prm.scoring.batch import score_file
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec

PROMPT = "Name a prime."
ROWS: dict[str, list[dict[str, Any]]] = {
    "pairs": [{"id": "a", "prompt": PROMPT, "chosen": "7", "rejected": "8"}],
    "k-wise": [
        {"id": "a", "prompt": PROMPT, "responses": ["7", "8", "9"], "ranks": [0, 1, 1]}
        | {"objective": "factuality"}
    ],
    "candidates": [{"id": "a", "prompt": PROMPT, "responses": ["7", "8", "7", "9"]}],
    "ratings": [
        {"id": "a", "prompt": PROMPT, "response": "7", "ratings": {"safety": 1.0}},
        {"id": "b", "prompt": PROMPT, "response": "7"},
    ],
    "conversations": [
        {"id": "a", "prompt": [{"role": "user", "content": PROMPT}], "response": "7"},
    ],
}
EXPECTED = {
    "pairs": [("a", 0), ("a", 1)],
    "k-wise": [("a", 0), ("a", 1), ("a", 2)],
    "candidates": [("a", 0), ("a", 1), ("a", 3)],
    "ratings": [("a", 0), ("b", 0)],
    "conversations": [("a", 0)],
}
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_outcome_model(tmp_path_factory.mktemp("outcome") / "model"))


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_joint_model(tmp_path_factory.mktemp("joint") / "model"))


@pytest.fixture(scope="module")
def scorer(model: str) -> RewardScorer:
    return RewardScorer.from_pretrained(model)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def candidates(count: int = 6) -> list[dict[str, Any]]:
    """Rows of three responses; the prompt of the third row is too long."""
    return [
        {
            "id": f"r{index}",
            "prompt": "long " * 100 if index == 2 else f"What is {index} + 1?",
            "responses": [f"It is {index + 1}.", f"No {index}", "Who knows?"],
        }
        for index in range(count)
    ]


def test_one_response_is_drawn(model: str, scorer: RewardScorer, capsys: Captured) -> None:
    assert run("score", "--model", model, "--prompt", PROMPT, "--response", "Seven.") == 0
    shown = capsys.readouterr().out
    (score,) = scorer.score((PROMPT, "Seven."))
    head = ("reward", "helpfulness", "safety", "length", "response", "Reward by weighted_sum")
    assert all(text in shown for text in (PROMPT, "Seven.", f"{score.reward:.3f}", *head))


def test_several_responses_are_drawn_best_first(
    model: str, scorer: RewardScorer, capsys: Captured
) -> None:
    texts = ["Seven.", "Eight is it", "Go away"]
    words = ("--prompt", PROMPT, "--response", json.dumps(texts))
    assert run("score", "--model", model, *words) == 0
    rewards = {text: scorer.score((PROMPT, text))[0].reward for text in texts}
    order = sorted(texts, key=lambda text: -rewards[text])
    shown = capsys.readouterr().out
    places = [shown.index(text) for text in order]
    assert places == sorted(places)


def test_typed_responses_as_json(model: str, capsys: Captured) -> None:
    words = ("--prompt", PROMPT, "--response", '["7", "8", "7"]', "--json")
    assert run("score", "--model", model, *words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["response"] for row in rows] == [0, 1]
    assert {row["group"] for row in rows} == {PROMPT}


@pytest.mark.parametrize(
    "text",
    [
        f"{PROMPT}\nSeven.\nOr two.\n",
        f"{PROMPT}\n\nSeven.\nOr two.",
        json.dumps({"prompt": PROMPT, "response": "Seven.\nOr two."}),
        json.dumps([{"prompt": PROMPT, "responses": ["Seven.\nOr two."]}]),
    ],
    ids=["line", "paragraph", "object", "array"],
)
def test_standard_input_scores_as_the_api(
    model: str,
    scorer: RewardScorer,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    type_in(monkeypatch, text)
    assert run("score", "--model", model, "--json") == 0
    expected = scorer.score((PROMPT, "Seven.\nOr two."))[0].to_row()
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_each_distinct_response_of_a_file_is_scored_once(
    model: str, scorer: RewardScorer, kind: str, suffix: str, tmp_path: Path
) -> None:
    rows, output = write(tmp_path / "rows.jsonl", ROWS[kind]), tmp_path / f"scores{suffix}"
    words = ("--model", model, "--input", rows, "--output", output, "--keep_text")
    assert run("score", *words) == 0
    found = read(output)
    assert [(row["id"], row["response"]) for row in found] == EXPECTED[kind]
    assert len({row["group"] for row in found}) == 1
    for row in found:
        (score,) = scorer.score({"prompt": row["prompt"], "response": row["response_text"]})
        assert row["reward"] == pytest.approx(score.reward, abs=1e-5)
    spec = (tmp_path / f"scores{suffix}.spec.json").read_text("utf-8")
    assert RewardSpec.from_json(spec).response_names == ("helpfulness", "safety", "length")


def test_a_format_of_several_records_to_a_row(model: str, tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "response_0": "7", "response_1": "8", "is_response_0_safe": True}
    row |= {"is_response_1_safe": False, "better_response_id": 0, "safer_response_id": 0}
    row |= {"response_0_severity_level": 0, "response_1_severity_level": 2}
    row |= {"prompt_source": "x", "response_0_source": "y", "response_1_source": "y"}
    row |= {"response_0_harm_category": {}, "response_1_harm_category": {}}
    rows, output = write(tmp_path / "rows.jsonl", [row, row]), tmp_path / "scores.jsonl"
    words = ("--model", model, "--input", rows, "--output", output, "--format", "pku_safe_rlhf")
    assert run("score", *words) == 0
    found = [(row["id"], row["response"]) for row in read(output)]
    assert found == [("rows-0", 0), ("rows-0", 1), ("rows-1", 0), ("rows-1", 1)]


def test_what_has_no_room_keeps_its_row_and_a_reason(
    model: str, tmp_path: Path, capsys: Captured
) -> None:
    rows = write(tmp_path / "rows.jsonl", candidates())
    output = tmp_path / "scores.jsonl"
    assert run("score", "--model", model, "--input", rows, "--output", output) == 0
    assert "15 of 18 records scored" in capsys.readouterr().out
    unscored = [row for row in read(output) if row["reward"] is None]
    assert [row["id"] for row in unscored] == ["r2"] * 3
    assert all("rows.jsonl:3, row 'r2'" in row["reason"] for row in unscored)
    only = write(tmp_path / "only.jsonl", candidates()[2:3])
    assert run("score", "--model", model, "--input", only, "--output", tmp_path / "o.jsonl") == 1


def rewards_of(model: str, capsys: Captured, *words: str) -> dict[str, Any]:
    chosen = ("--prompt", PROMPT, "--response", "Seven.", "--json", *words)
    assert run("score", "--model", model, *chosen) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)
    return row


@pytest.mark.parametrize("name", ["WorstCase", "worst_case"])
def test_an_aggregation_replaces_the_model_s(model: str, name: str, capsys: Captured) -> None:
    row = rewards_of(model, capsys, "--aggregation", name)
    assert row["reward"] == pytest.approx(min(row["utilities"].values()))
    assert row["aggregation"] == "worst_case"


@pytest.mark.parametrize(
    "words",
    [
        ["--aggregation.weights.safety=2"],
        ["--aggregation.weights.safety", "2"],
        ["--aggregation", "WeightedSum", "--aggregation.weights.safety=2"],
        ["--aggregation_overrides", '{"weights.safety": 2}'],
    ],
)
def test_a_weight_can_be_changed(model: str, words: list[str], capsys: Captured) -> None:
    row = rewards_of(model, capsys, *words)
    u = row["utilities"]
    expected = (u["helpfulness"] + u["length"]) / 3 + 2 * u["safety"]
    assert row["reward"] == pytest.approx(expected)


def test_a_continued_file_is_the_uninterrupted_one(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("prm.cli.scoring.score_file", partial(score_file, block=4))
    rows = write(tmp_path / "rows.jsonl", candidates())
    words = ("score", "--model", model, "--input", rows, "--output")
    assert run(*words, tmp_path / "whole.jsonl") == 0
    output = tmp_path / "cut.jsonl"
    interrupted(monkeypatch, *words, output)
    assert run(*words, output, "--aggregation", "WorstCase") == 2
    assert "another aggregation" in capsys.readouterr().err
    assert run(*words, output) == 0
    assert "8 rows kept from before" in capsys.readouterr().out
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def interrupted(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a command that Ctrl-C stops after two blocks."""
    score, calls = RewardScorer.score, iter([None, None])

    def stopped(self: RewardScorer, records: Any) -> Any:
        if next(calls, 0) is not None:
            raise KeyboardInterrupt
        return score(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(RewardScorer, "score", stopped)
        assert run(*words) == 130


def test_a_joint_model_scores_both(joint: str, tmp_path: Path, capsys: Captured) -> None:
    assert run("score", "--model", joint, "--prompt", "1 + 1?", "--steps", '["2", "so 2"]') == 0
    assert "(min)" in capsys.readouterr().out
    assert run("score", "--model", joint, "--prompt", "1 + 1?", "--response", "2") == 0
    assert "Reward by weighted_sum" in capsys.readouterr().out
    chains = write(tmp_path / "chains.jsonl", [{"prompt": "1?", "completions": ["1", "so 1"]}])
    words = ("score", "--model", joint, "--input", chains, "--output", tmp_path / "c.jsonl")
    assert run(*words) == 2
    assert "the row has no response" in capsys.readouterr().err
    assert run(*words, "--format", "HFStepwise") == 0
    assert len(read(tmp_path / "c.jsonl")[0]["step_probabilities"]["correctness"]) == 2


def test_a_joint_model_takes_both_kinds_of_aggregation(joint: str, capsys: Captured) -> None:
    chain = ("score", "--model", joint, "--prompt", "1 + 1?", "--steps", "2", "--json")
    assert run(*chain, "--aggregation", "last") == 0
    assert json.loads(capsys.readouterr().out)["aggregation"] == "last"
    assert run(*chain, "--aggregation", "softmin", "--aggregation.beta=3") == 0
    assert json.loads(capsys.readouterr().out)["aggregation"] == "softmin"
    row = rewards_of(joint, capsys, "--aggregation", "WorstCase")
    assert row["reward"] == pytest.approx(min(row["utilities"].values()))
    row = rewards_of(joint, capsys, "--aggregation", "last", "--aggregation.weights.toxicity=3")
    u = row["utilities"]
    assert row["reward"] == pytest.approx(u["helpfulness"] / 2 + 3 * u["toxicity"])


@pytest.fixture(scope="module")
def ranked(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with candidates, their ranking, and the scores behind it."""
    folder = tmp_path_factory.mktemp("ranked")
    rows = write(folder / "rows.jsonl", candidates())
    assert run("rank", "--model", model, "--input", rows, "--output", folder / "best.jsonl") == 0
    return folder


def test_rank_scores_first_and_keeps_the_scores(model: str, ranked: Path, tmp_path: Path) -> None:
    names = ["best.jsonl", "best.jsonl.scores.jsonl", "best.jsonl.scores.jsonl.spec.json"]
    assert sorted(path.name for path in ranked.iterdir()) == [
        *names,
        "best.jsonl.spec.json",
        "rows.jsonl",
    ]
    words = ("--model", model, "--input", ranked / "rows.jsonl", "--keep_text")
    assert run("score", *words, "--output", tmp_path / "s.jsonl") == 0
    assert (ranked / names[1]).read_bytes() == (tmp_path / "s.jsonl").read_bytes()
    assert run("rank", tmp_path / "s.jsonl", "--output", tmp_path / "r.jsonl") == 0
    assert (ranked / "best.jsonl").read_bytes() == (tmp_path / "r.jsonl").read_bytes()


def test_ranked_rows_hold_texts_and_margins(ranked: Path) -> None:
    rows = read(ranked / "best.jsonl")
    assert [row["rank"] for row in rows] == [0, 1, 2] * 2 + [None] * 3 + [0, 1, 2] * 3
    assert all(row["response_text"] and row["prompt"] for row in rows)
    for best, second in pairwise(rows):
        if second["rank"]:
            assert best["margin"] == pytest.approx(best["reward"] - second["reward"])


def test_ranking_again_needs_no_model(ranked: Path, tmp_path: Path) -> None:
    scores, output = ranked / "best.jsonl.scores.jsonl", tmp_path / "safe.jsonl"
    words = ("--aggregation.weights.safety=9", "--aggregation.weights.length=0", "--top", 1)
    assert run("rank", scores, *words, "--output", output) == 0
    best = {row["id"]: row["response"] for row in read(output)}
    for name, response in best.items():
        own = [row for row in read(scores) if row["id"] == name]
        total = [9 * row["scores"]["safety"] + row["scores"]["helpfulness"] / 3 for row in own]
        assert total.index(max(total)) == response


def test_rank_continues_and_does_not_score_twice(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("prm.cli.scoring.score_file", partial(score_file, block=4))
    rows = write(tmp_path / "rows.jsonl", candidates())
    words = ("rank", "--model", model, "--input", rows, "--output", tmp_path / "best.parquet")
    interrupted(monkeypatch, *words)
    assert "The same command continues" in capsys.readouterr().err
    assert run(*words) == 0
    assert "8 rows kept from before" in capsys.readouterr().out
    (tmp_path / "best.parquet").unlink()
    (tmp_path / "best.parquet.spec.json").unlink()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert "is scored already: got" in error
    assert "best.parquet.scores.jsonl" in error
    assert run(*words, "--overwrite") == 0


def test_rank_draws_a_few_responses(model: str, scorer: RewardScorer, capsys: Captured) -> None:
    texts = ["Seven.", "Eight is it", "Go away"]
    words = ("--prompt", PROMPT, "--responses", json.dumps(texts))
    weights = [f"--aggregation.weights.{name}={w}" for name, w in (("safety", 1), ("length", 0))]
    assert run("rank", "--model", model, *words, *weights) == 0
    shown = capsys.readouterr().out
    places = sorted(texts, key=shown.index)
    scores = {text: scorer.score((PROMPT, text))[0].scores for text in texts}
    totals = [scores[text]["helpfulness"] / 3 + scores[text]["safety"] for text in places]
    assert totals == sorted(totals, reverse=True)
    lines = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert [line[0] for line in lines] == ["0", "1", "2"]
    assert float(lines[0][2]) == pytest.approx(totals[0] - totals[1], abs=2e-3)
    assert all(0.5 <= float(line[3]) <= 1 for line in lines[:2])
    assert run("rank", "--model", model, *words, "--top", 1) == 0
    assert sum(text in capsys.readouterr().out for text in texts) <= 1


def test_a_process_model_ranks_chains(joint: str, tmp_path: Path) -> None:
    rows = [
        {"id": f"c{i}", "prompt": f"{i // 3} + 1?", "completions": [f"{i} it is", "so"]}
        for i in range(6)
    ]
    chains, output = write(tmp_path / "chains.jsonl", rows), tmp_path / "best.jsonl"
    words = ("--input", chains, "--format", "HFStepwise", "--output", output, "--top", 1)
    assert run("rank", "--model", joint, *words) == 0
    best = read(output)
    assert [row["group"] for row in best] == ["0 + 1?", "1 + 1?"]
    scores = read(tmp_path / "best.jsonl.scores.jsonl")
    for row in best:
        own = [item["reward"] for item in scores if item["group"] == row["group"]]
        assert row["reward"] == max(own)


@pytest.mark.parametrize("kind", ["pairs", "ratings"])
def test_filter_scores_first_and_keeps_rows_of_the_input(
    model: str, kind: str, tmp_path: Path, capsys: Captured
) -> None:
    rows = [
        {**row, "id": f"{row['id']}{i}", "prompt": f"{row['id']}{i}? {row['prompt']}"}
        for i in range(5)
        for row in ROWS[kind]
    ]
    data, kept, dropped = (tmp_path / f"{name}.jsonl" for name in ("data", "kept", "dropped"))
    write(data, rows)
    words = ("--model", model, "--input", data, "--output", kept, "--dropped", dropped)
    assert run("filter", *words, "--top_share", 0.5, "--missing", "error") == 0
    scores = read(tmp_path / "kept.jsonl.scores.jsonl")
    low = sorted((row["reward"] for row in scores), reverse=True)[: (len(scores) + 1) // 2][-1]
    passes = {row["id"] for row in rows} - {row["id"] for row in scores if row["reward"] < low}
    assert [row["id"] for row in read(kept)] == [r["id"] for r in rows if r["id"] in passes]
    assert {row["id"] for row in read(dropped)} == {row["id"] for row in rows} - passes
    assert "dropped:" in capsys.readouterr().out
    again = ("--data", data, "--top_share", 0.5, "--output", tmp_path / "again.jsonl")
    assert run("filter", tmp_path / "kept.jsonl.scores.jsonl", *again) == 0
    assert (tmp_path / "again.jsonl").read_bytes() == kept.read_bytes()


def test_filter_joins_rows_that_the_format_names(model: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "responses": ["a", "b"]} for i in range(4)]
    data, kept = write(tmp_path / "my.data.jsonl", rows), tmp_path / "kept.jsonl"
    words = ("--model", model, "--input", data, "--output", kept, "--min_reward", -1000)
    assert run("filter", *words, "--missing", "error") == 0
    assert read(kept) == rows


def test_reward_and_audit_go_on_with_the_file(
    ranked: Path, tmp_path: Path, capsys: Captured
) -> None:
    scores, output = ranked / "best.jsonl.scores.jsonl", tmp_path / "cautious.parquet"
    assert run("reward", scores, "--aggregation", "WorstCase", "--output", output) == 0
    for row in read(output):
        known = [value for value in row["utilities"].values() if value is not None]
        assert row["reward"] == (pytest.approx(min(known)) if known else None)
    assert run("rank", output, "--top", 1) == 0
    assert run("filter", output, "--min_reward", -1000, "--output", tmp_path / "k.jsonl") == 0
    assert len(read(tmp_path / "k.jsonl")) == 15
    words = ("audit", "tradeoffs", "--scores", scores, "--aggregation.weights.safety=2")
    assert run(*words) == 0
    assert "worst case" in capsys.readouterr().out


def test_help_and_wrong_options_load_nothing_heavy() -> None:
    code = (
        "import sys, prm\n"
        "from prm.cli.main import main\n"
        "def run(line):\n"
        "    try: return main(line.split())\n"
        "    except SystemExit as stop: return stop.code\n"
        "assert run('--help') == 0 and 'jsonargparse' not in sys.modules\n"
        "for name in ('score', 'reward', 'rank', 'filter', 'audit tradeoffs'):\n"
        "    assert run(name + ' --help') == 0, name\n"
        "assert run('rank --prompt a') == run('filter --output a.jsonl') == 2\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'transformers', 'lightning'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "set()"
