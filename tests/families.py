"""Every decoder and encoder of the installed transformers, built tiny from its default config."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel
from transformers.models.auto import modeling_auto

SIZES: dict[str, int] = {
    r"vocab_size|decoder_vocab_size|vocab_size_per_layer_input|encoder_hash_byte_group_vocab": 320,
    r"(entity|pronunciation|shape|ngram)_vocab_size|ngram_vocab_size_base": 320,
    r"hidden_size|d_model|n_embd|embed_dim|emb_dim|dim|word_embed_proj_dim|embedding_size": 32,
    r"hidden_size_global|adapter_(in_dim|out_dim|input_size)": 32,
    r"input_embedding_size|rotary_emb_base_dim|true_hidden_size|attention_hidden_size": 32,
    r"(\w+_)?intermediate_size|ffn_dim|n_inner|d_inner|d_ff|hidden_dim|intermediate_size_mlp": 64,
    r"(expert_)?ffn_hidden_size|(en|de)coder_ffn_dim|dff|shared_expert_intermediate_size": 64,
    r"num_hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|depth": 2,
    r"num_attention_heads|n_heads?|num_heads|(en|de)coder_attention_heads|\w+_attention_heads": 4,
    r"num_key_value_heads|num_attention_groups|n_head_kv|kv_n_heads|\w+_num_key_value_heads": 2,
    r"(?!qk_)(\w+_)?head_dim|d_kv|d_head|kv_channels|qk_(nope|rope)_head_dim|v_head_dim": 8,
    r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|n_experts": 4,
    r"num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k_experts|experts_per_token": 2,
    r"n_group|num_expert_group|topk_group|n(um)?_shared_experts|first_k_dense_replace": 1,
    r"kv_lora_rank|q_lora_rank|o_lora_rank|lora_rank|adapter_rank": 8,
    r"mamba_d_state|state_size|ssm_state_size": 8,
    r"mamba_n_heads|mamba_num_heads|linear_num_((key|value)_)?heads": 4,
    r"mamba_d_head|mamba_head_dim|mamba_headdim|linear_key_head_dim|linear_value_head_dim": 16,
    r"mamba_n_groups|n_groups|mamba_ngroups": 1,
    r"mamba_dt_rank|time_step_rank": 4,
    r"mamba_chunk_size|chunk_size": 16,
    r"rotary_dim": 8,
    r"lru_width|d_latents|intra_bottleneck_size|attention_head_size": 32,
    r"index_n_heads|index_topk|index_head_dim": 8,
    r"index_block_size": 16,
    r"num_nextn_predict_layers|num_kv_shared_layers": 0,
    r"altup_num_inputs|zero_expert_num": 2,
    r"hidden_size_per_layer_input|laurel_rank": 8,
}
"""Names of sizes, as patterns, and what a tiny model has in their place."""

CAUSAL = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

ENCODERS = {
    *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    *modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    *modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
} - CAUSAL

_ROPE = {"rope_type": "default", "rope_theta": 1e4}

FIELDS: dict[str, dict[str, Any]] = {
    "blt": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense", "sparse"]},
    "emu3": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4}},
    "emu3_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1], "attn_resolutions": []},
    "esm": {"vocab_size": 320, "pad_token_id": 1, "mask_token_id": 5},
    "esmc": {"vocab_size": 320},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "block_repeats": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 48},
    "mamba2": {"head_dim": 16},
    "minimax_m3_vl_text": {
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "minimax_m3_sparse"],
    },
    "ministral": {"head_dim": 8},
    "mistral4": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "neomme": {"head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
        "ple_embed_dim": 32,
        "ngram_vocab_size_base": 128,
        "split_ngram_parts": 4,
    },
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "num_buckets": 4,
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_headdim": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
}
"""What a family needs beside the sizes."""

NOT_BUILT = {
    "gemma3n": "reads images and sound with the package timm; its text model is `gemma3n_text`",
    "gemma4_assistant": "drafts tokens for another model, whose keys it needs",
    "gemma4_unified_assistant": "drafts tokens for another model, whose keys it needs",
    "layoutlmv2": "reads images of pages with the package detectron2",
    "trocr": "the decoder of an encoder-decoder, which reads images",
}
"""Families that no test builds, and why."""


def families() -> list[str]:
    """Return the names of all families, in order."""
    return sorted(CAUSAL | ENCODERS)


def default_config(family: str) -> Any:
    """Return the configuration that a family has without any option."""
    return CONFIG_MAPPING[family]()


def tiny_config(family: str, **fields: Any) -> Any:
    """Return a family's default configuration with tiny sizes."""
    default = default_config(family)
    given = {**shrunk(default), **FIELDS.get(family, {}), **fields}
    return CONFIG_MAPPING[family](**copy.deepcopy(given))


def shrunk(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that a tiny model has other values of."""
    fields = _shrunk(config)
    for name, part in parts(config).items():
        own = FIELDS.get(part.model_type, {})
        fields[name] = {**shrunk(part), **own, "model_type": part.model_type}
    return fields


def parts(config: Any) -> dict[str, Any]:
    """Return the configurations within a configuration, by their fields."""
    named = {name: getattr(config, name, None) for name in getattr(config, "sub_configs", {})}
    return {name: part for name, part in named.items() if part is not None}


def noise(family: str) -> dict[str, Any]:
    """Return fields with which a family has dropout and jitter wherever it can."""
    config = default_config(family)
    given = {**shrunk(config), **FIELDS.get(family, {})}
    within = {name: {**given[name], **_noise(part)} for name, part in parts(config).items()}
    return {**within, **_noise(config)}


def _noise(config: Any) -> dict[str, float]:
    kept = {"diffllama": "attention_dropout"}.get(config.model_type)  # refuses it itself
    rates = {float: 0.3, type(None): 0.3, int: 1}
    return {
        name: rates[type(value)]
        for name, value in vars(config).items()
        if re.search("drop|jitter", name) and type(value) in rates and name != kept
    }


def _shrunk(config: Any) -> dict[str, Any]:
    values = {k: v for k, v in vars(config).items() if not k.startswith("_")}
    fields = {name: _smaller(name, value) for name, value in values.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    heads = next((values[n] for n in ("num_attention_heads", "n_head") if n in values), None)
    if "num_key_value_heads" in fields and values["num_key_value_heads"] == heads:
        fields["num_key_value_heads"] = 4
    return fields | _layers(values)


def _smaller(name: str, value: Any) -> Any:
    if name.endswith(("token_id", "token_index")):
        return value % 16 if isinstance(value, int) and value > 300 else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    for pattern, size in SIZES.items():
        if re.fullmatch(pattern, name):
            return min(size, value)
    return None


def _layers(values: dict[str, Any]) -> dict[str, Any]:
    """Return one layer of each type, or two, and lists by layer of the same length."""
    types = values.get("layer_types") or values.get("layers_block_type")
    if not types:
        return {}
    number = len(types)
    mlps = values.get("mlp_layer_types") or [None] * number
    kinds = list(zip(types, mlps, strict=True))
    chosen = sorted({kind: kinds.index(kind) for kind in kinds}.values())
    if len(chosen) == 1:
        chosen = [chosen[0], number - 1]
    lists = {
        name: [value[index] for index in chosen]
        for name, value in values.items()
        if isinstance(value, list | tuple) and len(value) == number and number > 1
    }
    return {"num_hidden_layers": len(chosen), **lists}


def build(config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build a model whose tokens see each other clearly, as those of a trained one do."""
    torch.manual_seed(0)
    config.architectures = config.architectures or []
    return randomize(AutoModel.from_config(config, dtype=dtype))


def randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model's matrices the size that those of trained ones have, and biases of heads too."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and weight.is_floating_point() and not name.endswith("A_log"):
                weight.normal_(std=1 / math.sqrt(weight.shape[-1]))
            elif name.endswith(("head.bias", "decoder.bias")):
                weight.normal_()
    return model.eval()
