"""Response sets: rows of a source become sets, and no response is held twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prm.records import Chain, Comparison, Outcome, Rating, named
from prm.trees.units import ResponseSet, response_sets, units_of

texts = st.sampled_from(["a", "b", "c", "d"])
pairs = st.lists(texts, min_size=2, max_size=4).map(
    lambda responses: Comparison("q", responses, objective="safety")
)
ratings = texts.map(lambda response: Rating("q", response, {"safety": 1}))


def rating(prompt: str, response: str, origin: str = "", **fields: str) -> Rating:
    return Rating(prompt, response, {"safety": 1}, origin=origin, **fields)


@given(st.lists(pairs | ratings, min_size=1, max_size=6))
def test_identical_responses_are_shared(records: list[Outcome]) -> None:
    found = ResponseSet.of(records)
    assert len(set(found.responses)) == len(found.responses)
    assert set(found.responses) == {text for record in records for text in record.responses}
    for record, places in zip(records, found.places, strict=True):
        assert tuple(found.responses[place] for place in places) == record.responses


def test_a_set_knows_prompt_source_and_group() -> None:
    record = named(Rating("q", "a", {"safety": 1}, group="g"), "r1", "s")
    found = ResponseSet.of([record])
    assert (found.prompt, found.source, found.group) == ("q", "s", "g")


def test_the_records_of_a_row_are_one_set() -> None:
    row = [
        Comparison("q", ["a", "b"], objective="safety", origin="f:1"),
        rating("q", "a", "f:1"),
        rating("q", "b", "f:1"),
    ]
    (found,) = response_sets(row)
    assert found.records == tuple(row)
    assert found.responses == ("a", "b")


def test_other_rows_prompts_and_groups_are_other_sets() -> None:
    records = [
        rating("q", "a", "f:1"),
        rating("q", "b", "f:2"),
        rating("r", "b", "f:2"),
        rating("r", "c", "f:2", group="g"),
    ]
    assert [len(found.records) for found in response_sets(records)] == [1, 1, 1, 1]


def test_records_that_come_from_nowhere_stay_alone_unless_they_share_a_response() -> None:
    pair = Comparison("q", ["a", "b"], objective="safety", group="q")
    assert len(list(response_sets([rating("q", "a"), rating("q", "b")]))) == 2
    assert len(list(response_sets([pair, rating("q", "a")]))) == 1


def test_a_response_is_rated_once_in_a_set() -> None:
    assert len(list(response_sets([rating("q", "a"), rating("q", "a")]))) == 2


def test_conversations_with_the_same_turns_are_one_prompt() -> None:
    turns = [{"role": "user", "content": "q"}]
    records = [Rating(turns, text, {"safety": 1}, origin="f:1") for text in ("a", "b")]
    (found,) = response_sets(records)
    assert found.responses == ("a", "b")


def test_chains_and_sets_keep_their_order() -> None:
    records = [
        Chain("q", ["1"]),
        rating("q", "a", "f:1"),
        rating("q", "b", "f:1"),
        Chain("q", ["2"]),
        Chain("q", ["3"]),
    ]
    units = list(units_of(records))
    assert [type(unit) for unit in units] == [Chain, ResponseSet, Chain, Chain]
    assert [record for unit in units for record in unit.records] == records


@given(st.lists(st.tuples(st.sampled_from("qr"), texts, st.sampled_from(["", "f:1", "f:2"]))))
def test_no_record_is_lost(rows: list[tuple[str, str, str]]) -> None:
    records = [rating(*row) for row in rows]
    assert [record for found in response_sets(records) for record in found.records] == records
