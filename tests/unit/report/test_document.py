"""One document: the terminal draws what is brief, Markdown renders everything."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from prm.errors import DataError
from prm.report import files
from prm.report.document import Code, Column, Document, Facts, Marked, Plot, Section, Table, Text
from prm.report.files import write_report
from prm.report.markdown import PLOTS_MISSING, render
from prm.report.terminal import draw

TABLE = Table(
    [Column("scorer", "left"), Column("step AUROC"), Column("Brier", rank=1)],
    [["model | best", Marked("0.9", "good"), "0.1"], ["length", "0.5", "0.25"]],
)
DOCUMENT = Document(
    "A title",
    "First line\nSecond line",
    [
        Section("Results", [Text("What it means."), TABLE]),
        Section("Details", [TABLE.__class__(TABLE.columns, TABLE.rows, brief=False)]),
        Section("Facts", [Facts({"seed": 0})]),
        Section("Next", [Text("Run this:", brief=True), Code("prm fit")]),
    ],
    [Plot("a_plot", lambda figure: figure.add_subplot().plot([0, 1]))],
)


def drawn(document=DOCUMENT, width=24, **options):
    file = io.StringIO()
    draw(Console(file=file, width=width, **options), document)
    return file.getvalue()


def test_the_terminal_draws_brief_blocks_and_ends_with_the_headline():
    text = drawn()
    assert text.rstrip().endswith("First line\nSecond line")
    for word in ("Results", "0.9", "Run this:", "prm fit"):
        assert word in text
    for word in ("Brier", "What it means", "Details", "seed", "Facts"):
        assert word not in text


@pytest.mark.parametrize(("width", "has_room"), [(19, False), (25, False), (26, True), (60, True)])
def test_a_table_has_as_many_columns_as_there_is_room_for(width, has_room):
    text = drawn(width=width)
    assert ("Brier" in text) == has_room
    assert "AUROC" in text


def test_markdown_has_everything():
    text = render(DOCUMENT)
    assert text.startswith("# A title\n\nFirst line\n\nSecond line\n\n## Results\n\nWhat it means.")
    assert "| model \\| best | 0.9 | 0.1 |" in text
    assert "## Details" in text
    assert "- seed: 0" in text
    assert "```\nprm fit\n```" in text
    assert text.endswith("![a plot](a_plot.png)\n")
    assert render(DOCUMENT, with_plots=False).endswith(f"{PLOTS_MISSING}\n")
    assert PLOTS_MISSING not in render(Document("t", "h", []), with_plots=False)


def test_headings_are_folded_where_they_are_wider_than_their_cells():
    lines = drawn().splitlines()
    assert lines[1].split() == ["step"]
    assert lines[2].split() == ["scorer", "AUROC"]
    joined = Table([Column("scorer", "left"), Column("a\N{NO-BREAK SPACE}b c")], [["x", "1"]])
    document = Document("t", "", [Section("s", [joined])])
    assert "a\N{NO-BREAK SPACE}b\n" in drawn(document)
    assert "| scorer | a b c |" in render(document)


def test_a_tone_is_color_and_nothing_else():
    assert "\x1b[32m  0.9" in drawn(force_terminal=True, color_system="standard")
    assert drawn().count("0.9") == 1


def test_titles_and_lines_are_whole_in_narrow_terminals():
    long = "a title that is longer than the table below it and than the terminal is wide"
    table = Table([Column("x", "left")], [["1"]])
    text = drawn(Document("t", "", [Section(long, [table, Text(long, brief=True)])]), width=40)
    assert text.count(long) == 2


def test_control_characters_do_not_reach_the_terminal():
    section = Section("t\x1b[2J", [Table([Column("x", "left")], [["\x1b[31m"]])])
    assert "\x1b" not in drawn(Document("t", "h\x1b", [section]))


def test_a_folder_has_everything_and_the_json_last(tmp_path):
    pytest.importorskip("matplotlib")
    rows = {"rows/some.jsonl": b"{}\n"}
    written = write_report(DOCUMENT, {"seed": 0}, tmp_path, "audit", rows)
    names = [str(path.relative_to(tmp_path)) for path in written]
    assert names == ["rows/some.jsonl", "a_plot.png", "audit.md", "audit.json"]
    assert json.loads(written[-1].read_text()) == {"seed": 0}
    assert (tmp_path / "a_plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_are_no_plots(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    names = [path.name for path in write_report(DOCUMENT, {}, tmp_path)]
    assert names == ["report.md", "report.json"]
    assert PLOTS_MISSING in (tmp_path / "report.md").read_text()


def test_data_that_are_no_json_are_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_report(DOCUMENT, {"value": float("nan")}, tmp_path)
