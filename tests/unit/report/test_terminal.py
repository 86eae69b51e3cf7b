"""Terminal drawings: readable with and without color, wide and narrow."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from prm.records import Chain
from prm.report.document import named_table
from prm.report.terminal import draw_chain, rich_table
from prm.scores.chains import ChainScore

CHAIN = Chain("What is 1 + 1 + 1?", ["1 + 1 = 2", "[bold]2 + 1 = 4[/bold]", "So 4"], [1, 0, None])


def log_odds(probability):
    return (
        math.inf if probability == 1 else math.log(probability or 1e-99) - math.log1p(-probability)
    )


def drawn(
    chain=CHAIN, probabilities=(0.97, 0.12, None), *, reward=0.12, encoding="utf-8", **kwargs
):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, **{"width": 80, "color_system": None, **kwargs})
    logits = tuple(None if p is None else log_odds(p) for p in probabilities)
    score = ChainScore("", {"correctness": logits}, {}, reward, "correctness", "min")
    draw_chain(console, chain, score)
    file.seek(0)
    return file.read()


def test_numbers_bars_labels_and_reward_are_there_without_color():
    text = drawn()
    assert "What is 1 + 1 + 1?" in text
    assert "1  ██████████  0.97  ✓  1 + 1 = 2" in text
    assert "2  █·········  0.12  ✗  [bold]2 + 1 = 4[/bold]  ◀ first error" in text
    assert "3  ··········     –     So 4" in text
    assert "Reward 0.120 (min)" in text
    assert "\x1b" not in text


def test_only_the_first_step_below_the_threshold_is_marked():
    text = drawn(probabilities=(0.5, 0.4, 0.1))
    marked = [line for line in text.splitlines() if "first error" in line]
    assert len(marked) == 1
    assert marked[0].lstrip().startswith("2")


def test_color_runs_from_red_to_green():
    text = drawn(probabilities=(1.0, 0.0, 0.5), color_system="truecolor", force_terminal=True)
    for code in ("38;2;0;160;40", "38;2;200;0;40", "38;2;200;160;40"):
        assert code in text


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(color_system="truecolor", force_terminal=True)
    assert "38;2;" not in text


@pytest.mark.parametrize("width", [30, 44, 59, 60, 200])
def test_no_line_passes_the_width_and_no_word_is_lost(width):
    chain = Chain("Why? " * 20, ["word " * 30, "end"], [1, 0])
    text = drawn(chain, (0.9, 0.1), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert text.count("word") == 30
    assert "first" in text


def test_terminal_without_unicode():
    text = drawn(encoding="ascii")
    assert "##########  0.97  ok  1 + 1 = 2" in text
    assert "<- first error" in text


@pytest.mark.parametrize("reward", [None, math.nan])
def test_missing_reward(reward):
    assert "Reward – (min)" in drawn(reward=reward)


def test_steps_cannot_steer_the_terminal():
    text = drawn(Chain("Hi\x1b[2J", ["\x1b]0;owned\x07"]), (0.9,), force_terminal=True)
    assert "\x1b[2J" not in text
    assert "\x1b]0;" not in text


def test_conversation_prompt():
    chain = Chain([{"role": "user", "content": "How many?"}], ["Two"])
    assert "How many?" in drawn(chain, (0.9,))


def test_results_table_aligns_numbers_right():
    file = io.StringIO()
    table = rich_table(
        "toy", named_table(["scorer", "AUROC"], [["model", "0.9"], ["[b]x", "0.55"]])
    )
    Console(file=file, width=60).print(table)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[0] == "toy"
    assert lines[3:] == ["model     0.9", "[b]x     0.55"]
