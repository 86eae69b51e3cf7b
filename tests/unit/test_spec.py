"""The spec: what it refuses, and that it survives the disk unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.aggregation.steps import STEP_AGGREGATIONS, SoftMin, StepAggregation
from prm.errors import SpecError
from prm.spec import (
    SPEC_FILE,
    SPEC_VERSION,
    GoldenChain,
    RewardSpec,
    StepFormat,
    StepHead,
    Template,
    TokenizerIdentity,
)

FULL = RewardSpec(
    template=Template("chat", system="Be strict.", bos="one"),
    step_format=StepFormat(marker=None, suffix="\n\n"),
    step_heads=(StepHead(), StepHead("redundancy", "softmax")),
    chain_reward="redundancy",
    step_aggregation=SoftMin(beta=3.5),
    max_length=77,
    on_too_long="error",
    on_long_prompt="cut_left",
    tokenizer=TokenizerIdentity("ab" * 32, 301, 300),
    golden_chains=(GoldenChain("1 + 1", ("2",), {"correctness": (0.1,), "redundancy": (-2.5,)}),),
)


def changed(**fields: Any) -> dict[str, Any]:
    return {**json.loads(FULL.to_json()), **fields}


def test_a_full_spec_survives_json() -> None:
    assert RewardSpec.from_json(FULL.to_json()) == FULL
    assert RewardSpec.from_json(FULL.to_json()).to_json() == FULL.to_json()


@given(
    template=st.builds(
        Template,
        style=st.sampled_from(["plain", "chat"]),
        prefix=st.text(max_size=5),
        suffix=st.text(max_size=5),
        system=st.none() | st.text(max_size=5),
        bos=st.sampled_from(["one", "none"]),
    ),
    step_format=st.builds(
        StepFormat, marker=st.none() | st.text(min_size=1, max_size=5), suffix=st.text(max_size=5)
    ),
    aggregation=st.sampled_from([cls() for cls in STEP_AGGREGATIONS.values()])
    | st.builds(SoftMin, beta=st.floats(0.1, 1e3)),
    max_length=st.integers(2, 10**6),
)
def test_any_spec_survives_json(
    template: Template, step_format: StepFormat, aggregation: StepAggregation, max_length: int
) -> None:
    spec = RewardSpec(
        template=template,
        step_format=step_format,
        step_aggregation=aggregation,
        max_length=max_length,
    )
    assert RewardSpec.from_json(spec.to_json()) == spec


def test_columns_follow_the_objectives_in_order() -> None:
    assert FULL.num_columns == 3
    assert FULL.columns == {"correctness": slice(0, 1), "redundancy": slice(1, 3)}


def test_the_only_objective_is_the_reward() -> None:
    assert RewardSpec(step_heads=(StepHead("clarity"),)).chain_reward == "clarity"


def test_several_objectives_need_a_named_reward() -> None:
    with pytest.raises(SpecError, match="chain_reward is missing"):
        RewardSpec(step_heads=(StepHead("a"), StepHead("b")))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"step_heads": (StepHead(), StepHead())}, "objectives are wrong"),
        ({"chain_reward": "humor"}, "chain_reward is unknown"),
        ({"max_length": 1}, "max_length is wrong"),
    ],
)
def test_contradictory_specs_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        RewardSpec(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"on_too_long": "cut"},
        {"on_long_prompt": "truncate"},
        {"template": {"style": "jinja"}},
        {"template": {"bos": "two"}},
        {"step_heads": [{"name": "redundancy", "readout": "tanh"}]},
        {"max_length": 10.5},
        {"step_format": {"marker": 7}},
    ],
)
def test_unknown_options_are_errors_and_no_fallback(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        RewardSpec.from_dict(changed(**fields))


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(SpecError, match=r"newer than this library.*Upgrade prm"):
        RewardSpec.from_dict(changed(version=SPEC_VERSION + 1))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"version": None}, "version"),
        ({"version": "1"}, "version"),
        ({"kind": "outcome"}, "kind does not fit the objectives"),
        ({"extra": 1}, "unknown fields of RewardSpec: extra"),
        ({"template": {"color": "red"}}, "unknown fields of Template: color"),
        ({"template": "plain"}, "malformed|unknown fields"),
        ({"step_heads": None}, "malformed"),
        ({"step_heads": ["correctness"]}, "malformed|unknown fields"),
        ({"max_length": "long"}, "malformed|max_length"),
        ({"step_aggregation": "min"}, "malformed|step_aggregation"),
        ({"step_aggregation": {"name": "median"}}, "median"),
        ({"step_aggregation": {"name": "softmin", "beta": -1}}, "beta"),
        ({"step_aggregation": {"name": "min", "beta": 1}}, "does not take"),
        ({"golden_chains": [{"prompt": "q"}]}, "'completions' is missing"),
        ({"tokenizer": {"fingerprint": "x"}}, "malformed"),
    ],
)
def test_a_malformed_file_is_a_spec_error(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        RewardSpec.from_dict(changed(**fields))


@pytest.mark.parametrize("name", ["template", "step_format", "step_heads", "step_aggregation"])
def test_a_missing_field_is_named(name: str) -> None:
    data = changed()
    del data[name]
    with pytest.raises(SpecError, match=f"field '{name}' is missing"):
        RewardSpec.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"spec"', FULL.to_json()[:-20]])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        RewardSpec.from_json(text)


def test_load_names_the_folder_that_lacks_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"{tmp_path.name}: no {SPEC_FILE}"):
        RewardSpec.load(tmp_path)


def test_load_refuses_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(SpecError):
        RewardSpec.load(tmp_path)


def test_load_reads_what_was_written(tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_text(FULL.to_json(), encoding="utf-8")
    assert RewardSpec.load(tmp_path) == FULL


def test_with_changes_one_field() -> None:
    assert FULL.with_(max_length=78) != FULL
    assert FULL.with_(max_length=78).with_(max_length=77) == FULL


VERSION_1 = """{
  "version": 1,
  "kind": "process",
  "template": {"style": "plain", "prefix": "", "suffix": "\\n", "system": null, "bos": "none"},
  "step_format": {"marker": "<|step|>", "suffix": ""},
  "objectives": [{"name": "correctness", "readout": "sigmoid"}],
  "reward_objective": "correctness",
  "step_aggregation": {"name": "softmin", "beta": 10.0},
  "max_length": 512,
  "on_too_long": "truncate",
  "on_long_prompt": "drop",
  "tokenizer": {"fingerprint": "ab", "vocab_size": 300, "marker_id": 299},
  "golden": [{"prompt": "q", "completions": ["a"], "step_logits": {"correctness": [0.5]}}]
}"""


def test_a_file_of_version_1_is_still_read() -> None:
    """As the first release wrote it, before there were outcome models."""
    spec = RewardSpec.from_json(VERSION_1)
    assert spec == RewardSpec(
        step_aggregation=SoftMin(10.0),
        max_length=512,
        tokenizer=TokenizerIdentity("ab", 300, 299),
        golden_chains=(GoldenChain("q", ("a",), {"correctness": (0.5,)}),),
    )
    assert json.loads(spec.to_json())["version"] == SPEC_VERSION == 5


@pytest.mark.parametrize("name", ["step_heads", "chain_reward", "golden_chains"])
def test_fields_of_two_versions_do_not_mix(name: str) -> None:
    data = json.loads(VERSION_1) | {name: changed()[name]}
    with pytest.raises(SpecError, match=f"field '{name}' is not of version 1"):
        RewardSpec.from_dict(data)
