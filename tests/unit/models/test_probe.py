"""The probe trusts a tree only where it is exact, however little a model was trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prm.errors import ModelError
from prm.models.backbone import Backbone
from prm.models.float32 import in_float32
from prm.models.probe import change
from prm.models.reward_model import embed_new_tokens
from prm.trees.packing import PackedTrees, pack
from prm.trees.tree import Segment, TokenTree
from tests.families import build, tiny_config

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
QWEN2_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
NO_TREE: dict[str, tuple[dict[str, Any], str]] = {
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of type conv"),
    "bloom": ({"n_layer": 2, "n_head": 4}, "attends by code of its own"),
    "jamba": ({"num_hidden_layers": 8, "mamba_d_state": 4}, "layers of type linear_attention"),
    "qwen2_moe": (
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, **QWEN2_MOE},
        "window of 8",
    ),
    "llama4_text": (
        {
            "head_dim": 8,
            "intermediate_size_mlp": 32,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
        },
        "counts tokens by their place",
    ),
    "gpt_neo": (
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        "attends by code of its own",
    ),
    "gemma2": ({"head_dim": 8}, "soft caps"),
}


def stock(family: str, dtype: torch.dtype = torch.float32, **fields: Any) -> PreTrainedModel:
    """Return a freshly initialized model."""
    config = AutoConfig.for_model(family, **{**SIZES, **fields})
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype)
    return model.eval()


def checked(family: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Backbone:
    """Return a backbone that knows how it runs."""
    backbone = Backbone(stock(family, dtype, **fields), 256, encoders=True)
    backbone.check(torch.device("cpu"))
    return backbone


def flat(*paths: tuple[int, ...]) -> PackedTrees:
    """Pack paths that share nothing, read where they end."""
    return pack([TokenTree((Segment(path, reads=(len(path) - 1,)),)) for path in paths])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", NO_TREE)
def test_an_untrained_model_without_trees_is_unrolled(
    family: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    fields, reason = NO_TREE[family]
    assert checked(family, dtype, **fields).mode == "unrolled"
    assert reason in caplog.text


def test_a_window_that_reaches_no_attention_call_is_seen_only_where_it_matters() -> None:
    fields = {"use_sliding_window": True, "max_window_layers": 2, **QWEN2_MOE}
    assert checked("qwen2_moe", sliding_window=255, **fields).mode == "unrolled"
    assert checked("qwen2_moe", sliding_window=256, **fields).mode == "tree"
    assert checked("qwen2_moe", **QWEN2_MOE).mode == "tree"


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_bfloat16_keeps_the_tree(family: str) -> None:
    fields = {"num_key_value_heads": 4, "n_embd": 32, "n_head": 4, "n_layer": 2}
    assert checked(family, torch.bfloat16, **fields).mode == "tree"


def test_tokens_that_were_never_trained_do_not_decide() -> None:
    """Unused special tokens at the vocabulary's start may have embeddings of any size."""
    model = stock("llama", torch.bfloat16)
    with torch.no_grad():
        model.get_input_embeddings().weight[:70] *= 1e4
    backbone = Backbone(model, 256)
    backbone.check(torch.device("cpu"))
    assert backbone.mode == "tree"


def test_float32_is_run_on_the_weights_of_bfloat16_and_leaves_them() -> None:
    half, full = stock("qwen2", torch.bfloat16), stock("qwen2", torch.bfloat16).float()
    before = {name: value.clone() for name, value in half.named_parameters()}
    ids = torch.arange(100, 140)[None]
    with torch.no_grad(), in_float32(half):
        states = half(input_ids=ids).last_hidden_state
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, full(input_ids=ids).last_hidden_state)
    assert all(value.equal(before[name]) for name, value in half.named_parameters())
    assert half(input_ids=ids).last_hidden_state.dtype == torch.bfloat16


def test_a_model_whose_numbers_are_random_is_refused() -> None:
    model = stock("llama")
    model.norm.register_forward_hook(lambda _m, _i, output: output + torch.rand_like(output))
    with pytest.raises(ModelError, match="other numbers for the same tokens"):
        Backbone(model, 256).check(torch.device("cpu"))


def test_a_model_whose_attention_does_not_run_is_refused() -> None:
    """As that of MRA, whose kernels run on a GPU only: elsewhere it gives zeros."""
    model = stock("llama")
    for layer in model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(ModelError, match="lets no token see what stands before it"):
        Backbone(model, 256).check(torch.device("cpu"))


def test_an_encoder_that_is_random_beyond_its_chunks_is_refused() -> None:
    """As Reformer, which hashes at random once a text is longer than a chunk."""
    model = stock("bert", chunk_length=64, max_position_embeddings=256)

    def hash_at_random(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + torch.rand_like(output) * (output.shape[1] > 64)

    model.encoder.layer[0].output.register_forward_hook(hash_at_random)
    with pytest.raises(ModelError, match="other numbers for the same tokens"):
        Backbone(model, 256, encoders=True).check(torch.device("cpu"))


def test_states_of_another_width_than_the_configuration_says_are_refused() -> None:
    model = stock("llama")
    model.norm.register_forward_hook(lambda _m, _i, output: torch.cat([output, output], -1))
    with pytest.raises(ModelError, match="another width than its configuration says"):
        Backbone(model, 256).check(torch.device("cpu"))


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_picks_tokens_runs_rows_of_equal_length() -> None:
    """Which of equal scores is taken changes with a row's padding."""
    config = tiny_config("deepseek_v32")
    backbone = Backbone(build(config), 256)
    backbone.check(torch.device("cpu"))
    assert (backbone.mode, backbone.padding_leaks) == ("unrolled", True)


def test_a_model_without_a_table_of_embeddings_is_refused_in_one_line() -> None:
    model = build(tiny_config("canine"))
    with pytest.raises(ModelError, match="CanineModel has no table of token embeddings"):
        embed_new_tokens(model, {399}, set())


def test_what_gives_no_hidden_states_is_refused_in_one_line() -> None:
    model = stock("llama")
    model.forward = lambda **_: object()  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="LlamaModel gives no hidden states"):
        Backbone(model, 256).check(torch.device("cpu"))


def test_a_layer_that_sees_its_neighbours_is_found_without_its_name() -> None:
    """The smallest leak between paths that lie side by side is found."""
    model = stock("qwen2")

    def mix(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 1e-3 * output.roll(1, dims=1) * (torch.arange(output.shape[1]) > 0)[:, None]

    model.layers[0].mlp.register_forward_hook(mix)
    backbone = Backbone(model, 256)
    backbone.check(torch.device("cpu"))
    assert backbone.mode == "unrolled"


def test_change_is_relative() -> None:
    assert change(torch.tensor([10.0, 1.0]), torch.tensor([10.0, 2.0])) == pytest.approx(0.1)
