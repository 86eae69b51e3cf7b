"""Reports about responses on disk and in the terminal."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from prm.aggregation.objectives import WeightedSum
from prm.errors import OutputError
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.responses import ResponsePrediction
from prm.records import Comparison, Rating
from prm.report import files
from prm.report.evaluation import document, draw, headline, write, write_predictions
from prm.report.markdown import render
from prm.spec import ResponseHead, RewardSpec

PLOTS = ["objectives.png", "pair_reliability.png", "correlations.png"]
NAMES = ("helpfulness", "safety", "factuality")
SPEC = RewardSpec(
    response_heads=tuple(map(ResponseHead, NAMES)),
    objective_aggregation=WeightedSum(),
)


def predictions(count=60, source="toy"):
    scores = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(0))
    made = []
    for number, row in enumerate(scores):
        about = {"id": str(number), "source": source, "metadata": {"subset": str(number % 2)}}
        if number % 3:
            record = Rating(f"{number}?", "yes | no", {NAMES[number % 3]: number % 2}, **about)
            made.append(ResponsePrediction(record, row[:1] + number % 2, row[:1].mean(1)))
        else:
            record = Comparison(f"{number}?", ["a b", "b"], objective="helpfulness", **about)
            row[0] += 1
            made.append(ResponsePrediction(record, row, row.mean(1)))
    return made


def evaluated(rows, training=None, **options):
    return evaluate(Predictions(responses=rows, objectives=NAMES), SPEC, training, **options)


@pytest.fixture(scope="module")
def report():
    rows = [*predictions(), *predictions(20, "other")]
    training = [prediction.record for prediction in rows]
    return evaluated(rows, training, num_resamples=20, context={"model": "m"})


def test_write_leaves_everything_and_no_temporary_file(report, tmp_path):
    pytest.importorskip("matplotlib")
    written = write(report, tmp_path / "new" / "folder")
    names = [path.name for path in written]
    assert names == ["predictions.jsonl", *PLOTS, "report.md", "report.json"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    for name in PLOTS:
        assert (tmp_path / "new" / "folder" / name).read_bytes().startswith(b"\x89PNG")
    assert "![pair reliability](pair_reliability.png)" in written[-2].read_text()


def test_json_is_the_report(report, tmp_path):
    write(report, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert (stored["schema"], stored["schema_version"]) == ("prm.outcome-report", 1)
    assert stored == json.loads(json.dumps(report.to_dict()))
    part = stored["objectives"]["helpfulness"]["overall"]
    assert set(part["scores"]["model"]["pair_accuracy"]) == {
        "value",
        "low",
        "high",
        "n",
        "num_groups",
    }
    assert part["differences"]["length_only"]["pair_accuracy"]["verdict"] in (
        "better",
        "worse",
        "undecided",
    )


def test_predictions_keep_every_record_and_full_precision(report, tmp_path):
    write(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    for row, prediction in zip(rows, report.predictions.responses, strict=True):
        assert row["scores"]["safety"] == prediction.scores[:, 1].tolist()
        assert row["rewards"] == prediction.rewards.tolist()
    assert (rows[0]["objective"], rows[0]["ranks"]) == ("helpfulness", [0, 1])
    assert rows[1]["values"] == {"safety": 1}


def test_missing_scores_are_null(tmp_path):
    scores = torch.tensor([[1.0, float("nan"), 0.0]])
    lost = ResponsePrediction(Rating("?", "a"), scores, scores[:, 1], reason="too long")
    (path,) = write_predictions(Predictions(responses=[lost], objectives=NAMES), tmp_path)
    row = json.loads(path.read_text())
    assert row["scores"] == {"helpfulness": [1.0], "safety": [None], "factuality": [0.0]}
    assert (row["rewards"], row["reason"]) == ([None], "too long")


def test_without_matplotlib_the_report_says_so(report, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    names = [path.name for path in write(report, tmp_path)]
    assert names == ["predictions.jsonl", "report.md", "report.json"]
    assert "matplotlib is not installed" in (tmp_path / "report.md").read_text()


def test_folder_that_is_a_file_is_one_clear_error(report, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        write(report, tmp_path / "taken")


def test_headline_says_n_interval_baseline_and_verdict(report):
    line = headline(report).splitlines()[0]
    assert line.startswith("helpfulness: pair accuracy 0.")
    assert "n = 27; length_only" in line
    assert line.endswith(("better", "worse", "undecided"))


def test_markdown_tables_are_rectangular(report):
    text = render(document(report))
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) > 8
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| other/1 |" in text
    assert "minimum domain, model" in text
    assert "- model: m" in text
    assert "equal scores are wrong in pair_accuracy" in text


def test_terminal_tables_fit_eighty_columns(report):
    file = io.StringIO()
    draw(Console(file=file, width=80), report)
    text = file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "safety: AUROC, n = 27" in text


@pytest.mark.parametrize(
    "record",
    [
        Rating("?", "a"),
        Rating("?", "a", {"safety": 1}),
        Comparison("?", ["a", "b"], objective="safety"),
        Comparison("?", ["a", "b"], [0, 0], objective="safety"),
        Comparison("?", ["a", "b"], objective="style"),
    ],
)
@pytest.mark.parametrize("score", [0.0, float("nan")])
def test_reports_on_next_to_nothing_are_written(record, score, tmp_path):
    scores = torch.full((len(record.responses), 3), score)
    result = evaluated([ResponsePrediction(record, scores, scores[:, 0])], num_resamples=5)
    assert write(result, tmp_path)[-1].name == "report.json"
    draw(Console(file=io.StringIO()), result)
    assert headline(result)


def test_partial_reports_say_so():
    lost = torch.full((1, 3), float("nan"))
    row = ResponsePrediction(Rating("?", "a", {"safety": 1}), lost, lost[:, 0], "too long")
    result = evaluated([*predictions(), row], num_resamples=0)
    assert "Partial: records were left out (too long 1)" in headline(result)
    assert "- not scored (too long): 1" in render(document(result))
