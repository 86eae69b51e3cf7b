"""The pass of a frozen backbone: what it computes, what it leaves out, how it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch

from prm.errors import ConfigError, OutputError
from prm.models.reward_model import RewardModel
from prm.training.cache import states as state_cache
from prm.training.cache.states import StateCache, identity, part_of, weights_digest
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree
from tests.outcome_models import outcome_model
from tests.tiny_models import tiny_model

PROMPT = Segment((5, 6, 7, 8))


@dataclass(frozen=True)
class Item:
    """What a cache looks at."""

    tree: TokenTree


def responses(*lasts: int, prompt: Segment = PROMPT) -> Item:
    """Return a prompt with one response per number."""
    return Item(TokenTree((prompt, *(Segment((9, last), 0, (1,)) for last in lasts))))


CHAINS = [
    Item(TokenTree((Segment((4, 5 + index)), Segment((6, 7, 8, 9, 10), 0, (1, 4)))))
    for index in range(6)
]


class Recorded(NamedTuple):
    """A cache, and how many tokens each of its passes computed."""

    cache: StateCache
    passes: list[int]


def cache_of(model: RewardModel, folder: Path, max_tokens: int = 64, **options: Any) -> Recorded:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    cache = StateCache(folder, model, trainer, max_tokens, **options)
    passes: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].num_tokens))
    return Recorded(cache, passes)


@pytest.fixture(scope="module")
def shared_model() -> RewardModel:
    return outcome_model()


@pytest.fixture
def model(shared_model: RewardModel) -> Iterator[RewardModel]:
    yield shared_model
    shared_model.backbone._forward_pre_hooks.clear()


def states(model: RewardModel, items: Sequence[Item]) -> torch.Tensor:
    with torch.no_grad():
        reads = model(pack([item.tree for item in items])).reads
    assert reads is not None
    return reads


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_it_gives_the_states_of_full_passes(tmp_path: Path, family: str) -> None:
    """Mistral's window makes it run on unrolled paths."""
    model = outcome_model(family)
    items = [*CHAINS, responses(1, 2, 3)]
    packed = cache_of(model, tmp_path).cache.packer(items)
    found = packed([item.tree for item in items])
    torch.testing.assert_close(found.states, states(model, items), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("read_at", ["last", "mean", "pooler"])
def test_it_gives_the_states_of_an_encoder(tmp_path: Path, read_at: str) -> None:
    model = outcome_model("bert", read_at)
    items = [responses(1, 2), responses(3)]
    packed = cache_of(model, tmp_path).cache.packer(items)
    found = packed([item.tree for item in items])
    torch.testing.assert_close(found.states, states(model, items), rtol=1e-5, atol=1e-5)


def test_prompts_are_run_once_and_nothing_twice(tmp_path: Path, model: RewardModel) -> None:
    cache, passes = cache_of(model, tmp_path)
    cache.packer([responses(1, 2), CHAINS[0], responses(3), responses(2, 1)])
    assert sum(passes) == 4 + 3 * 2 + 7
    cache.packer([responses(3, 1), responses(1)])
    assert sum(passes) == 4 + 3 * 2 + 7


def test_only_what_is_new_is_computed(tmp_path: Path, model: RewardModel) -> None:
    cache_of(model, tmp_path).cache.packer([responses(1, 2)])
    cache, passes = cache_of(model, tmp_path)
    passes.clear()
    cache.packer([responses(1, 2, 3), CHAINS[0]])
    assert sum(passes) == (4 + 2) + 7


def test_passes_keep_to_the_budget(tmp_path: Path, model: RewardModel) -> None:
    cache, passes = cache_of(model, tmp_path, max_tokens=14)
    cache.packer(CHAINS)
    assert passes == [14, 14, 14]


def test_an_interrupted_pass_goes_on(tmp_path: Path, model: RewardModel) -> None:
    cache, passes = cache_of(model, tmp_path, max_tokens=7, write_every=0.0)

    def killed(_: Any, __: Any) -> None:
        if len(passes) > 4:
            raise KeyboardInterrupt

    handle = model.backbone.register_forward_pre_hook(killed)
    with pytest.raises(KeyboardInterrupt):
        cache.packer(CHAINS)
    handle.remove()
    again, passes = cache_of(model, tmp_path, max_tokens=7)
    packed = again.packer(CHAINS)
    assert passes == [7, 7]
    found = packed([item.tree for item in CHAINS])
    torch.testing.assert_close(found.states, states(model, CHAINS), rtol=1e-5, atol=1e-5)


def test_the_mode_of_the_model_stays(tmp_path: Path, model: RewardModel) -> None:
    model.train()
    cache_of(model, tmp_path).cache.packer(CHAINS)
    assert model.training
    model.eval()


def test_the_size_is_said_and_must_fit(
    tmp_path: Path,
    model: RewardModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, passes = cache_of(model, tmp_path)
    monkeypatch.setattr(state_cache.shutil, "disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(OutputError, match=r"do not fit on the disk.*model.state_cache"):
        cache.packer(CHAINS)
    assert "6 of 6 are computed: 12 reads x 32 x 4 bytes" in caplog.text
    assert passes == []


def key(model: RewardModel, precision: str = "32-true") -> object:
    return identity(model.backbone, precision)["key"]


def test_the_key_is_made_of_what_decides_the_states() -> None:
    expected = key(tiny_model())
    assert key(tiny_model()) == key(tiny_model(head="mlp")) == expected
    changed = tiny_model()
    with torch.no_grad():
        next(changed.backbone.parameters())[0, 0] += 1e-3
    other_config = tiny_model()
    other_config.backbone.model.config.rms_norm_eps = 1e-3
    keys = [
        expected,
        key(changed),
        key(other_config),
        key(tiny_model().bfloat16()),
        key(tiny_model(), "bf16-mixed"),
        key(tiny_model("llama")),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_is_the_same_wherever_the_weights_come_from() -> None:
    named = tiny_model()
    named.backbone.model.config._name_or_path = "elsewhere"
    named.backbone.model.config.id2label = {0: "clarity"}
    assert key(named) == key(tiny_model())
    assert key(tiny_model(), "bf16-true") == key(tiny_model())


def test_encoders_differ_by_where_they_are_read() -> None:
    assert key(outcome_model("bert", "mean")) != key(outcome_model("bert", "last"))


def test_weights_that_are_not_here_are_refused() -> None:
    """DeepSpeed leaves an empty tensor and the shape that it had."""
    split = torch.nn.Linear(2, 2)
    split.weight.ds_shape = torch.Size([2, 2])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="cannot read weights that DeepSpeed split"):
        weights_digest(split)


def test_a_part_of_a_tree_keeps_its_paths() -> None:
    tree = TokenTree(
        (
            Segment((1,)),
            Segment((2,), 0, (0,)),
            Segment((3,), 0, (0,)),
            Segment((4,), 2, (0,)),
        )
    )
    assert part_of(tree, (3,)) == TokenTree(
        (Segment((1,)), Segment((3,), 0), Segment((4,), 1, (0,)))
    )
    assert part_of(tree, (1, 2, 3)) == tree
