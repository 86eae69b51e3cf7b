"""The next-token regularizer with pretrained models, tied and untied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM

from prm.models.reward_model import RewardModel
from prm.models.sources import load_tokenizer
from prm.records import Chain
from prm.spec import RewardSpec
from prm.trees.tree import flat_path
from tests.families import randomize, tiny_config
from tests.runs import fit, metrics, read_jsonl, weights, write_data, write_pretrained


def pretrained(**model: Any) -> dict[str, Any]:
    backbone = {"class_path": "prm.models.sources.Pretrained", "init_args": {"path": "base"}}
    return {"backbone": backbone, "language_model": {"loss_weight": 0.5}, **model}


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_it_trains_on_the_models_own_output_embeddings(run_dir: Path, tie: bool) -> None:
    write_data(run_dir)
    write_pretrained(run_dir / "base", tie=tie)
    run = fit(run_dir, model=pretrained(), trainer={"max_epochs": 4})
    losses = metrics(run, "train/loss_language_model")
    assert losses[-1] < losses[0]
    heads = [name for name in weights(run) if name.startswith("language_head")]
    assert heads == ([] if tie else ["language_head.model.lm_head.weight"])
    assert not [name for name in (run / "model").iterdir() if "head" in name.name]


def test_untied_output_embeddings_stay_as_they_are(run_dir: Path) -> None:
    write_data(run_dir)
    write_pretrained(run_dir / "base")
    head = weights(fit(run_dir, model=pretrained()))["language_head.model.lm_head.weight"]
    stored = AutoModelForCausalLM.from_pretrained("base").get_output_embeddings().weight
    assert torch.equal(head, stored)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "unused", "fields"),
    [
        ("qwen2", 0, {"tie_word_embeddings": False}),
        ("qwen2", 20, {"tie_word_embeddings": False}),
        ("cohere", 0, {"logit_scale": 0.25}),
        ("granite", 20, {"logits_scaling": 8.0}),
        ("gemma2", 20, {"final_logit_softcapping": 3.0}),
        ("phi", 0, {}),
    ],
)
def test_the_first_loss_is_the_stock_models(
    run_dir: Path, family: str, unused: int, fields: dict[str, Any]
) -> None:
    """Over the tokens of the steps; the marker, which the model never had, is none of them."""
    write_data(run_dir, 24, 3)
    write_language_model(run_dir / "base", family, unused, **fields)
    run = fit(
        run_dir,
        model=pretrained(language_model={"loss_weight": 0.5, "tokens": "all"}),
        data={"batch_size": 24},
    )
    losses = [loss for row in read_jsonl(run_dir / "train.jsonl") for loss in step_losses(row)]
    got = metrics(run, "train/loss_language_model")[0]
    assert got == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def write_language_model(folder: Path, family: str, unused: int, **fields: Any) -> None:
    """Write a language model with rows that belong to no token and hold anything."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(family, vocab_size=len(tokenizer) + unused, **fields)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    model = randomize(AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        model.get_input_embeddings().weight[len(tokenizer) :] = 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def step_losses(row: dict[str, Any]) -> list[float]:
    """Return -log p of each token of the steps of a chain, from the stock model's own logits."""
    stock = AutoModelForCausalLM.from_pretrained("base").eval()
    tokenizer = load_tokenizer("base")
    marker = len(tokenizer)
    model = RewardModel(stock.base_model, tokenizer, RewardSpec())
    prompt = model.builder.build(Chain(row["prompt"], row["completions"])).tree.segments[0]
    ids, reads = flat_path(model.builder.build(Chain(row["prompt"], row["completions"])).tree)
    logits = stock(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    logits[:, marker : marker + 1] = -torch.inf
    chances = logits.log_softmax(-1)
    places = [at for at in range(len(prompt.input_ids), len(ids)) if at not in reads]
    return [-chances[at - 1, ids[at]].item() for at in places]
