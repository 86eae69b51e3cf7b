"""Chains to token ids: golden ids, markers, truncation, templates, tokenizer identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHAINS, CHARACTERS, character_tokenizer, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from prm.errors import DataError, SpecError
from prm.records import Chain
from prm.spec import STEP_MARKER, RewardSpec, StepFormat, Template
from prm.trees.identity import add_marker, fingerprint, identity
from prm.trees.prompts import DroppedRecord, encode
from prm.trees.tokenize import TokenizedChain, TreeBuilder

BOS = 1
MARKER = 4 + len(CHARACTERS)
"""The marker is the first token after the characters."""

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def ids_of(text: str) -> list[int]:
    return [4 + CHARACTERS.index(character) for character in text]


def builder(
    spec: RewardSpec | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> TreeBuilder:
    spec = without_bos(spec or RewardSpec())
    tokenizer = tokenizer or character_tokenizer()
    add_marker(tokenizer, spec)
    return TreeBuilder(tokenizer, spec)


def without_bos(spec: RewardSpec) -> RewardSpec:
    """Leave BOS out where a test does not ask for it: the character tokenizer adds one."""
    bos = "none" if spec.template.bos == "tokenizer" else spec.template.bos
    return spec.with_(template=replace(spec.template, bos=bos))


def chat_builder(template: str = CHAT, **fields: Any) -> TreeBuilder:
    spec = RewardSpec(template=Template("chat", **fields))
    return builder(spec, character_tokenizer(template))


def parts(tokens: TokenizedChain) -> tuple[list[int], list[int], list[int]]:
    """Return prompt ids, branch ids and read offsets."""
    root, branch = tokens.tree.segments
    return list(root.input_ids), list(branch.input_ids), list(branch.reads)


# Golden ids


@pytest.mark.golden
@pytest.mark.parametrize(("bos", "start"), [("none", []), ("one", [1])])
def test_golden_ids_and_read_index(bos: Any, start: list[int]) -> None:
    tokens = builder(RewardSpec(template=Template(bos=bos))).build(Chain("ab", ["cd", "a b"]))
    prompt, branch, reads = parts(tokens)
    assert prompt == [*start, 6, 7, 4]
    assert branch == [8, 9, 48, 6, 5, 7, 48]
    assert reads == [2, 6]
    assert tokens.steps == (0, 1)
    assert MARKER == 48


@pytest.mark.golden
def test_golden_ids_without_marker_are_read_at_the_last_token() -> None:
    spec = RewardSpec(step_format=StepFormat(marker=None, suffix="\n"))
    prompt, branch, reads = parts(builder(spec).build(Chain("a", ["bc", "d"])))
    assert (prompt, branch, reads) == ([6, 4], [7, 8, 4, 9, 4], [2, 4])


def test_prefix_and_suffixes_are_part_of_the_text() -> None:
    spec = RewardSpec(
        template=Template(prefix="q ", suffix=" s"), step_format=StepFormat(suffix="\n\n")
    )
    prompt, branch, _ = parts(builder(spec).build(Chain("a", ["b"])))
    assert prompt == ids_of("q a s")
    assert branch == [*ids_of("b\n\n"), MARKER]


def test_a_conversation_in_the_plain_template_is_joined() -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert parts(builder().build(Chain(messages, ["c"])))[0] == ids_of("a\n\nb\n")


# BOS


@pytest.mark.parametrize(("bos", "count"), [("one", 1), ("none", 0)])
@pytest.mark.parametrize("template", [CHAT, CHAT.removeprefix("{{ bos_token }}"), "<s>" + CHAT])
def test_exactly_the_declared_bos_whatever_the_chat_template_writes(
    bos: Any, count: int, template: str
) -> None:
    prompt, branch, _ = parts(chat_builder(template, bos=bos).build(Chain("ab", ["c"])))
    assert prompt == [BOS] * count + ids_of("[user]ab[assistant]")
    assert BOS not in branch


def test_the_tokenizer_of_these_tests_does_add_a_bos() -> None:
    assert character_tokenizer()("a")["input_ids"] == [BOS, *ids_of("a")]


@pytest.mark.parametrize(("bos", "count"), [("one", 1), ("none", 0)])
def test_bos_text_in_a_plain_prompt_is_ordinary_text(bos: Any, count: int) -> None:
    spec = RewardSpec(template=Template(bos=bos))
    prompt, _, _ = parts(builder(spec).build(Chain("<s>a", ["b"])))
    assert prompt == [BOS] * count + ids_of("<s>a\n")


def test_bos_one_needs_a_tokenizer_with_bos() -> None:
    tokenizer = character_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(SpecError, match="no BOS"):
        builder(RewardSpec(template=Template(bos="one")), tokenizer)


# Markers


def test_marker_text_is_never_a_marker() -> None:
    chain = Chain(f"a{STEP_MARKER}", [f"b{STEP_MARKER}c", STEP_MARKER])
    prompt, branch, reads = parts(builder().build(chain))
    text = ids_of(STEP_MARKER)
    assert prompt == [*ids_of("a"), *text, *ids_of("\n")]
    assert branch == [*ids_of("b"), *text, *ids_of("c"), MARKER, *text, MARKER]
    assert [branch[read] for read in reads] == [MARKER, MARKER]
    assert branch.count(MARKER) == 2


def test_eos_and_pad_text_are_ordinary_text() -> None:
    _, branch, _ = parts(builder().build(Chain("a", ["</s>", "<pad>"])))
    unknown = 3
    eos_text = [*ids_of("<"), unknown, *ids_of("s>")]
    assert branch == [*eos_text, MARKER, *ids_of("<pad>"), MARKER]


def test_a_marker_of_several_tokens_is_refused() -> None:
    with pytest.raises(SpecError, match=r"step marker .* is not one special token"):
        TreeBuilder(character_tokenizer(), RewardSpec())


def test_an_ordinary_token_is_no_marker() -> None:
    spec = RewardSpec(step_format=StepFormat(marker="a"))
    with pytest.raises(SpecError, match="not one special token"):
        TreeBuilder(character_tokenizer(), spec)


def test_the_marker_is_added_once() -> None:
    tokenizer = character_tokenizer()
    assert add_marker(tokenizer, RewardSpec()) == 1
    assert add_marker(tokenizer, RewardSpec()) == 0
    assert add_marker(tokenizer, RewardSpec(step_format=StepFormat(marker=None))) == 0
    assert add_marker(tokenizer, RewardSpec(step_format=StepFormat(marker="</s>"))) == 0


# Empty steps


def test_empty_steps_have_no_read_and_keep_their_index() -> None:
    tokens = builder().build(Chain("a", ["", "b", " \n", "c", ""]))
    assert tokens.steps == (1, 3)
    _, branch, reads = parts(tokens)
    assert branch == [*ids_of("b"), MARKER, *ids_of("c"), MARKER]
    assert reads == [1, 3]
    assert tokens.num_truncated == 0


# Truncation: prompt "ab\n" is 3 tokens, each step 3 with its marker

LONG = Chain("ab", ["cd", "ef", "gh"], id="r1", origin="x.jsonl:7")


@pytest.mark.parametrize(
    ("max_length", "num_steps"), [(12, 3), (100, 3), (11, 2), (9, 2), (8, 1), (6, 1)]
)
def test_truncation_drops_whole_steps_from_the_end(max_length: int, num_steps: int) -> None:
    whole = parts(builder().build(LONG))[1]
    tokens = builder(RewardSpec(max_length=max_length)).build(LONG)
    prompt, branch, reads = parts(tokens)
    assert prompt == ids_of("ab\n")
    assert branch == whole[: 3 * num_steps]
    assert reads == [2, 5, 8][:num_steps]
    assert tokens.steps == (0, 1, 2)[:num_steps]
    assert tokens.num_truncated == 3 - num_steps


def test_drop_leaves_the_chain_out_and_says_why() -> None:
    build = builder(RewardSpec(max_length=11, on_too_long="drop")).build
    with pytest.raises(
        DroppedRecord,
        match=r"x\.jsonl:7, row 'r1': chain is too long: expected at most 11.*got 12 tokens",
    ):
        build(LONG)


def test_the_error_policy_stops() -> None:
    with pytest.raises(DataError, match="chain is too long") as caught:
        builder(RewardSpec(max_length=11, on_too_long="error")).build(LONG)
    assert not isinstance(caught.value, DroppedRecord)


@pytest.mark.parametrize("on_too_long", ["truncate", "drop", "error"])
def test_what_fits_is_the_same_under_every_policy(on_too_long: Any) -> None:
    tokens = builder(RewardSpec(max_length=12, on_too_long=on_too_long)).build(LONG)
    assert tokens == builder().build(LONG)


def test_a_prompt_without_room_for_a_step_is_dropped_by_default() -> None:
    build = builder(RewardSpec(max_length=5)).build
    with pytest.raises(DroppedRecord, match="prompt leaves no room for what follows it"):
        build(LONG)


def test_an_over_long_prompt_is_cut_from_the_left_only_if_the_spec_says_so() -> None:
    spec = RewardSpec(max_length=5, on_long_prompt="cut_left")
    tokens = builder(spec).build(LONG)
    prompt, branch, _ = parts(tokens)
    assert prompt == ids_of("b\n")
    assert branch == [*ids_of("cd"), MARKER]
    assert (tokens.num_prompt_cut, tokens.num_truncated) == (1, 2)


def test_a_cut_prompt_keeps_its_bos() -> None:
    spec = RewardSpec(max_length=5, on_long_prompt="cut_left", template=Template(bos="one"))
    tokens = builder(spec).build(LONG)
    assert parts(tokens)[0] == [BOS, *ids_of("\n")]
    assert tokens.num_prompt_cut == 2


def test_a_step_longer_than_everything_is_dropped_even_with_cut_left() -> None:
    spec = RewardSpec(max_length=3, on_long_prompt="cut_left")
    with pytest.raises(DroppedRecord):
        builder(spec).build(LONG)


@given(
    st.text("ab \n", max_size=6),
    st.lists(st.text("ab \n", max_size=4), min_size=1, max_size=4).filter(
        lambda steps: any(step.strip() for step in steps)
    ),
    st.integers(2, 14),
    st.sampled_from(["drop", "cut_left"]),
    st.sampled_from(["one", "none"]),
)
@settings(max_examples=60)
def test_truncated_is_a_prefix_of_whole_and_within_the_limit(
    prompt: str, steps: list[str], max_length: int, on_long_prompt: Any, bos: Any
) -> None:
    template = Template(bos=bos)
    chain = Chain(prompt, steps)
    whole = builder(RewardSpec(template=template)).build(chain)
    spec = RewardSpec(template=template, max_length=max_length, on_long_prompt=on_long_prompt)
    try:
        cut = builder(spec).build(chain)
    except DroppedRecord:
        return
    assert cut.tree.num_tokens <= max_length
    assert cut.steps == whole.steps[: len(cut.steps)]
    assert len(cut.steps) + cut.num_truncated == len(whole.steps)
    assert cut.tree.num_reads == len(cut.steps) > 0
    full, branch = parts(whole), parts(cut)[1]
    assert branch == full[1][: len(branch)]
    assert len(parts(cut)[0]) == len(full[0]) - cut.num_prompt_cut
    assert parts(cut)[0].count(BOS) == (bos == "one")


# Chat templates


def test_chat_brings_roles_and_the_assistant_turn() -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    prompt, branch, _ = parts(chat_builder().build(Chain(messages, ["c"])))
    assert prompt == ids_of("[system]a[user]b[assistant]")
    assert branch == [*ids_of("c"), MARKER]


def test_chat_adds_the_system_message_of_the_spec_only_where_there_is_none() -> None:
    build = chat_builder(system="be brief").build
    assert parts(build(Chain("b", ["c"])))[0] == ids_of("[system]be brief[user]b[assistant]")
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert parts(build(Chain(messages, ["c"])))[0] == ids_of("[system]a[user]b[assistant]")


@pytest.mark.parametrize("text", ["a</s>", f"{STEP_MARKER} a", "<s>"])
def test_a_special_token_in_a_chat_prompt_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"row 'r3': prompt contains the special token"):
        chat_builder().build(Chain(text, ["b"], id="r3"))


def test_chat_needs_a_template() -> None:
    with pytest.raises(SpecError, match="needs a tokenizer with a chat template"):
        builder(RewardSpec(template=Template("chat")))


def test_a_conversation_that_the_template_refuses_is_a_data_error() -> None:
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHAT
    )
    asked = [{"role": "system", "content": "c"}, {"role": "user", "content": "a"}]
    with pytest.raises(DataError, match=r"row 'r4': .*System role not supported"):
        chat_builder(refusing).build(Chain(asked, ["b"], id="r4"))


# Batches of chains


@pytest.mark.parametrize(
    "spec", [RewardSpec(), RewardSpec(max_length=40), RewardSpec(max_length=9)]
)
def test_building_many_equals_building_one_by_one(spec: RewardSpec) -> None:
    build = builder(spec, tiny_tokenizer())
    for chain, result in zip(CHAINS, build.build_all(CHAINS), strict=True):
        if isinstance(result, DroppedRecord):
            with pytest.raises(DroppedRecord, match="no room"):
                build.build(chain)
        else:
            assert result == build.build(chain)


def test_a_dropped_chain_does_not_stop_the_others() -> None:
    spec = RewardSpec(max_length=9, on_too_long="drop")
    results = list(builder(spec).build_all([LONG, Chain("a", ["b"]), LONG]))
    assert [isinstance(result, DroppedRecord) for result in results] == [True, False, True]


def test_more_chains_than_one_block() -> None:
    chains = [Chain("a", ["b" * (1 + index % 3)]) for index in range(1100)]
    lengths = [
        result.tree.num_tokens
        for result in builder().build_all(iter(chains))
        if isinstance(result, TokenizedChain)
    ]
    assert lengths == [4 + index % 3 for index in range(1100)]


def test_a_prompt_that_renders_to_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="prompt render to no token"):
        builder(RewardSpec(template=Template(suffix=""))).build(Chain("", ["a"]))


# Identity


def test_the_tokenizer_it_was_trained_with_is_accepted() -> None:
    spec = RewardSpec()
    trained = builder(spec).tokenizer
    stored = spec.with_(tokenizer=identity(trained, spec))
    TreeBuilder(trained, stored)
    TreeBuilder(builder(spec).tokenizer, stored)


def _renamed_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.bos_token = "</s>"


def _other_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CHAT


def _more_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["xyz"])


@pytest.mark.parametrize("change", [_renamed_bos, _other_template, _more_tokens])
def test_a_changed_tokenizer_is_refused(change: Any) -> None:
    spec = RewardSpec()
    stored = spec.with_(tokenizer=identity(builder(spec).tokenizer, spec))
    other = builder(spec).tokenizer
    change(other)
    with pytest.raises(SpecError, match="not the one this model was trained with"):
        TreeBuilder(other, stored)


def test_a_marker_at_another_id_is_refused() -> None:
    spec = RewardSpec()
    tokenizer = builder(spec).tokenizer
    right = identity(tokenizer, spec)
    with pytest.raises(SpecError, match="not the one"):
        TreeBuilder(tokenizer, spec.with_(tokenizer=replace(right, marker_id=3)))


def test_the_fingerprint_sees_another_split_of_the_same_vocabulary() -> None:
    from tokenizers import pre_tokenizers

    one, two = tiny_tokenizer(), tiny_tokenizer()
    assert fingerprint(one) == fingerprint(two)
    two.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert fingerprint(one) != fingerprint(two)


@given(st.text(max_size=20), st.sampled_from(["", STEP_MARKER, "<|pad|>"]), st.booleans())
def test_the_backend_gives_the_ids_of_a_call(text: str, special: str, as_tokens: bool) -> None:
    tokenizer = tiny_tokenizer()
    add_marker(tokenizer, RewardSpec())
    texts = [f"{text}{special}{text}", text]
    called = tokenizer(texts, add_special_tokens=False, split_special_tokens=not as_tokens)
    assert encode(tokenizer, texts, as_tokens) == called["input_ids"]
