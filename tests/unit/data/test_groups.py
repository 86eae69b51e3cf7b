"""Records about one problem are one group: by what their source says, and by what they ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prm.data.checks.problems import ProblemIndex, normalize_problem, problem_text
from prm.data.formats import format_named
from prm.data.formats.base import PROBLEM
from prm.data.groups import joined_groups, joining_text, problem_groups
from prm.data.module import RecordDataModule
from prm.data.sources.source import Source
from prm.data.splits import split_by_group
from prm.records import Chain, Record, prompt_text

LAYOUTS = [
    [r"What is $2 \times 3$?", "What is 2 × 3?", "Question: What is 2*3?\nAnswer:"],
    [r"What is $\frac{1}{2} + 1$?", "What is ½ + 1?"],
    ["How many pens are 12 pens and 7 pens and 30 pens and 4 pens?"],
    ["Think. How many pens are 12 pens and 7 pens and 30 pens and 4 pens? In a word."],
    ["1 1 + 2"],
    ["11 + 2"],
    ["Continue."],
]
PROMPTS = [prompt for layouts in LAYOUTS for prompt in layouts]


def chain(prompt: str, group: str = "", **metadata: Any) -> Chain:
    return Chain(prompt, ["x"], [1], group=group, metadata=metadata)


chains = st.lists(
    st.builds(chain, st.sampled_from(PROMPTS), st.sampled_from(["", "", "", "a", "b", "c"])),
    max_size=12,
)


def same_problem(first: Record, other: Record) -> bool:
    """Whether two records are about one problem, by comparing the two and nothing else."""
    if first.group == other.group:
        return True
    if "" in (joining_text(first), joining_text(other)):
        return False
    return any(
        bool(ProblemIndex.of([one]).find(two)) for one, two in ((first, other), (other, first))
    )


def by_pairs(records: Sequence[Record]) -> list[set[int]]:
    """Return the records of each problem, joined pair by pair."""
    found: list[set[int]] = []
    for index, record in enumerate(records):
        met = [part for part in found if any(same_problem(record, records[i]) for i in part)]
        found = [part for part in found if part not in met] + [{index}.union(*met)]
    return found


@given(chains)
def test_problems_are_what_pairs_have_in_common(records: list[Chain]) -> None:
    numbers = problem_groups(records).tolist()
    parts = [{i for i, own in enumerate(numbers) if own == n} for n in sorted(set(numbers))]
    assert sorted(map(sorted, parts)) == sorted(map(sorted, by_pairs(records)))
    assert sorted(set(numbers)) == list(range(len(parts)))


@given(chains, st.randoms(use_true_random=False))
def test_the_numbers_do_not_depend_on_the_order(records: list[Chain], order: Any) -> None:
    places = list(range(len(records)))
    order.shuffle(places)
    moved = problem_groups([records[place] for place in places])
    assert moved.tolist() == problem_groups(records)[places].tolist()


@given(chains, st.lists(st.integers(0, 12), max_size=3))
def test_texts_may_come_in_blocks(records: list[Chain], cuts: list[int]) -> None:
    names = sorted({record.group for record in records})
    ranks = np.array([names.index(record.group) for record in records], np.int32)
    bounds = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    blocks = []
    for start, end in pairwise(bounds):
        own = [joining_text(record) for record in records[start:end]]
        texts = sorted(set(own))
        blocks.append((texts, np.array([texts.index(text) for text in own], np.int32)))
    assert joined_groups(ranks, lambda: iter(blocks)).tolist() == problem_groups(records).tolist()


def test_a_problem_joins_groups_and_a_group_joins_problems() -> None:
    records = [
        chain("What is 2 × 3?", "a"),
        chain(r"What is $2 \times 3$?", "b"),
        chain("Is 5 prime?", "b"),
        chain("Is 6 prime?", "c"),
    ]
    assert problem_groups(records).tolist() == [0, 0, 0, 1]


def test_groups_with_no_problem_in_common_are_numbered_as_sorted() -> None:
    """So a split is what it was before, if the groups told all problems apart."""
    records = [chain(f"Is {n} prime?", group) for n, group in enumerate("dbacb")]
    assert problem_groups(records).tolist() == [3, 1, 0, 2, 1]


def test_a_question_with_other_choices_is_about_its_long_beginning() -> None:
    stem = LAYOUTS[2][0]
    records = [chain(f"{stem}\nA: {n}", f"id-{n}", **{PROBLEM: stem}) for n in range(3)]
    assert set(problem_groups(records).tolist()) == {0}
    assert problem_groups([*records, chain(stem, "z")]).tolist() == [0, 0, 0, 0]


def test_one_word_joins_no_groups_that_are_given() -> None:
    given_groups = [chain("Continue.", "a"), chain("continue", "b")]
    assert problem_groups(given_groups).tolist() == [0, 1]
    assert problem_groups([chain("Continue."), chain("continue")]).tolist() == [0, 0]


def test_no_records_have_no_problems() -> None:
    assert problem_groups([]).tolist() == []


@given(chains, st.integers(0, 5), st.sampled_from([0.1, 0.3, 0.6]))
def test_no_split_parts_the_layouts_of_a_problem(
    records: list[Chain], seed: int, share: float
) -> None:
    parts = split_by_group(records, {"validation": share, "test": 0.2}, seed)
    part_of = {id(record): name for name, members in parts.items() for record in members}
    assert len(part_of) == len(records)
    for problem in by_pairs(records):
        assert len({part_of[id(records[index])] for index in problem}) == 1


def leaks(data: RecordDataModule, part: str) -> list[Record]:
    """Return the records of a part whose problem is among those that are trained on."""
    train = ProblemIndex.of(record for unit in data.units["train"] for record in unit.records)
    return [unit.records[0] for unit in data.units[part] if train.sets_with(unit.records[0])]


@pytest.mark.parametrize("config", ["process/human.yaml", "outcome/human.yaml"])
def test_published_problems_stay_on_one_side(
    repository: Path, shared_data: Path, config: str
) -> None:
    """Rows of MR-Ben named by number, and of PRM800K by text, are about one problem here."""
    document = yaml.safe_load((repository / "configs" / config).read_text(encoding="utf-8"))
    options = document["data"]["init_args"]
    parts = {
        name: [source(repository, **row) for row in options[name]]
        for name in ("train", "decontaminate_against")
    }
    shares = {name: options[name] for name in ("validation_share", "test_share")}
    data = RecordDataModule(**parts, **shares)
    for stage in ("fit", "test"):
        data.setup(stage)
    num_problems = len(set(problem_groups([u.records[0] for p in data.units.values() for u in p])))
    for name, share in shares.items():
        part = name.removesuffix("_share")
        assert leaks(data, part) == []
        held_out = problem_groups([unit.records[0] for unit in data.units[part]])
        assert len(set(held_out.tolist())) == round(share * num_problems)


def source(repository: Path, path: str, format: dict[str, Any], **options: Any) -> Source:
    name, arguments = format["class_path"], format.get("init_args", {})
    return Source(str(repository / path), format_named(name)(**arguments), **options)


def test_a_set_with_two_layouts_is_split_by_problem(shared_data: Path) -> None:
    """Each published problem once as it is, and once as another set would set it."""
    reading = format_named("PRM800KValidation")(neutral="good")
    folder = str(shared_data / "prm800k-validation" / "*.jsonl")
    prompts = sorted({prompt_text(record.prompt) for record in Source(folder, reading)})
    unset = [re.sub(r"(?<!\\)\$", "", text) for text in prompts]
    plain = [text.replace(r"\frac", r"\dfrac").replace("-", "−") for text in unset]
    records = [chain(text, f"{n}") for n, text in enumerate([*prompts, *plain])]
    parts = split_by_group(records, {"validation": 0.3}, seed=0)
    train = {normalize_problem(prompt_text(record.prompt)) for record in parts["train"]}
    held_out = [normalize_problem(prompt_text(record.prompt)) for record in parts["validation"]]
    assert len(held_out) == 2 * round(0.3 * len(prompts))
    assert not train.intersection(held_out)
    assert problem_text(records[0]) in train.union(held_out)
