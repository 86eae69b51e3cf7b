"""The layouts of the reference's table, each read with the options that stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from prm.cli.main import main

Row = dict[str, Any]

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "formats.md"
PRIME, PAIR = "Name a prime.", {"chosen": "7", "rejected": "8"}
ASK = {"role": "user", "content": PRIME}
ASK_SHARED = {"from": "human", "value": PRIME}


SHARED = Path(__file__).resolve().parents[4] / "shared" / "cases" / "files" / "schemas"
PUBLISHED = {
    "arena.jsonl": ("Chatbot Arena, MT-Bench judgments", 2),
    "distilabel.jsonl": ("distilabel ratings", 3),
    "dpo_mix_argilla.jsonl": ("Argilla DPO mix", 1),
    "factscore.jsonl": ("FActScore", 1),
    "judgebench.jsonl": ("JudgeBench", 2),
    "math_step_dpo.jsonl": ("Math-Step-DPO", 1),
    "reasoneval_mrmath.jsonl": ("ReasonEval MR-MATH", 1),
    "rewardbench1.jsonl": ("RewardBench", 2),
    "rewardbench2.jsonl": ("RewardBench 2", 2),
    "rmb_pair.json": ("RMB pairs", 1),
    "rmbench_official.json": ("RM-Bench as published", 1),
    "sff_axis.jsonl": ("OpenAI summaries, axes", 1),
    "sff_comparisons.jsonl": ("OpenAI summaries, comparisons", 1),
    "ultrainteract_pair.jsonl": ("UltraInteract pairs", 1),
}
"""Files laid out as published, with the layout's name and the number of their records."""


def options() -> dict[str, str]:
    table = REFERENCE.read_text(encoding="utf-8").split("## Published layouts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `(--format .+)` \|$", table, flags=re.MULTILINE)
    return dict(rows)


def reply(text: str) -> Row:
    return {"role": "assistant", "content": text}


def answers(*texts: str) -> list[Row]:
    return [{"llm_name": "m", "answer": text} for text in texts]


def ranking(texts: list[str], ranks: list[int]) -> Row:
    return {"prompt": PRIME, "responses": texts, "ranks": ranks}


def pair(better: str = "7", worse: str = "8", prompt: Any = PRIME) -> Row:
    return {"prompt": prompt, "chosen": better, "rejected": worse}


def rated(text: str, **ratings: float | None) -> Row:
    return {"prompt": PRIME, "response": text, "ratings": ratings}


LAYOUTS: dict[str, tuple[list[Row], list[Row]]] = {
    "JudgeBench": (
        [
            {"question": PRIME, "response_A": a, "response_B": b, "label": label, "source": "law"}
            for a, b, label in (("8", "7", "B>A"), ("7", "8", "A>B"))
        ],
        [pair() | {"metadata": {"subset": "law"}}] * 2,
    ),
    "Chatbot Arena, MT-Bench judgments": (
        [
            {
                "model_a": "x",
                "model_b": "y",
                "winner": winner,
                "conversation_a": [ASK, reply("8")],
                "conversation_b": [ASK, reply("7")],
            }
            for winner in ("model_b", "tie (bothbad)", "tie")
        ],
        [pair(prompt=[ASK]), *[ranking(["8", "7"], [0, 0]) | {"prompt": [ASK]}] * 2],
    ),
    "Arena preferences of 2024": (
        [
            {
                "prompt": json.dumps([PRIME]),
                "response_a": json.dumps(["8"]),
                "response_b": json.dumps(["7"]),
                "winner_model_a": 0,
                "winner_model_b": better,
                "winner_tie": 1 - better,
            }
            for better in (1, 0)
        ],
        [pair(), ranking(["8", "7"], [0, 0])],
    ),
    "distilabel ratings": (
        [{"instruction": PRIME, "generations": ["7", "8", "9"], "ratings": [5, 1, None]}],
        [rated("7", helpfulness=5), rated("8", helpfulness=1), rated("9", helpfulness=None)],
    ),
    "UltraFeedback by overall score": (
        [
            {
                "instruction": PRIME,
                "completions": [
                    {"response": text, "overall_score": score}
                    for text, score in (("8", 2.5), ("7", 9), ("nine", None), ("eight", 2.5))
                ],
            }
        ],
        [ranking(["8", "7", "eight"], [1, 0, 1])],
    ),
    "Argilla DPO mix": (
        [
            {
                "dataset": "x",
                "chosen": [ASK, reply("7")],
                "rejected": [ASK, reply("8")],
                "chosen_rating": 5.0,
                "rejected_rating": 2.0,
            }
        ],
        [pair(prompt=[ASK])],
    ),
    "ShareGPT pairs": (
        [
            {
                "conversations": [ASK_SHARED],
                "chosen": {"from": "gpt", "value": "7"},
                "rejected": {"from": "gpt", "value": "8"},
            }
        ],
        [pair(prompt=[ASK])],
    ),
    "UltraInteract pairs": (
        [{"task": "Math_CoT", "trajectory": [ASK_SHARED], **PAIR, "id": "0", "parent_id": None}],
        [pair(prompt=[ASK])],
    ),
    "Nectar": (
        [
            {
                "prompt": PRIME,
                "answers": [
                    {"answer": "8", "model": "x", "rank": 2.0},
                    {"answer": "7", "model": "y", "rank": 1.0},
                    {"answer": "nine", "model": "z", "rank": 3.0},
                ],
            }
        ],
        [ranking(["8", "7", "nine"], [1, 0, 2])],
    ),
    "SHP": (
        [
            {"history": PRIME, "human_ref_A": a, "human_ref_B": b, "labels": label, "score_A": 3}
            for a, b, label in (("7", "8", 1), ("8", "7", 0))
        ],
        [pair()] * 2,
    ),
    "WebGPT comparisons": (
        [
            {
                "question": {"full_text": PRIME},
                "answer_0": "8",
                "answer_1": "7",
                "score_0": -score,
                "score_1": score,
            }
            for score in (0.5, 0.0)
        ],
        [pair(), ranking(["8", "7"], [0, 0])],
    ),
    "OpenAI summaries, comparisons": (
        [
            {
                "info": {"post": PRIME, "title": "t"},
                "summaries": [{"text": "8"}, {"text": "7"}],
                "choice": 1,
                "extra": {"confidence": 7},
            }
        ],
        [pair()],
    ),
    "OpenAI summaries, axes": (
        [
            {
                "info": {"post": PRIME},
                "summary": {"text": "7", "axes": {"overall": 4, "accuracy": 7, "coverage": 1}},
            },
            {"info": {"post": PRIME}, "summary": {"text": "8", "axes": None}},
        ],
        [
            rated("7", helpfulness=0.5, factuality=1),
            rated("8", helpfulness=None, factuality=None),
        ],
    ),
    "KTO": (
        [
            {"prompt": PRIME, "completion": "7", "label": True},
            {"prompt": [ASK], "completion": [reply("8")], "label": False},
        ],
        [rated("7", helpfulness=1), rated("8", helpfulness=0) | {"prompt": [ASK]}],
    ),
    "RewardBench": (
        [{"prompt": PRIME, **PAIR, "chosen_model": "x", "subset": s, "id": 1} for s in "ab"],
        [pair()] * 2,
    ),
    "RewardBench 2": (
        [
            {
                "id": "0",
                "prompt": PRIME,
                "chosen": ["7", "11"],
                "rejected": ["8", "9"],
                "num_correct": 2,
                "subset": "Ties",
                "additional_metadata": None,
            },
            {"id": "1", "prompt": PRIME, "chosen": ["7"], "rejected": ["8"], "subset": "Math"},
        ],
        [ranking(["7", "11", "8", "9"], [0, 0, 1, 1]), pair()],
    ),
    "RM-Bench as published": (
        [{"id": "1", "prompt": PRIME, "chosen": ["7", "*7*"], "rejected": ["8"], "domain": "math"}],
        [ranking(["7", "*7*", "8"], [0, 0, 1])],
    ),
    "RMB pairs": (
        [
            {
                "pair_uid": "1",
                "conversation_input": [ASK],
                "chosen": {"llm_name": "x", "answer": "7"},
                "reject": {"llm_name": "y", "answer": "8"},
                "category_path": "Pairwise_set/Helpfulness/Math",
            }
        ],
        [pair(prompt=[ASK])],
    ),
    "RMB best of N": (
        [
            {
                "bon_uid": "1",
                "conversation_input": [ASK],
                "bon_best": answers("7")[0],
                "loser_list": answers("8", "9"),
                "category_path": "BoN_set/Helpfulness/Math",
            }
        ],
        [ranking(["7", "8", "9"], [0, 1, 1]) | {"prompt": [ASK]}],
    ),
    "RewardMATH pairs": (
        [
            {
                "problem": PRIME,
                "eval_solution_A": ["Try 8."],
                "eval_solution_B": ["Try 7.", "It is 7."],
                "chosen_position": "B",
                "problem_id": 3,
            }
        ],
        [pair("Try 7.\nIt is 7.", "Try 8.") | {"group": "3"}],
    ),
    "RewardMATH, one to a row": (
        [
            {"problem": PRIME, "eval_solution": [text], "solution_type": kind, "problem_id": 3}
            for text, kind in (("7", "chosen"), ("8", "rejected"))
        ],
        [rated("7", correctness=1) | {"group": "3"}, rated("8", correctness=0) | {"group": "3"}],
    ),
    "Math-Step-DPO": (
        [
            {
                "prompt": "Add 1 + 1 + 1.",
                "prompt + initial_reason_steps": "Add 1 + 1 + 1.\nStep 1: 1 + 1 = 2.\nStep 2:",
                "initial_reason_steps": "Step 1: 1 + 1 = 2.\nStep 2:",
                "chosen": " 2 + 1 = 3.",
                "rejected": " 2 + 1 = 4.",
                "full_chosen": " 2 + 1 = 3. The answer is 3.",
            }
        ],
        [
            pair(" 2 + 1 = 3.", " 2 + 1 = 4.", "Add 1 + 1 + 1.\nStep 1: 1 + 1 = 2.\nStep 2:")
            | {"group": "Add 1 + 1 + 1."}
        ],
    ),
    "ReasonEval MR-MATH": (
        [
            {
                "question": "Add 1 + 1 + 1.",
                "model_output_step_format": [["1 + 1 = 2."], ["2 + 1 = 4.", "So 4."], ["Done."]],
                "model_output_solution_first_error_step": 2,
            }
        ],
        [{"completions": ["1 + 1 = 2.", "2 + 1 = 4.\nSo 4.", "Done."], "labels": [1, 0, None]}],
    ),
    "FActScore": (
        [
            {
                "input": "Who was A?",
                "annotations": [
                    {"text": "A was a poet.", "human-atomic-facts": [{"label": "S"}]},
                    {
                        "text": "A lived in B, by C.",
                        "human-atomic-facts": [{"label": "NS"}, {"label": "S"}, {"label": "IR"}],
                    },
                    {"text": "Hm.", "human-atomic-facts": None},
                ],
            },
            {"input": "Who was B?", "annotations": None},
        ],
        [
            {
                "completions": ["A was a poet.", "A lived in B, by C.", "Hm."],
                "labels": [1, 0.5, None],
            }
        ],
    ),
    "ratings 1, 0 and -1": (
        [{"question": "?", "steps": ["a", "b", "c"], "rating": [1, 0, -1]}],
        [{"labels": [1, 0.5, 0]}],
    ),
}


def test_every_layout_of_the_reference_is_tried() -> None:
    assert options().keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_with_the_options_of_the_reference(name: str, tmp_path: Path) -> None:
    rows, expected = LAYOUTS[name]
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["data", "convert", "--input", str(source), "--output", str(output)]
    assert main([*command, *shlex.split(options()[name])]) == 0
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [
        {key: row[key] for key in wanted} for row, wanted in zip(found, expected, strict=True)
    ] == expected


@pytest.mark.parametrize("file", PUBLISHED)
def test_files_laid_out_as_published(file: str, tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("the files are not here")
    name, count = PUBLISHED[file]
    output = tmp_path / "out.jsonl"
    command = ["data", "convert", "--input", str(SHARED / file), "--output", str(output)]
    assert main([*command, *shlex.split(options()[name])]) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == count
