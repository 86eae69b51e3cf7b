"""Overlap by normalized problem text."""

from __future__ import annotations

from pathlib import Path

from prm.data.checks.overlap import (
    Decontamination,
    ProblemIndex,
    without_overlap,
)
from prm.data.formats.base import PROBLEM
from prm.data.formats.mr_ben import MRBen
from prm.data.formats.prm800k_validation import PRM800KValidation
from prm.data.formats.process_bench import ProcessBench
from prm.data.sources.source import Source
from prm.records import Chain


def test_the_bare_problem_counts_where_the_prompt_holds_more() -> None:
    index = ProblemIndex.of([Chain("1 + 1?", ["2"], source="e")])
    train = Chain("1+1?\nA: 2", ["2"], metadata={PROBLEM: "1+1?"})
    assert index.sets_with(train) == {"e"}


def test_what_is_removed_is_counted_by_set() -> None:
    index = ProblemIndex.of([Chain("a", ["x"], source="e"), Chain("A.", ["x"], source="f")])
    removed = Decontamination()
    chains = [Chain(prompt, ["x"], id=prompt) for prompt in ("a", "b", " a ")]
    assert [chain.id for chain in without_overlap(chains, index, removed)] == ["b"]
    assert removed.to_json() == {
        "num_kept": 1,
        "num_removed": 2,
        "num_removed_problems": 1,
        "num_removed_by_evaluation_set": {"e": 2, "f": 2},
        "removed_ids": ["a", " a "],
    }


def test_published_overlap_with_process_bench(shared_data: Path) -> None:
    evaluation = [
        chain
        for subset in ("gsm8k", "math")
        for chain in Source(str(shared_data / f"processbench/{subset}.json"), ProcessBench())
    ]
    index = ProblemIndex.of(evaluation)
    for folder, reading, problems in [
        ("prm800k-validation", PRM800KValidation(neutral="good"), 16),
        ("mr-ben", MRBen(), 17),
    ]:
        removed = Decontamination()
        kept = list(without_overlap(Source(str(shared_data / folder), reading), index, removed))
        assert len(removed.problems) == problems
        assert not any(index.sets_with(chain) for chain in kept)
