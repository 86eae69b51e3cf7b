"""Batch scoring: nothing lost or doubled, whatever interrupts it."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.aggregation.steps import SoftMin
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.sources.source import Source
from prm.errors import ConfigError, DataError, OutputError
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch
from prm.records import Chain
from prm.scores import partial
from prm.scores.chains import ChainScore
from prm.scoring import batch
from prm.scoring.batch import Summary, survey
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, StepHead

BLOCK = 4
score_file = functools.partial(batch.score_file, block=BLOCK)
UNSCORABLE, TRUNCATED = 5, 9
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def chain(index: int) -> Chain:
    prompt = "too long " * 100 if index == UNSCORABLE else f"{index % 3} + 1 = ?"
    steps = [f"step {index}", "", "so it is done"] * (20 if index == TRUNCATED else 1)
    labels = {"correctness": [1.0, None, 0.0] * (len(steps) // 3)} if index % 2 else None
    return Chain(prompt, steps, labels, id=f"c{index}")


CHAINS = [chain(index) for index in range(18)]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    source = FromScratch({"model_type": "llama", **SIZES, **HEADS}, vocab_size=300)
    tokenizer = source.tokenizer(["1 + 1 = 2"])
    objectives = (StepHead(), StepHead("redundancy", "softmax"))
    spec = RewardSpec(max_length=64, step_heads=objectives, chain_reward="correctness")
    model = RewardModel(source.model(tokenizer), tokenizer, spec)
    torch.manual_seed(0)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def scorer(model: RewardModel) -> RewardScorer:
    return RewardScorer(model)


@pytest.fixture(scope="module")
def complete(scorer: RewardScorer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an uninterrupted run."""
    path = tmp_path_factory.mktemp("complete") / "scores.jsonl"
    score_file(scorer, survey(CHAINS), path)
    return path.read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: a forked process lacks the others, and waits for them for ever."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


class Interrupted(RewardScorer):
    """A scorer that Ctrl-C meets after some blocks."""

    def __init__(self, scorer: RewardScorer, num_blocks: int) -> None:
        super().__init__(scorer.model, scorer.step_aggregation)
        self.num_blocks = num_blocks

    def score(self, chains: Sequence[Chain]) -> list[ChainScore]:  # type: ignore[override]
        if self.num_blocks == 0:
            raise KeyboardInterrupt
        self.num_blocks -= 1
        return super().score(chains)


def interrupt(scorer: RewardScorer, output: Path, num_blocks: int = 2) -> Path:
    with pytest.raises(KeyboardInterrupt):
        score_file(Interrupted(scorer, num_blocks), survey(CHAINS), output)
    return output.with_name(f"{output.name}.partial")


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_equal_the_scorer(scorer: RewardScorer, tmp_path: Path) -> None:
    summary = score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    blocks = [CHAINS[start : start + BLOCK] for start in range(0, len(CHAINS), BLOCK)]
    assert rows == [score.to_row() for block in blocks for score in scorer.score(block)]
    assert [row["id"] for row in rows] == [chain.id for chain in CHAINS]
    rewards = [score.reward for score in scorer.score(CHAINS)]
    assert [row["reward"] for row in rows] == pytest.approx(rewards, abs=1e-5)
    known = [reward for reward in rewards if reward is not None]
    assert summary.mean_reward == pytest.approx(sum(known) / len(known), abs=1e-5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.jsonl", "a.jsonl.spec.json"]


def test_unscorable_chains_have_a_row_and_a_reason(scorer: RewardScorer, tmp_path: Path) -> None:
    summary = score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    assert rows[UNSCORABLE]["reward"] is None
    assert "prompt leaves no room" in str(rows[UNSCORABLE]["reason"])
    assert rows[TRUNCATED]["num_truncated"] != 0
    assert (summary.num_records, summary.num_scored, summary.num_truncated) == (18, 17, 1)
    assert len(summary.reasons) == 1
    assert f"c{UNSCORABLE}" in summary.reasons[0]


def test_parquet_equals_json_lines(scorer: RewardScorer, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        score_file(scorer, survey(CHAINS), tmp_path / name, keep_text=True)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows == rows_of(tmp_path / "a.jsonl")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.jsonl", "a.jsonl.spec.json", "a.parquet", "a.parquet.spec.json"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_kept_text_reads_back_as_chains(scorer: RewardScorer, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"a{suffix}"
    messages = [Chain([{"role": "user", "content": "1 + 1?"}], ["2"], id="m")]
    for chains in (messages, CHAINS[:1], CHAINS):
        score_file(scorer, survey(chains), output, keep_text=True, overwrite=True)
        read = Source(str(output), HFStepwise()).load()
        expected = [(chain.prompt, chain.completions, chain.labels) for chain in chains]
        assert [(chain.prompt, chain.completions, chain.labels) for chain in read] == expected


def test_mixed_prompts_in_parquet_name_the_way_out(scorer: RewardScorer, tmp_path: Path) -> None:
    chains = [Chain([{"role": "user", "content": "1 + 1?"}], ["2"], id="m"), CHAINS[0]]
    with pytest.raises(OutputError, match=r"\.jsonl"):
        score_file(scorer, survey(chains), tmp_path / "a.parquet", keep_text=True)


def test_labels_never_change_a_score(scorer: RewardScorer, tmp_path: Path) -> None:
    for name, chains in {"a": CHAINS, "b": [chain.with_labels({}) for chain in CHAINS]}.items():
        score_file(scorer, survey(chains), tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@settings(max_examples=30)
@given(num_bytes=st.integers(0, 20_000), num_blocks=st.integers(1, 4))
def test_continues_from_any_byte(
    scorer: RewardScorer,
    complete: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    num_bytes: int,
    num_blocks: int,
) -> None:
    output = tmp_path_factory.mktemp("cut") / "scores.jsonl"
    rows = interrupt(scorer, output, num_blocks)
    os.truncate(rows, min(num_bytes, rows.stat().st_size))
    summary = score_file(scorer, survey(CHAINS), output)
    assert output.read_bytes() == complete
    assert summary.num_resumed % BLOCK == 0
    assert summary.num_resumed <= num_blocks * BLOCK
    assert summary.num_records == len(CHAINS)
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == ["scores.jsonl", "scores.jsonl.spec.json"]


def test_continues_after_sigkill(scorer: RewardScorer, complete: bytes, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    for num_records in (4, 4, 12, 16, 18):
        score_in_child(scorer, output, num_records)
        assert not output.exists()
    assert score_file(scorer, survey(CHAINS), output).num_resumed == 16
    assert output.read_bytes() == complete


def score_in_child(scorer: RewardScorer, output: Path, num_records: int) -> None:
    """Score in a process that is killed when it has written so many records."""
    here, there = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:

        def wait(summary: Summary) -> None:
            if summary.num_records >= num_records:
                os.write(there, b"!")
                signal.pause()

        try:
            score_file(scorer, survey(CHAINS), output, on_block=wait)
        finally:
            os._exit(1)
    os.close(there)
    assert os.read(here, 1) == b"!"
    os.close(here)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_parquet_continues_too(scorer: RewardScorer, tmp_path: Path) -> None:
    interrupt(scorer, tmp_path / "a.parquet")
    assert score_file(scorer, survey(CHAINS), tmp_path / "a.parquet").num_resumed == 2 * BLOCK
    score_file(scorer, survey(CHAINS), tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_blocks_are_reported(scorer: RewardScorer, tmp_path: Path) -> None:
    interrupt(scorer, tmp_path / "a.jsonl")
    seen: list[int] = []
    score_file(
        scorer, survey(CHAINS), tmp_path / "a.jsonl", on_block=lambda s: seen.append(s.num_records)
    )
    assert seen == [8, 12, 16, 18]


def test_an_interrupt_in_the_first_block_leaves_nothing(
    scorer: RewardScorer, tmp_path: Path
) -> None:
    interrupt(scorer, tmp_path / "a.jsonl", num_blocks=0)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_by_name(
    model: RewardModel, scorer: RewardScorer, complete: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "scores.jsonl"
    rows = interrupt(scorer, output)
    before = rows.read_bytes()
    inputs = survey(CHAINS)
    with pytest.raises(ConfigError, match=r"another aggregation.*min.*softmin.*--overwrite"):
        score_file(RewardScorer(model, SoftMin()), inputs, output)
    with pytest.raises(ConfigError, match="another threshold"):
        score_file(scorer, inputs, output, threshold=0.4)
    with pytest.raises(ConfigError, match="another keep_text"):
        score_file(scorer, inputs, output, keep_text=True)
    with pytest.raises(ConfigError, match=r"another input.*of 17 records"):
        score_file(scorer, survey(CHAINS[1:]), output)
    assert rows.read_bytes() == before
    assert score_file(scorer, inputs, output).num_resumed == 2 * BLOCK
    assert output.read_bytes() == complete


def test_another_model_is_refused(scorer: RewardScorer, tmp_path: Path) -> None:
    interrupt(scorer, tmp_path / "a.jsonl")
    bias = next(p for name, p in scorer.model.heads.named_parameters() if "bias" in name)
    with torch.no_grad():
        bias += 0.01
    try:
        with pytest.raises(ConfigError, match="another model"):
            score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")
    finally:
        with torch.no_grad():
            bias -= 0.01


def test_overwrite_starts_anew_only_if_settings_changed(
    model: RewardModel, scorer: RewardScorer, tmp_path: Path
) -> None:
    output = tmp_path / "a.jsonl"
    interrupt(scorer, output)
    assert score_file(scorer, survey(CHAINS), output, overwrite=True).num_resumed == 2 * BLOCK
    with pytest.raises(OutputError, match="exists"):
        score_file(scorer, survey(CHAINS), output)
    output.unlink()
    interrupt(scorer, output)
    other = RewardScorer(model, "last")
    assert score_file(other, survey(CHAINS), output, overwrite=True).num_resumed == 0
    assert {row["aggregation"] for row in rows_of(output)} == {"last"}


def test_lost_settings_are_refused(scorer: RewardScorer, tmp_path: Path) -> None:
    rows = interrupt(scorer, tmp_path / "a.jsonl")
    rows.with_name(f"{rows.name}.json").write_text("{")
    with pytest.raises(ConfigError, match="model unknown"):
        score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")


def test_full_disk_keeps_the_finished_blocks(
    scorer: RewardScorer, complete: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.jsonl"
    free = iter([True, True, True])

    def fsync(descriptor: int) -> None:
        if not next(free, False):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match=r"No space left.*8 rows are safe.*continues"):
            score_file(scorer, survey(CHAINS), output)
    assert not output.exists()
    assert score_file(scorer, survey(CHAINS), output).num_resumed >= 2 * BLOCK
    assert output.read_bytes() == complete


def test_a_folder_that_cannot_be_written(scorer: RewardScorer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        score_file(scorer, survey(CHAINS), tmp_path / "file" / "a.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder(scorer: RewardScorer, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")


def test_two_processes_cannot_write_the_same_file(scorer: RewardScorer, tmp_path: Path) -> None:
    def second(summary: Summary) -> None:
        with pytest.raises(OutputError, match="another process"):
            score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")

    assert score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl", on_block=second).num_scored


def test_a_file_that_was_published_meanwhile_is_not_touched(
    scorer: RewardScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    output = tmp_path / "a.jsonl"
    rows = interrupt(scorer, output)

    def published(*_: object) -> None:
        rows.rename(output)

    monkeypatch.setattr(fcntl, "flock", published)
    with pytest.raises(OutputError, match="another process"):
        score_file(scorer, survey(CHAINS), output, overwrite=True)
    assert len(rows_of(output)) == 2 * BLOCK


def test_scores_that_are_not_finite_are_rows_with_a_reason(
    scorer: RewardScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scorer.model.heads,
        "forward",
        lambda states: torch.full((len(states), scorer.spec.num_columns), torch.nan),
    )
    monkeypatch.setattr(batch, "_settings", lambda *_: {})
    summary = score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl")
    assert summary.num_scored == 0
    rows = rows_of(tmp_path / "a.jsonl")
    assert {row["reward"] for row in rows} == {None}
    assert all(row["reason"] for row in rows)


class Growing:
    """An input that gains a chain each time it is read."""

    def __init__(self) -> None:
        self.length = 5

    def __iter__(self) -> Iterator[Chain]:
        self.length += 1
        return iter(CHAINS[: self.length])


def test_an_input_that_changes_is_an_error(scorer: RewardScorer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input changed"):
        score_file(scorer, survey(Growing()), tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_survey_needs_a_record_and_tells_inputs_apart() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        survey([])
    assert survey(CHAINS).fingerprint == survey(list(CHAINS)).fingerprint
    assert survey(CHAINS).fingerprint != survey(CHAINS[::-1]).fingerprint


@pytest.mark.parametrize("name", ["a.csv", "a"])
def test_unknown_kinds_of_output_are_refused(
    scorer: RewardScorer, tmp_path: Path, name: str
) -> None:
    with pytest.raises(OutputError, match=r"\.parquet"):
        score_file(scorer, survey(CHAINS), tmp_path / name)


def test_lock_is_optional(
    scorer: RewardScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert score_file(scorer, survey(CHAINS), tmp_path / "a.jsonl").num_records == len(CHAINS)
    assert partial.PartialFile(tmp_path / "a.jsonl", {}, 1).path.name == "a.jsonl.partial"
