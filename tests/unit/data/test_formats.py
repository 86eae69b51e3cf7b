"""Every format: contract, declared index base, hand-read rows, inline rows, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prm.data.formats import all_formats, format_named
from prm.data.formats.base import ADJUSTED, PROBLEM
from prm.data.formats.big_bench_mistake import BigBenchMistake
from prm.data.formats.chain_columns import ChainColumns
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.formats.math_shepherd import MathShepherd
from prm.data.formats.mr_ben import MRBen
from prm.data.formats.omega_prm import OmegaPRM
from prm.data.formats.prm800k import PRM800K
from prm.data.formats.prm800k_validation import PRM800KValidation
from prm.data.formats.prm_bench import PRMBench
from prm.data.formats.process_bench import ProcessBench
from prm.data.sources.files import read_file
from prm.errors import ConfigError, DataError
from prm.records import CORRECTNESS, Chain

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

MR_BEN_ROW: dict[str, Any] = {
    "Question_UUID": "u",
    "Question": "q?",
    "Options": "A: 1 \nB: 2 ",
    "Sampled_Model": "m",
    "Model_Solution_Steps": ["Step 1: a", "", "more a", "Step 2: b", "Step 3: c", "Solution: A"],
    "Model_Solution_Correctness": "incorrect",
    "Model_Solution_First_Error_Step": "2",
}

REQUIRED_OPTIONS: dict[str, dict[str, Any]] = {
    "PRM800K": {"neutral": "good"},
    "PRM800KValidation": {"neutral": "good"},
    "HHDialogues": {"objective": "safety"},
    "OutcomeColumns": {"response": "response"},
}


def labels_of(chain: Chain) -> tuple[float | None, ...]:
    return chain.labels[CORRECTNESS]


def shared_row(name: str, index: int = 0) -> dict[str, Any]:
    path = SHARED / name
    if not path.exists():
        pytest.skip("real data are not here")
    rows = list(read_file(path))
    row: dict[str, Any] = rows[index][0]
    return row


class TestContract:
    def test_every_file_of_the_folder_is_a_format(self) -> None:
        folder = Path(format_named("chain_columns").__module__.replace(".", "/")).parent
        repository = Path(__file__).resolve().parents[3]
        helpers = {"__init__", "base", "cells", "verdicts"}
        files = {path.stem for path in (repository / folder).glob("*.py")} - helpers
        assert {found.__module__.rsplit(".", 1)[1] for found in all_formats().values()} == files
        assert len(all_formats()) == 29

    @pytest.mark.parametrize("name", all_formats())
    def test_a_row_of_something_else_is_an_error_with_its_place(self, name: str) -> None:
        options = REQUIRED_OPTIONS.get(name, {})
        with pytest.raises(DataError, match=r"x\.jsonl:7") as caught:
            all_formats()[name](**options).records({"unknown": 1}, "x.jsonl:7")
        assert "field" in str(caught.value) or "column" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "base"),
        [("ProcessBench", 0), ("BigBenchMistake", 0), ("MRBen", 1), ("PRMBench", 1)],
    )
    def test_index_bases_are_declared(self, name: str, base: int) -> None:
        assert format_named(name).index_base == base

    @pytest.mark.parametrize("name", ["prm800k", "PRM800K", "mr-ben", "HFStepwise", "hf_stepwise"])
    def test_names_in_any_case(self, name: str) -> None:
        assert format_named(name).__name__ in ("PRM800K", "MRBen", "HFStepwise")

    def test_an_unknown_name_suggests_a_near_one(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean ProcessBench"):
            format_named("procesbench")


class TestHFStepwise:
    def test_labels_of_every_kind(self) -> None:
        row = {"prompt": "p", "completions": ["a", "b", "c", "d"], "labels": [True, 0.99, None, 0]}
        assert labels_of(HFStepwise().records(row, "f:1")[0]) == (1.0, 0.99, None, 0.0)

    def test_objectives_that_a_columnar_file_fills_with_null_are_absent(self) -> None:
        row = {"prompt": "p", "completions": ["a"], "labels": {"x": [0.5], "y": None}}
        assert HFStepwise().records(row, "f:1")[0].labels == {"x": (0.5,)}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": [1]}, "expected 2 labels, one per step, got 1"),
            ({"labels": [1, float("nan")]}, "label 1 of 'correctness' is wrong"),
            ({"labels": [1, 2]}, "label 1 of 'correctness' is wrong"),
            ({"labels": "10"}, "labels of 'correctness' are wrong"),
            ({"completions": []}, "no step"),
            ({"completions": ["", " "]}, "no step"),
            ({"completions": "ab"}, "field 'completions' is wrong"),
            ({"completions": ["a", 3]}, r"completions\[1\]"),
            ({"prompt": None}, "field 'prompt' is wrong"),
            ({"prompt": [{"role": "user"}]}, "field 'prompt' is wrong"),
            ({"metadata": "{"}, "field 'metadata' is wrong"),
            ({"id": 1.5}, "field 'id' is wrong"),
        ],
    )
    def test_wrong_rows_name_the_field(self, change: dict[str, Any], message: str) -> None:
        row = {"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]} | change
        with pytest.raises(DataError, match=message):
            HFStepwise().records(row, "f:1")


def rated(*ratings: int | None, chosen: int | None = 0, human: str | None = None) -> dict[str, Any]:
    return {
        "completions": [{"text": f"t{i}", "rating": r} for i, r in enumerate(ratings)],
        "human_completion": None if human is None else {"text": human, "rating": None},
        "chosen_completion": chosen,
    }


def prm800k_row(*steps: dict[str, Any], written: list[str] | None = None) -> dict[str, Any]:
    question = {"problem": "p", "ground_truth_answer": "1", "pre_generated_steps": written}
    return {"question": question, "label": {"steps": list(steps), "finish_reason": "solution"}}


class TestPRM800K:
    def test_alternatives_share_the_prefix_and_end_there(self) -> None:
        row = prm800k_row(rated(1), rated(-1, 0, 1, chosen=2), rated(1))
        chains = PRM800K(neutral="half").records(row, "f:1")
        assert [chain.completions for chain in chains] == [
            ("t0", "t2", "t0"),
            ("t0", "t0"),
            ("t0", "t1"),
        ]
        assert [labels_of(chain) for chain in chains] == [(1, 1, 1), (None, 0), (None, 0.5)]
        assert chains[0].metadata["neutral"] == "half"

    def test_each_rating_is_used_once_unless_asked_otherwise(self) -> None:
        row = prm800k_row(rated(1, -1), rated(-1, 1, chosen=1), rated(0, 1, -1, chosen=1))
        chains = PRM800K(neutral="bad").records(row, "f:1")
        assert sum(label is not None for chain in chains for label in labels_of(chain)) == 7
        repeated = PRM800K(neutral="bad", repeat_prefix_labels=True).records(row, "f:1")
        assert all(None not in labels_of(chain) for chain in repeated)

    def test_only_the_followed_solution(self) -> None:
        row = prm800k_row(rated(1, -1), rated(1))
        chains = PRM800K(neutral="good", alternatives=False).records(row, "f:1")
        assert [chain.completions for chain in chains] == [("t0", "t0")]

    def test_a_null_rating_is_not_neutral(self) -> None:
        row = prm800k_row(rated(None), rated(0))
        assert labels_of(PRM800K(neutral="bad").records(row, "f:1")[0]) == (None, 0.0)

    def test_a_human_step_is_followed_and_unlabeled(self) -> None:
        row = prm800k_row(rated(-1, chosen=None, human="h"), rated(1))
        chains = PRM800K(neutral="good").records(row, "f:1")
        assert chains[0].completions == ("h", "t0")
        assert labels_of(chains[0]) == (None, 1.0)
        assert chains[1].completions == ("t0",)

    def test_a_pre_generated_solution_ends_at_its_own_wrong_step(self) -> None:
        row = prm800k_row(rated(1), rated(-1, 1, chosen=None), written=["t0", "t0"])
        chains = PRM800K(neutral="good").records(row, "f:1")
        assert chains[0].completions == ("t0", "t0")
        assert chains[0].first_error() == 1
        assert len(chains) == 2

    def test_steps_after_the_solution_was_given_up_are_no_trajectory(self) -> None:
        row = prm800k_row(rated(1), rated(-1, -1, chosen=None), {"completions": None})
        chains = PRM800K(neutral="good").records(row, "f:1")
        assert [len(chain.completions) for chain in chains] == [1, 2, 2]

    @pytest.mark.parametrize(
        ("neutral", "label"), [("good", 1.0), ("bad", 0.0), ("half", 0.5), ("drop", None)]
    )
    def test_neutral_policy_changes_the_label(self, neutral: Any, label: float | None) -> None:
        chain = PRM800K(neutral=neutral).records(prm800k_row(rated(1), rated(0)), "f:1")[0]
        assert labels_of(chain) == (1.0, label)
        assert chain.metadata["neutral"] == neutral

    def test_neutral_is_required_and_checked(self) -> None:
        with pytest.raises(TypeError, match="neutral"):
            PRM800K()  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="good, bad, drop, half"):
            PRM800K(neutral="maybe")  # type: ignore[arg-type]

    @pytest.mark.parametrize("rating", [2, "1", True, [1]])
    def test_other_ratings_are_refused(self, rating: Any) -> None:
        with pytest.raises(DataError, match="'rating' is wrong"):
            PRM800K(neutral="good").records(prm800k_row(rated(rating)), "f:1")

    def test_first_published_row(self) -> None:
        row = shared_row("openr-samples/samples_prm800k.jsonl")
        chains = PRM800K(neutral="bad").records(row, "f:1")
        assert len(chains) == 1 + 5 + 4
        assert labels_of(chains[0]) == (1, None, 1, 1, 1, 1)
        assert chains[0].completions[1] == "We have $3p+e=1.24$ and $5p+e=1.82$."
        assert labels_of(chains[1]) == (None, 0)
        assert labels_of(chains[6]) == (None, None, None, None, None, 0)

    def test_second_published_row_stops_at_the_error_of_the_given_solution(self) -> None:
        chain = PRM800K(neutral="good").records(
            shared_row("openr-samples/samples_prm800k.jsonl", 1), "f:2"
        )[0]
        assert labels_of(chain) == (1, 1, 1, 1, 1, 1, 0)


class TestPRM800KValidation:
    def test_truncated_is_kept(self) -> None:
        row = {"id": "a", "problem": "p", "steps": ["x"], "labels": [1], "truncated": True}
        metadata = PRM800KValidation(neutral="drop").records(row, "f:1")[0].metadata
        assert metadata == {"neutral": "drop", "truncated": True}

    def test_counts_must_match(self) -> None:
        row = {"id": "a", "problem": "p", "steps": ["x"], "labels": [1, 1]}
        with pytest.raises(DataError, match="expected 1 labels, one per step, got 2"):
            PRM800KValidation(neutral="good").records(row, "f:1")

    def test_first_published_row(self) -> None:
        row = shared_row("prm800k-validation/prm800k_val2pct.dedup.jsonl")
        chain = PRM800KValidation(neutral="good").records(row, "f:1")[0]
        assert (chain.id, chain.first_error()) == ("prm800k-val-0", -1)
        assert chain.completions[1] == "That's 4."


class TestMathShepherd:
    def test_text_after_the_last_marker_is_refused(self) -> None:
        with pytest.raises(DataError, match="ends with the step marker"):
            MathShepherd().records({"input": "q Step 1: a ки b", "label": "q Step 1: a + b"}, "f:1")

    def test_input_and_label_must_be_the_same_text(self) -> None:
        with pytest.raises(DataError, match="does not match"):
            MathShepherd().records({"input": "q Step 1: a ки", "label": "q Step 1: b +"}, "f:1")

    def test_other_marks_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"expected \+ or - after step 1, got \?"):
            MathShepherd().records({"input": "q Step 1: a ки", "label": "q Step 1: a ?"}, "f:1")

    def test_a_marker_before_the_first_step_is_refused(self) -> None:
        row = {"input": "q ки Step 1: a ки", "label": "q + Step 1: a +"}
        with pytest.raises(DataError, match="'Step 1:' before the first marker"):
            MathShepherd().records(row, "f:1")

    def test_signs_inside_the_text_are_not_labels(self) -> None:
        row = {"input": "q Step 1: 1+1-1 ки", "label": "q Step 1: 1+1-1 -"}
        chain = MathShepherd().records(row, "f:1")[0]
        assert (chain.completions, labels_of(chain)) == (("Step 1: 1+1-1",), (0.0,))

    def test_first_published_row(self) -> None:
        row = shared_row("openr-samples/samples_math-shepherd.jsonl")
        chain = MathShepherd().records(row, "f:1")[0]
        assert str(chain.prompt).endswith("clarinet lessons in a year?")
        assert labels_of(chain) == (1, 1, 1, 1, 0)
        assert chain.completions[4].endswith("The answer is: 13520")
        assert chain.metadata == {"task": "GSM8K"}


NESTED = {
    "question": "q",
    "question_id": 3,
    "final_answer": "1",
    "reasoning_steps": {
        "text": "q",
        "mc_value": 0.5,
        "children": [
            {
                "text": "a",
                "mc_value": 0.25,
                "children": [
                    {"text": "b", "mc_value": 1.0, "children": []},
                    {"text": "c", "mc_value": 0.0, "children": []},
                ],
            },
            {"text": "d", "mc_value": 0.0, "children": []},
        ],
    },
}
FLAT = {
    "question": "q",
    "reasoning_steps": [
        {"solution_prefix": text, "mc_value": value}
        for text, value in [("q", 0.5), ("q\na b", 1.0), ("q\na", 0.25), ("q\nd", 0), ("q\na c", 0)]
    ],
}


class TestOmegaPRM:
    @pytest.mark.parametrize("row", [NESTED, FLAT])
    def test_paths_and_soft_labels(self, row: dict[str, Any]) -> None:
        chains = OmegaPRM().records(row, "f:1")
        found = {chain.completions: labels_of(chain) for chain in chains}
        assert found == {("a", "b"): (0.25, 1.0), ("a", "c"): (None, 0.0), ("d",): (0.0,)}

    def test_hard_labels_and_repeated_prefixes(self) -> None:
        chains = OmegaPRM(hard=True, repeat_prefix_labels=True).records(NESTED, "f:1")
        assert [labels_of(chain) for chain in chains] == [(1, 1), (1, 0), (0,)]

    def test_a_value_outside_its_range_is_refused(self) -> None:
        row = {"question": "q", "reasoning_steps": [{"solution_prefix": "q a", "mc_value": 1.5}]}
        with pytest.raises(DataError, match="mc_value"):
            OmegaPRM().records(row, "f:1")

    def test_a_prefix_of_another_question_is_refused(self) -> None:
        row = {"question": "q", "reasoning_steps": [{"solution_prefix": "z", "mc_value": 1}]}
        with pytest.raises(DataError, match="starts with the question"):
            OmegaPRM().records(row, "f:1")

    @pytest.mark.parametrize(("name", "leaves"), [("math-aps-tree", 137), ("math-aps", None)])
    def test_first_published_row(self, name: str, leaves: int | None) -> None:
        row = shared_row(f"openr-samples/samples_{name}.jsonl")
        chains = OmegaPRM().records(row, "f:1")
        assert leaves in (None, len(chains))
        assert labels_of(chains[0])[-1] == 1.0
        values = json.dumps(row).count("mc_value") - 1
        labels = sum(label is not None for chain in chains for label in labels_of(chain))
        assert labels == values


class TestMRBen:
    def test_the_number_counts_the_solutions_own_steps(self) -> None:
        chain = MRBen().records(MR_BEN_ROW, "f:1")[0]
        assert chain.completions == ("Step 1: a\nmore a", "Step 2: b", "Step 3: c", "Solution: A")
        assert labels_of(chain) == (1, 0, None, None)
        assert (chain.id, chain.group) == ("u-m", "u")
        assert (chain.prompt, chain.metadata[PROBLEM]) == ("q?\nA: 1 \nB: 2", "q?")

    def test_the_conclusion_follows_the_last_numbered_step(self) -> None:
        row = MR_BEN_ROW | {"Model_Solution_First_Error_Step": "4"}
        assert MRBen().records(row, "f:1")[0].first_error() == 3

    def test_a_right_solution(self) -> None:
        change = {
            "Model_Solution_Correctness": "correct",
            "Model_Solution_First_Error_Step": "N/A",
        }
        assert MRBen().records(MR_BEN_ROW | change, "f:1")[0].first_error() == -1

    def test_out_of_range_is_unlabeled_and_said(self) -> None:
        row = MR_BEN_ROW | {"Model_Solution_First_Error_Step": "9"}
        chain = MRBen().records(row, "f:1")[0]
        assert labels_of(chain) == (None,) * 4
        assert "no single step 9" in chain.metadata[ADJUSTED]

    def test_out_of_range_is_an_error_on_demand(self) -> None:
        row = MR_BEN_ROW | {"Model_Solution_First_Error_Step": "9"}
        with pytest.raises(DataError, match="First_Error_Step"):
            MRBen(out_of_range="error").records(row, "f:1")

    def test_contradicting_fields_are_refused(self) -> None:
        with pytest.raises(DataError, match="contradict"):
            MRBen().records(MR_BEN_ROW | {"Model_Solution_Correctness": "correct"}, "f:1")

    def test_first_published_row_has_its_error_at_the_second_step(self) -> None:
        chain = MRBen().records(shared_row("mr-ben/biology.json"), "f:1")[0]
        assert labels_of(chain) == (1, 0, None, None, None, None)
        assert chain.completions[1].startswith("Step 2: A repressor")

    def test_only_six_published_rows_cannot_be_placed(self) -> None:
        if not SHARED.exists():
            pytest.skip("real data are not here")
        rows = [
            row for path in sorted((SHARED / "mr-ben").glob("*.json")) for row in read_file(path)
        ]
        chains = [MRBen().records(*row)[0] for row in rows]
        assert len(chains) == 4296
        assert sum(ADJUSTED in chain.metadata for chain in chains) == 6
        assert sum(chain.first_error() == -1 for chain in chains) == 1724


class TestFirstErrorSets:
    @pytest.mark.parametrize("index", [-1, 2, "0", True, 0.0])
    def test_big_bench_refuses_places_that_do_not_exist(self, index: Any) -> None:
        row = {"input": "p", "steps": ["a", "b"], "mistake_index": index}
        with pytest.raises(DataError, match="mistake_index"):
            BigBenchMistake().records(row, "f:1")

    def test_big_bench_first_published_row(self) -> None:
        row = shared_row("bigbench-mistake/multistep_arithmetic.jsonl")
        chain = BigBenchMistake().records(row, "f:1")[0]
        assert labels_of(chain) == (1, 1, 1, 0, None)
        assert "(7 - 28)" in chain.completions[3]

    @pytest.mark.parametrize("label", [-2, 2, None, "1"])
    def test_process_bench_refuses_places_that_do_not_exist(self, label: Any) -> None:
        row = {"id": "a", "problem": "p", "steps": ["a", "b"], "label": label}
        with pytest.raises(DataError, match="'label'"):
            ProcessBench().records(row, "f:1")

    def test_process_bench_first_published_row(self) -> None:
        chain = ProcessBench().records(shared_row("processbench/gsm8k.json"), "f:1")[0]
        assert labels_of(chain) == (1, 0, None, None)
        assert chain.metadata["final_answer_correct"] is False

    def test_prm_bench_labels_all_steps_and_clips(self) -> None:
        row = {"modified_question": "q", "modified_process": ["a", "b", "c"]}
        chain = PRMBench().records(row | {"error_steps": [1, 5]}, "f:1")[0]
        assert labels_of(chain) == (0, 1, 0)
        assert "[5] clipped" in chain.metadata[ADJUSTED]

    def test_prm_bench_counts_from_one(self) -> None:
        row = {"modified_question": "q", "modified_process": ["a"], "error_steps": [0]}
        with pytest.raises(DataError, match="numbers from 1"):
            PRMBench().records(row, "f:1")

    def test_prm_bench_first_published_row(self) -> None:
        chain = PRMBench().records(
            shared_row("prmbench/prm800k_test_p1_4o_step_contradiction.jsonl"), "f:1"
        )[0]
        assert labels_of(chain) == (1, 1, 1, 1, 0, 1)
        assert chain.completions[4] == "Instead, incorrectly simplify to 2p=0.50. So p=0.25."
        assert chain.metadata["classification"] == "step_contradiction"


class TestColumns:
    @pytest.mark.parametrize(("base", "cell"), [(0, 1), (1, 2), (0, "1"), (1, "2"), (0, 1.0)])
    def test_index_base(self, base: Any, cell: Any) -> None:
        reading = ChainColumns(first_error="e", index_base=base)
        row = {"prompt": "p", "completions": ["a", "b", "c"], "e": cell}
        assert labels_of(reading.records(row, "f:1")[0]) == (1, 0, None)

    @pytest.mark.parametrize("cell", [None, "", "N/A", -1, "-1"])
    def test_no_error(self, cell: Any) -> None:
        row = {"prompt": "p", "completions": ["a", "b"], "e": cell}
        chain = ChainColumns(first_error="e", index_base=0).records(row, "f:1")[0]
        assert chain.first_error() == -1

    @pytest.mark.parametrize("cell", [0, 3, "x", True, 1.5, [1]])
    def test_a_place_that_does_not_exist(self, cell: Any) -> None:
        row = {"prompt": "p", "completions": ["a", "b"], "e": cell}
        with pytest.raises(DataError, match="a step from 1 to 2"):
            ChainColumns(first_error="e", index_base=1).records(row, "f:1")

    def test_cells_of_a_csv_file(self) -> None:
        reading = ChainColumns(labels="l", objectives={"redundancy": "r"}, id="n", group="g")
        row = {"prompt": "p", "completions": '["a", "b"]', "l": "[1, null]", "r": "", "n": "7"}
        chain = reading.records(row | {"g": "problem 1"}, "f:2")[0]
        assert chain.labels == {CORRECTNESS: (1.0, None)}
        assert (chain.id, chain.group, chain.completions) == ("7", "problem 1", ("a", "b"))

    def test_further_objectives(self) -> None:
        row = {"prompt": "p", "completions": ["a"], "r": [0.5]}
        chain = ChainColumns(objectives={"redundancy": "r"}).records(row, "f:1")[0]
        assert chain.labels == {"redundancy": (0.5,)}

    def test_text_steps_need_a_separator(self) -> None:
        with pytest.raises(DataError, match="separator"):
            ChainColumns().records({"prompt": "p", "completions": "a. b."}, "f:1")
        row = {"prompt": "p", "completions": "a\n\nb"}
        assert ChainColumns(separator="\n\n").records(row, "f:1")[0].completions == ("a", "b")

    def test_a_separator_typed_in_a_shell(self) -> None:
        row = {"prompt": "p", "completions": "a\r\nb\n"}
        assert ChainColumns(separator=r"\n").records(row, "f:1")[0].completions == ("a", "b")
        latex = {"prompt": "p", "completions": r"a\newline b"}
        found = ChainColumns(separator=r"\newline").records(latex, "f:1")[0]
        assert found.completions == ("a", "b")

    def test_empty_pieces_count_for_the_first_error_and_are_no_steps(self) -> None:
        reading = ChainColumns(separator="|", first_error="e", index_base=0)
        row = {"prompt": "p", "completions": "a|  |b| c |", "e": 2}
        chain = reading.records(row, "f:1")[0]
        assert chain.completions == ("a", "b", "c")
        assert chain.labels == {CORRECTNESS: (1, 0, None)}
        with pytest.raises(DataError, match="'e' is wrong: expected a step that is not empty"):
            reading.records(row | {"e": 1}, "f:1")

    def test_labels_of_empty_pieces(self) -> None:
        reading = ChainColumns(separator="|", labels="l")
        row = {"prompt": "p", "completions": "a||b|", "l": [1, None, 0, 1]}
        assert reading.records(row, "f:1")[0].labels == {CORRECTNESS: (1, 0)}
        assert reading.records(row | {"l": [1, 0]}, "f:1")[0].labels == {CORRECTNESS: (1, 0)}
        with pytest.raises(DataError, match="piece 1 of the text is empty and has a label"):
            reading.records(row | {"l": [1, 0, 0, 1]}, "f:1")

    def test_a_missing_column_lists_those_that_exist(self) -> None:
        with pytest.raises(DataError, match="no column 'prompt': expected one of q, completions"):
            ChainColumns().records({"q": 1, "completions": ["a"]}, "f:1")

    @pytest.mark.parametrize(
        "options",
        [
            {"first_error": "e"},
            {"index_base": 1},
            {"labels": "l", "first_error": "e", "index_base": 0},
            {"first_error": "e", "index_base": 2},
        ],
    )
    def test_contradicting_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            ChainColumns(**options)
