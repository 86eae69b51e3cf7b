"""Backbones: who shares prompts, who is unrolled, who is refused, and gradients of both."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tiny_models import (
    CHAINS,
    TREE_FAMILIES,
    UNROLLED_FAMILIES,
    columns_alone,
    columns_packed,
    tiny_backbone,
    tiny_model,
    tiny_tokenizer,
)
from transformers import BertConfig, BertModel

from prm.errors import ConfigError, ModelError
from prm.models.backbone import Backbone
from prm.models.probe import change
from prm.models.reward_model import RewardModel
from prm.models.sources import FromScratch, Pretrained, load_tokenizer, train_tokenizer
from prm.models.tree_attention import TREE_ATTENTION
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree
from tests.families import build as vivid
from tests.families import tiny_config
from tests.tolerance import assert_same_gradients


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_tree_positions_never_meet_stock_attention(family: str) -> None:
    """Stock `sdpa` takes the jumps of tree positions for packing, silently, and scores wrongly."""
    model = tiny_model(family)
    columns_packed(model, CHAINS)
    assert model.backbone.mode == "tree"
    assert model.backbone.model.config._attn_implementation == TREE_ATTENTION


@pytest.mark.parametrize(("family", "fields"), UNROLLED_FAMILIES.items())
def test_what_a_tree_cannot_serve_is_unrolled_with_one_log_line(
    family: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(family, **fields)
    with caplog.at_level(logging.WARNING, "prm.models.backbone"):
        packed = columns_packed(model, CHAINS)
        columns_packed(model, CHAINS[:1])
    assert model.backbone.mode == "unrolled"
    assert len(caplog.records) == 1
    assert "runs on unrolled paths" in caplog.text
    for chain, columns in zip(CHAINS, packed, strict=True):
        torch.testing.assert_close(columns, columns_alone(model, chain), rtol=1e-5, atol=1e-5)


def test_a_window_longer_than_any_chain_does_not_matter() -> None:
    model = tiny_model("mistral", sliding_window=256)
    columns_packed(model, CHAINS)
    assert model.backbone.mode == "tree"


@pytest.mark.slow
def test_a_recurrent_model_is_unrolled() -> None:
    model = tiny_model("mamba")
    packed = columns_packed(model, CHAINS)
    assert model.backbone.mode == "unrolled"
    for chain, columns in zip(CHAINS, packed, strict=True):
        torch.testing.assert_close(columns, columns_alone(model, chain), rtol=1e-5, atol=1e-5)


def test_a_bidirectional_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match=r"BertModel lets tokens see later tokens"):
        columns_packed(tiny_model("bert"), CHAINS)


def test_autocast_does_not_decide_how_a_model_runs() -> None:
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        packed = columns_packed(model, CHAINS)
    assert model.backbone.mode == "tree"
    for chain, columns in zip(CHAINS, packed, strict=True):
        assert columns.dtype == torch.float32
        torch.testing.assert_close(columns, columns_alone(model, chain), rtol=0.1, atol=0.1)


def test_autocast_trains_with_the_gradient_of_float32_within_its_precision() -> None:
    model = tiny_model()
    exact = torch.cat([g.flatten() for g in gradients(model, "tree")])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.cat([g.flatten() for g in gradients(model, "tree")])
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99


def test_training_mode_is_kept() -> None:
    model = tiny_model().train()
    columns_packed(model, CHAINS)
    assert model.backbone.model.training


def test_dropout_is_off() -> None:
    model = tiny_model("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).train()
    first, second = (columns_packed(model, CHAINS[:1])[0] for _ in range(2))
    assert first.equal(second)
    model = tiny_model("qwen2", attention_dropout=0.5).train()
    assert columns_packed(model, CHAINS[:1])[0].equal(columns_packed(model, CHAINS[:1])[0])


def gradients(model: RewardModel, mode: str) -> list[torch.Tensor]:
    """Return the gradient of a loss that reads the shared prompt and every step."""
    model.zero_grad()
    columns_packed(model, CHAINS[:1])
    model.backbone.mode = mode  # type: ignore[assignment]
    model.backbone.set_attention(TREE_ATTENTION if mode == "tree" else "sdpa")
    trees = pack([model.builder.build(chain).tree for chain in CHAINS])
    output = model(trees)
    (output.columns.square().sum() + output.states.square().mean()).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_unrolled_paths_give_the_gradient_of_the_tree() -> None:
    """Tokens that several paths share count once."""
    model = tiny_model("llama")
    assert_same_gradients(gradients(model, "unrolled"), gradients(model, "tree"))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("kernel", ["segments", "dense"])
def test_gradient_checkpointing_gives_the_same_gradient(kernel: Any) -> None:
    plain = tiny_model("qwen2", kernel=kernel)
    checkpointed = tiny_model("qwen2", kernel=kernel).train()
    checkpointed.backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    for one, other in zip(gradients(plain, "tree"), gradients(checkpointed, "tree"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_from_scratch_is_the_same_for_the_same_seed() -> None:
    tokenizer = tiny_tokenizer()
    one, same = (tiny_backbone("qwen2", tokenizer) for _ in range(2))
    config = {"model_type": "qwen2", **{k: getattr(one.config, k) for k in ("hidden_size",)}}
    assert one.get_input_embeddings().weight.equal(same.get_input_embeddings().weight)
    seeds = [
        FromScratch({**config, "num_hidden_layers": 1, "num_attention_heads": 2}, seed=seed)
        .model(tokenizer)
        .get_input_embeddings()
        .weight
        for seed in (0, 1)
    ]
    assert not seeds[0].equal(seeds[1])


def test_from_scratch_leaves_the_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    tiny_backbone()
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "nonsense"}, {"model_type": "qwen2", "hidden_size": "wide"}]
)
def test_a_configuration_that_makes_no_model_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FromScratch(config).model(tiny_tokenizer())


def test_digits_are_tokens_of_their_own() -> None:
    tokenizer = train_tokenizer(["123 123 123 123"] * 20, 400)
    assert len(tokenizer.tokenize("123")) == 3


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    text = "naïve ∑x² 答案 \n\t 12"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("load", [load_tokenizer, lambda path: Pretrained(path).model(None)])
def test_a_folder_without_a_model_is_an_error(load: Any, tmp_path: Any) -> None:
    with pytest.raises(ModelError):
        load(str(tmp_path))


def test_a_pad_token_that_is_eos_is_replaced(tmp_path: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id not in (None, loaded.eos_token_id)


def test_the_hidden_size_is_that_of_the_text_model() -> None:
    assert Backbone(tiny_backbone("gpt2"), 64).hidden_size == 32


ROWS_OF_EQUAL_LENGTH = (
    "convbert",
    "cpmant",
    "fnet",
    "funnel",
    "mobilebert",
    "nystromformer",
    "yoso",
)
PADDED_ROWS = {
    "bert": {},
    "big_bird": {"block_size": 4},
    "deberta-v2": {},
    "longformer": {"attention_window": 8},
    "modernbert": {"local_attention": 8},
    "mpnet": {},
    "squeezebert": {},
    "xlnet": {},
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*ROWS_OF_EQUAL_LENGTH, *PADDED_ROWS])
def test_an_encoder_reads_a_text_alike_alone_and_beside_longer_ones(family: str) -> None:
    """Convolutions, pooling, landmarks, hashes and bottlenecks let padding into the text."""
    fields: dict[str, Any] = dict(PADDED_ROWS.get(family, {}))
    model = vivid(tiny_config(family, **fields))
    backbone = Backbone(model, 128, read_at="mean", encoders=True)
    ids = torch.arange(80, 200).tolist()
    texts = [tuple(ids[:size]) for size in (11, 64, 9, 60, 64, 3)]
    trees = [TokenTree((Segment(text, reads=(len(text) - 1,)),)) for text in texts]
    together, _ = backbone(pack(trees))
    assert backbone.mode == "encoder"
    assert backbone.padding_leaks == (family in ROWS_OF_EQUAL_LENGTH)
    for tree, state in zip(trees, together, strict=True):
        assert change(backbone(pack([tree]))[0][0], state) < 2e-5


def test_big_bird_attends_fully_from_its_first_text_on() -> None:
    """It would for good, but only after a short text: a long one before read otherwise."""
    backbone = Backbone(vivid(tiny_config("big_bird", block_size=4)), 128, encoders=True)
    long = TokenTree((Segment(tuple(range(80, 180)), reads=(99,)),))
    stock = vivid(backbone.model.config)
    expected = stock(input_ids=torch.arange(80, 180)[None]).last_hidden_state[0, -1]
    assert backbone.model.config.attention_type == "original_full"
    assert change(expected, backbone(pack([long]))[0][0]) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "read_at", "unused"),
    [
        ("bert", "last", {"pooler"}),
        ("bert", "mean", {"pooler"}),
        ("bert", "pooler", set()),
        ("longformer", "mean", {"encoder", "pooler"}),
        ("xlnet", "last", {"layer", "mask_emb"}),
        ("gemma3", "last", {"vision_tower", "multi_modal_projector"}),
        ("mixtral", "last", set()),
        ("deepseek_v32", "last", set()),
    ],
)
def test_weights_that_no_read_depends_on_are_known(
    family: str, read_at: Any, unused: set[str]
) -> None:
    model = vivid(tiny_config(family)).train()
    backbone = Backbone(model, 128, read_at=read_at, encoders=True)
    assert {name.partition(".")[0] for name in backbone.unused_weights()} == unused
    assert model.training
    model.requires_grad_(False)
    assert backbone.unused_weights() == []


def test_a_pooler_that_is_missing_is_named() -> None:
    backbone = Backbone(vivid(tiny_config("distilbert")), 128, read_at="pooler", encoders=True)
    assert backbone.unused_weights() == []
    with pytest.raises(ModelError, match="DistilBertModel has no pooler"):
        backbone.check(torch.device("cpu"))


def test_heads_are_as_wide_as_projected_states() -> None:
    """OPT-350m has states of 512 numbers, and a hidden_size of 1024."""
    model = tiny_model("opt", ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=300)
    assert model.backbone.hidden_size == 16
    packed = columns_packed(model, CHAINS)
    for chain, columns in zip(CHAINS, packed, strict=True):
        torch.testing.assert_close(columns, columns_alone(model, chain), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_a_width_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="BltModel has no hidden_size"):
        Backbone(vivid(tiny_config("blt")), 64).check(torch.device("cpu"))


def test_an_untrained_encoder_is_told_from_a_decoder() -> None:
    """Its later tokens hardly move the earlier ones yet, but they do."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    backbone = Backbone(BertModel(config).eval(), 64, encoders=True)
    backbone(pack([TokenTree((Segment((5, 6)), Segment((7, 8), 0, (1,))))]))
    assert backbone.mode == "encoder"
