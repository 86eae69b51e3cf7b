"""Reports about steps on disk and in the terminal."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from prm.errors import OutputError
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.steps import StepPrediction
from prm.metrics.binary import StepUnits
from prm.metrics.first_error import ChainUnits
from prm.records import Chain
from prm.report import files
from prm.report.evaluation import document, draw, headline, write
from prm.report.markdown import render

PLOTS = ["roc.png", "reliability.png", "auroc_by_position.png", "first_error_offsets.png"]


def predictions(source="toy", count=60):
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        first = int(generator.integers(-1, 3))
        labels = [float(i != first) if first < 0 or i <= first else None for i in range(3)]
        chain = Chain(
            "?", ["a", "b", "c"], labels, id=str(number), source=source, group=str(number)
        )
        scores = [
            float(np.clip(generator.normal(0.3 + 0.4 * (i != first), 0.3), 0, 1)) for i in range(3)
        ]
        made.append(StepPrediction(chain, tuple(scores)))
    return made


@pytest.fixture(scope="module")
def report():
    rows = predictions("processbench/gsm8k") + predictions("processbench/math", 20)
    return evaluate(Predictions(rows), num_resamples=20, context={"model": "m"})


def test_write_leaves_everything_and_no_temporary_file(report, tmp_path):
    pytest.importorskip("matplotlib")
    written = write(report, tmp_path / "new" / "folder")
    names = [path.name for path in written]
    assert names == ["predictions.jsonl", *PLOTS, "report.md", "report.json"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    for name in PLOTS:
        assert (tmp_path / "new" / "folder" / name).read_bytes().startswith(b"\x89PNG")
    assert "![roc](roc.png)" in written[-2].read_text()


def test_json_is_the_report(report, tmp_path):
    write(report, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert (stored["schema"], stored["schema_version"]) == ("prm.process-report", 1)
    assert stored == json.loads(json.dumps(report.to_dict()))
    auroc = stored["overall"]["model"]["metrics"]["step_auroc"]
    assert set(auroc) == {"value", "low", "high", "n", "num_groups"}


def test_predictions_keep_every_chain_and_full_precision(report, tmp_path):
    write(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [tuple(row["probabilities"]) for row in rows] == [
        p.probabilities for p in report.predictions.steps
    ]
    assert rows[0]["first_error"] == report.predictions.steps[0].chain.first_error()


def test_without_matplotlib_the_report_says_so(report, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    names = [path.name for path in write(report, tmp_path)]
    assert names == ["predictions.jsonl", "report.md", "report.json"]
    assert "matplotlib is not installed" in (tmp_path / "report.md").read_text()


def test_folder_that_is_a_file_is_one_clear_error(report, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        write(report, tmp_path / "taken")


def test_partial_benchmark_never_prints_as_the_score(report):
    assert "partial, not the ProcessBench score" in headline(report)
    assert "math 980" in headline(report)


def test_markdown_tables_are_rectangular(report):
    text = render(document(report))
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    widths = [{line.count("|") for line in table.splitlines()} for table in tables]
    assert all(len(width) == 1 for width in widths)
    metrics = len(StepUnits.metrics) + len(ChainUnits.metrics)
    assert {1 + 3 + metrics, 1 + 2} < set.union(*widths)  # one more bar than columns
    assert "always_correct" in text
    assert "- model: m" in text


def test_terminal_tables_fit_eighty_columns(report):
    file = io.StringIO()
    draw(Console(file=file, width=80), report)
    text = file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "processbench/math: 20 chains" in text


@pytest.mark.parametrize("labels", [None, [1.0], [0.0], [0.4]])
def test_reports_on_next_to_nothing_are_written(labels, tmp_path):
    chain = Chain("?", ["a"], labels)
    report = evaluate(Predictions([StepPrediction(chain, (0.5,))]), num_resamples=5)
    assert write(report, tmp_path)[-1].name == "report.json"
    assert "| model | 1 | — |" in (tmp_path / "report.md").read_text()
