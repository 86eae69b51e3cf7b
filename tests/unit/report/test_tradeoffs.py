"""The folder of an audit of trade-offs."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console
from stored_scores import make_rows, make_spec, write_rows

from prm.audit.tradeoffs import audit_tradeoffs
from prm.errors import OutputError
from prm.report.markdown import render
from prm.report.tradeoffs import check_folder, document, draw, headline, write
from prm.scores.stored import read_scores

PLOTS = [
    "flips_by_weight.png",
    "winners_by_aggregation.png",
    "flips_by_share.png",
    "pareto.png",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    generator = np.random.default_rng(0)
    scores = [(str(i // 3), tuple(generator.normal(size=3).tolist())) for i in range(60)]
    path = write_rows(tmp_path_factory.mktemp("s") / "s.jsonl", make_rows(scores), make_spec())
    table = read_scores(path)
    return audit_tradeoffs(table, make_spec().objective_aggregation, settings={"scores": "s.jsonl"})


def test_write_leaves_everything(report, tmp_path):
    pytest.importorskip("matplotlib")
    written = write(report, tmp_path / "new")
    assert [path.name for path in written] == [*PLOTS, "tradeoffs.md", "tradeoffs.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in written
    )
    assert all((tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS)
    assert json.loads(written[-1].read_text()) == json.loads(json.dumps(report.to_dict()))
    with pytest.raises(OutputError, match="the folder holds a report"):
        check_folder(tmp_path / "new", overwrite=False)
    check_folder(tmp_path / "new", overwrite=True)


def test_without_matplotlib_the_report_says_so(report, tmp_path, monkeypatch):
    monkeypatch.setattr("prm.report.files.find_spec", lambda name: None)
    names = [path.name for path in write(report, tmp_path)]
    assert names == ["tradeoffs.md", "tradeoffs.json"]
    assert "matplotlib is not installed" in (tmp_path / "tradeoffs.md").read_text()


def test_markdown_explains_every_table(report):
    text = render(document(report))
    sections = text.split("\n## ")[1:]
    assert len(sections) == 9
    assert all(len(section.split("\n\n")[1]) > 30 for section in sections)
    assert headline(report) in text
    assert "- scores: s.jsonl" in text


def test_tables_are_drawn(report):
    stream = io.StringIO()
    draw(Console(file=stream, width=160), report)
    shown = stream.getvalue()
    assert "…" not in shown
    assert all(word in shown for word in ("worst case", "Exchange rates", "Pareto front"))
