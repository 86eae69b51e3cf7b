from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prm.data.sampling import Shuffled
from prm.models import checkpoint
from prm.records import Chain, Comparison
from prm.trees.units import ResponseSet
from tests.benchmarks.workloads import (
    MODEL_S,
    OUTCOME,
    PROCESS,
    TINY,
    causal_pairs,
    in_order,
    length_grouped,
    random_chains,
    random_pairs,
    write_models,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, TINY)
    return folder


@pytest.mark.parametrize("name", [OUTCOME, PROCESS])
def test_formula_counts_the_linear_weights_of_the_decoder(models: Path, name: str) -> None:
    backbone = checkpoint.load(models / name).backbone.model
    layers = [m for m in backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(layer.weight.numel() for layer in layers) == TINY.linear_parameters


def test_model_s_is_the_one_of_the_reference_figures() -> None:
    assert MODEL_S.linear_parameters == 27_262_976
    assert MODEL_S.linear_flops(tokens=10, passes=3) == 6 * 27_262_976 * 10


def test_attention_flops_are_those_of_two_products_per_visible_pair() -> None:
    mask = torch.ones(5, 8).tril(3)
    assert causal_pairs(5, before=3) == int(mask.sum())
    per_pair = 2 * 2 * MODEL_S.hidden_size * MODEL_S.num_layers
    assert MODEL_S.attention_flops(7, passes=1) == 7 * per_pair


def test_lengths_of_pairs_are_those_that_the_model_reads(models: Path) -> None:
    builder = checkpoint.load(models / OUTCOME).builder
    for pair in random_pairs(0, 5, TINY):
        record = Comparison(pair.prompt, list(pair.responses), [0, 1], objective="good")
        tree = builder.build(ResponseSet.of([record])).tree
        lengths = [len(segment.input_ids) for segment in tree.segments]
        assert lengths == [pair.num_prompt, *pair.num_responses]
        assert tree.num_tokens == pair.tree[0]


def test_lengths_of_chains_are_those_that_the_model_reads(models: Path) -> None:
    builder = checkpoint.load(models / PROCESS).builder
    for chain in random_chains(0, 5, TINY):
        tree = builder.build(Chain(chain.prompt, chain.steps)).tree
        assert tree.num_tokens == chain.length
        assert len(chain.steps) == tree.num_reads == len(chain.labels)


def test_texts_have_the_lengths_of_the_case() -> None:
    pairs = random_pairs(0, 400, MODEL_S)
    prompts = [pair.num_prompt for pair in pairs]
    responses = [length for pair in pairs for length in pair.num_responses]
    assert sum(prompts) / len(prompts) == pytest.approx(200, abs=10)
    assert sum(responses) / len(responses) == pytest.approx(155, abs=15)
    steps = [len(chain.steps) for chain in random_chains(0, 400, MODEL_S)]
    assert sum(steps) / len(steps) == pytest.approx(8.2, abs=0.5)


def test_records_arranged_for_the_shuffle_come_out_in_order() -> None:
    arranged = in_order(range(20))
    assert [arranged[place] for place in Shuffled(20, 0).order(0)] == list(range(20))


def test_bucketed_batches_hold_records_of_similar_length() -> None:
    pool = random_pairs(0, 200, TINY)
    batches = length_grouped(pool, 4, 6)
    assert [len(batch) for batch in batches] == [4] * 6
    widths = [[max(pair.lengths) for pair in batch] for batch in batches]
    spread = [max(width) - min(width) for width in widths]
    everything = [max(pair.lengths) for pair in pool]
    assert max(spread) < (max(everything) - min(everything)) / 2
