"""Responses to token ids: golden ids, end tokens, truncation, and what responses share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHARACTERS, character_tokenizer
from transformers import PreTrainedTokenizerBase

from prm.errors import DataError, SpecError
from prm.records import Comparison, Rating
from prm.spec import ResponseFormat, ResponseHead, RewardSpec, Template
from prm.trees.identity import identity
from prm.trees.prompts import DroppedRecord
from prm.trees.tokenize import TokenizedResponses, TreeBuilder
from prm.trees.units import ResponseSet

BOS, EOS, UNKNOWN = 1, 2, 3
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>0{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def ids_of(text: str) -> list[int]:
    return [4 + CHARACTERS.index(character) for character in text]


def builder(
    tokenizer: PreTrainedTokenizerBase | None = None,
    response_format: ResponseFormat = ResponseFormat(),  # noqa: B008
    **fields: Any,
) -> TreeBuilder:
    spec = RewardSpec(
        response_heads=(ResponseHead("safety"),),
        response_format=response_format,
        **{"template": Template(bos="none"), **fields},
    )
    return TreeBuilder(tokenizer or character_tokenizer(), spec)


def encoder_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer with CLS and SEP in place of BOS and EOS."""
    tokenizer = character_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    return tokenizer


def rated(prompt: str, *responses: str, **fields: str) -> ResponseSet:
    return ResponseSet.of([Rating(prompt, text, {"safety": 1}, **fields) for text in responses])


def parts(tokens: TokenizedResponses) -> tuple[list[int], list[list[int]]]:
    """Return prompt ids and the ids of each branch, which is read at its last token."""
    root, *branches = tokens.tree.segments
    assert root.reads == ()
    for branch in branches:
        assert branch.parent == 0
        assert branch.reads == (len(branch.input_ids) - 1,)
    return list(root.input_ids), [list(branch.input_ids) for branch in branches]


# Golden ids


@pytest.mark.golden
@pytest.mark.parametrize(("bos", "start"), [("none", []), ("one", [1])])
@pytest.mark.parametrize(("end", "last"), [("none", []), ("eos", [2])])
def test_golden_ids_with_and_without_bos_and_eos(
    bos: Any, start: list[int], end: Any, last: list[int]
) -> None:
    build = builder(response_format=ResponseFormat(end), template=Template(bos=bos)).build
    prompt, branches = parts(build(rated("ab", "cd", "a b")))
    assert prompt == [*start, 6, 7, 4]
    assert branches == [[8, 9, *last], [6, 5, 7, *last]]


@pytest.mark.golden
def test_golden_ids_of_an_encoder_are_cls_prompt_sep_response_sep() -> None:
    build = builder(
        encoder_tokenizer(),
        ResponseFormat("eos", "sep", read_at="mean"),
        template=Template(suffix="", bos="one"),
    ).build
    assert parts(build(rated("ab", "cd"))) == ([1, 6, 7, 2], [[8, 9, 2]])


@pytest.mark.golden
def test_golden_ids_of_a_chat_end_as_the_template_ends_a_turn() -> None:
    build = builder(
        character_tokenizer(CHAT), ResponseFormat("turn"), template=Template("chat")
    ).build
    prompt, (branch,) = parts(build(rated("ab", "cd")))
    assert prompt == ids_of("[user]ab[assistant]")
    assert branch == [8, 9, EOS, *ids_of("0")]


def test_a_suffix_is_part_of_the_response() -> None:
    build = builder(response_format=ResponseFormat(suffix="\n]")).build
    assert parts(build(rated("a", "b")))[1] == [[*ids_of("b\n]"), EOS]]


def test_special_tokens_in_a_response_are_ordinary_text() -> None:
    _, branches = parts(builder().build(rated("a", "</s>", "b<pad>")))
    eos_text = [*ids_of("<"), UNKNOWN, *ids_of("s>")]
    assert branches == [[*eos_text, EOS], [*ids_of("b<pad>"), EOS]]


def test_the_only_end_of_an_empty_response_is_its_end_token() -> None:
    tokens = builder().build(rated("a", "", "b"))
    assert parts(tokens)[1] == [[EOS], [*ids_of("b"), EOS]]


def test_without_an_end_token_an_empty_response_is_left_out() -> None:
    tokens = builder(response_format=ResponseFormat("none")).build(rated("a", "", "b"))
    assert tokens.branches == (None, 0)
    assert tokens.truncated == (False, False)
    assert "response renders to no token" in tokens.reasons[0]


# What the tokenizer lacks


def test_what_the_tokenizer_lacks_is_named() -> None:
    tokenizer = character_tokenizer()
    with pytest.raises(SpecError, match="no SEP token"):
        builder(tokenizer, ResponseFormat(start="sep"))
    with pytest.raises(SpecError, match="'turn' needs template style 'chat'"):
        builder(tokenizer, ResponseFormat("turn"))
    tokenizer.eos_token = None
    with pytest.raises(SpecError, match="no EOS or SEP token"):
        builder(tokenizer)


def test_a_template_that_changes_the_response_has_no_turn_end() -> None:
    tokenizer = character_tokenizer("{% for m in messages %}[{{ m['role'] }}]{% endfor %}")
    with pytest.raises(SpecError, match="does not render the text of messages"):
        builder(tokenizer, ResponseFormat("turn"), template=Template("chat"))


def test_a_changed_tokenizer_is_refused() -> None:
    spec = builder().spec
    trained = character_tokenizer()
    stored = spec.with_(tokenizer=identity(trained, spec))
    TreeBuilder(trained, stored)
    trained.add_tokens(["xyz"])
    with pytest.raises(SpecError, match="not the one this model was trained with"):
        TreeBuilder(trained, stored)


# Sharing


def test_identical_responses_and_their_prompt_are_computed_once() -> None:
    pair = Comparison("ab", ["c", "d"], objective="safety")
    tokens = builder().build(ResponseSet.of([pair, Rating("ab", "d"), Rating("ab", "c")]))
    assert parts(tokens) == (ids_of("ab\n"), [[*ids_of("c"), EOS], [*ids_of("d"), EOS]])
    assert tokens.branches == (0, 1)


# Truncation: prompt "ab\n" is 3 tokens, "cdefg" is 5 and its end 1

LONG = rated("ab", "cdefg", "h", id="r1", origin="x.jsonl:7")


@pytest.mark.parametrize(
    ("max_length", "text", "is_cut"),
    [(9, "cdefg", False), (100, "cdefg", False), (8, "cdefg", True), (7, "cdef", True)],
)
def test_a_cut_response_has_no_end_token(max_length: int, text: str, is_cut: bool) -> None:
    tokens = builder(max_length=max_length).build(LONG)
    prompt, (branch, short) = parts(tokens)
    assert prompt == ids_of("ab\n")
    assert branch == ids_of(text) + ([] if is_cut else [EOS])
    assert short == [*ids_of("h"), EOS]
    assert tokens.truncated == (is_cut, False)


def test_drop_leaves_the_response_out_and_says_why() -> None:
    tokens = builder(max_length=8, on_too_long="drop").build(LONG)
    assert tokens.branches == (None, 0)
    assert tokens.truncated == (False, False)
    (reason,) = tokens.reasons
    assert "x.jsonl:7, row 'r1'" in reason
    assert "expected at most 8 tokens (max_length), got 9 tokens" in reason


def test_a_set_without_any_response_that_fits_is_dropped() -> None:
    with pytest.raises(DroppedRecord, match="too long"):
        builder(max_length=8, on_too_long="drop").build(rated("ab", "cdefg"))


def test_the_error_policy_stops() -> None:
    with pytest.raises(DataError, match="too long") as caught:
        builder(max_length=8, on_too_long="error").build(LONG)
    assert not isinstance(caught.value, DroppedRecord)


def test_a_prompt_without_room_for_a_response_is_dropped_by_default() -> None:
    assert builder(max_length=5).build(rated("ab", "c"))
    with pytest.raises(DroppedRecord, match="prompt leaves no room for what follows it"):
        builder(max_length=4).build(rated("ab", "c"))


def test_an_over_long_prompt_is_cut_from_the_left_to_half_of_max_length() -> None:
    build = builder(max_length=8, on_long_prompt="cut_left", template=Template(bos="one")).build
    tokens = build(rated("abcdef", "g"))
    assert parts(tokens)[0] == [BOS, *ids_of("ef\n")]
    assert tokens.num_prompt_cut == 4


def test_an_encoders_separator_survives_a_cut_prompt() -> None:
    build = builder(
        encoder_tokenizer(),
        ResponseFormat(start="sep"),
        max_length=8,
        on_long_prompt="cut_left",
        template=Template(suffix="", bos="one"),
    ).build
    assert parts(build(rated("abcdef", "g")))[0] == [BOS, *ids_of("ef"), EOS]


responses = st.lists(st.text("abc", max_size=12), min_size=1, max_size=4)


@given(st.text("ab \n", max_size=12), responses, responses, st.integers(2, 14))
@settings(max_examples=60)
def test_the_cut_of_a_prompt_depends_on_the_prompt_alone(
    prompt: str, one: list[str], other: list[str], max_length: int
) -> None:
    build = builder(max_length=max_length, on_long_prompt="cut_left").build
    first, second = build(rated(prompt, *one)), build(rated(prompt, *other))
    assert parts(first)[0] == parts(second)[0]
    assert first.num_prompt_cut == second.num_prompt_cut


@given(
    st.text("ab \n", max_size=8),
    responses,
    st.integers(2, 14),
    st.sampled_from(["drop", "cut_left"]),
    st.sampled_from(["one", "none"]),
    st.sampled_from(["eos", "none"]),
)
@settings(max_examples=80)
def test_truncated_is_a_prefix_of_whole_and_within_the_limit(
    prompt: str, texts: list[str], max_length: int, on_long_prompt: Any, bos: Any, end: Any
) -> None:
    options = {"response_format": ResponseFormat(end), "template": Template(bos=bos)}
    item = rated(prompt, *texts)
    try:
        whole = builder(**options).build(item)
        cut = builder(max_length=max_length, on_long_prompt=on_long_prompt, **options).build(item)
    except DroppedRecord:
        return
    (root, branches), (full_root, full_branches) = parts(cut), parts(whole)
    assert len(root) == len(full_root) - cut.num_prompt_cut
    assert root[root.count(BOS) :] == full_root[len(full_root) - len(root) + root.count(BOS) :]
    for place, branch in enumerate(cut.branches):
        if branch is not None:
            assert len(root) + len(branches[branch]) <= max_length
            full = full_branches[whole.branches[place] or 0]
            assert branches[branch] == full[: len(branches[branch])]
            assert cut.truncated[place] == (branches[branch] != full)


# Batches of sets


def test_a_dropped_set_does_not_stop_the_others() -> None:
    build = builder(max_length=8, on_too_long="drop")
    results = list(build.build_all([rated("ab", "cdefg"), rated("a", "b"), rated("a" * 9, "b")]))
    assert [isinstance(result, DroppedRecord) for result in results] == [True, False, True]


def test_building_many_equals_building_one_by_one() -> None:
    build = builder(max_length=9)
    sets = [LONG, rated("a", "b"), rated("", "c", "d", "e"), LONG]
    assert list(build.build_all(sets)) == [build.build(item) for item in sets]
