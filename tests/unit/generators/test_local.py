from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from prm.errors import ConfigError, DataError, ModelError
from prm.generators.generator import Sample, Sampling, SamplingRequest
from prm.generators.local import LocalGenerator
from prm.models.sources import train_tokenizer
from prm.spec import Template
from tests.toy_generator import language_model, tokenizer_of_characters

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tokenizer_of_characters()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    return language_model(tokenizer)


def generator(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, max_tokens: int = 24, **options
) -> LocalGenerator:
    sampling = Sampling(1.0, options.pop("top_p", 1.0), max_tokens)
    return LocalGenerator(model, tokenizer, sampling=options.pop("sampling", sampling), **options)


REQUESTS = [
    SamplingRequest("one plus one", num_samples=5, seed=1),
    SamplingRequest("two", "so far\n", 4, 2),
    SamplingRequest("a", num_samples=1, seed=3),
]


def test_samples_do_not_depend_on_the_batch(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    together = generator(model, tokenizer, batch_size=64).sample(REQUESTS)
    apart = generator(model, tokenizer, batch_size=1)
    assert together == [apart.sample([request])[0] for request in REQUESTS]
    assert together == generator(model, tokenizer, batch_size=3).sample(REQUESTS)
    assert [len(samples) for samples in together] == [5, 4, 1]
    assert len({sample.text for sample in together[0]}) == 5


def test_seed_changes_samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    own = generator(model, tokenizer)
    first, second, again = (own.sample([SamplingRequest("two", "", 3, seed)]) for seed in (0, 1, 0))
    assert first == again != second


def test_draws_follow_the_distribution_of_the_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The next token of many samples against softmax(logits), by a chi-squared test."""
    own = generator(
        model, tokenizer, max_tokens=1, template=Template(suffix="", bos="none"), batch_size=1000
    )
    (samples,) = own.sample([SamplingRequest("ab", num_samples=2000, seed=5)])
    ids = torch.tensor([tokenizer("ab", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        probabilities = model(ids).logits[0, -1].double().softmax(-1)
    observed = torch.zeros(len(tokenizer), dtype=torch.float64)
    for sample in samples:
        token = tokenizer(sample.text, add_special_tokens=False)["input_ids"]
        observed[token[0] if token else 0] += 1
    expected = 2000 * probabilities
    expected[0] = expected[:4].sum()  # special tokens have no text
    kept = expected > 5
    kept[1:4] = False
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = int(kept.sum())
    assert degrees > 5
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_stops_at_the_stop_string(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    own = generator(model, tokenizer, max_tokens=40, template=Template(suffix="", bos="none"))
    whole = own.sample([SamplingRequest("a", num_samples=20)])[0]
    for stop in ("\n", "e", "12"):
        cut = own.sample([SamplingRequest("a", num_samples=20)], stop)[0]
        for before, after in zip(whole, cut, strict=True):
            if stop in before.text:
                assert after == Sample(before.text.partition(stop)[0], "step")
            else:
                assert after == before


def test_ends_are_told_apart(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    own = generator(model, tokenizer, max_tokens=3)
    samples = own.sample([SamplingRequest("a", num_samples=100)])[0]
    ends = {sample.end for sample in samples}
    assert ends == {"end", "length"}
    assert all(len(sample.text) < 3 for sample in samples if sample.end == "end")
    assert own.num_tokens <= 300


def test_temperature_0_takes_the_most_probable_token(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    own = generator(model, tokenizer, sampling=Sampling(0.0, max_tokens=10))
    (samples,) = own.sample([SamplingRequest("two", num_samples=3)])
    ids = torch.tensor([tokenizer("two\n", add_special_tokens=False)["input_ids"]])
    ids = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), ids], dim=1)
    with torch.no_grad():
        greedy = model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(greedy[0, ids.shape[1] :], skip_special_tokens=True)
    assert {sample.text for sample in samples} == {text}
    nearly = generator(model, tokenizer, sampling=Sampling(1.0, 1e-6, 10))
    assert nearly.sample([SamplingRequest("two", num_samples=3)])[0] == samples


def test_sampling_options_of_the_model_do_not_count(tokenizer: PreTrainedTokenizerBase) -> None:
    model = language_model(tokenizer)
    before = generator(model, tokenizer).sample(REQUESTS)
    own = {"temperature": 0.1, "top_k": 2, "top_p": 0.5, "repetition_penalty": 3.0}
    model.generation_config.update(do_sample=True, **own)
    assert generator(model, tokenizer).sample(REQUESTS) == before


def test_top_p_leaves_out_the_tail(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    def texts(top_p: float) -> set[str]:
        own = generator(model, tokenizer, max_tokens=1, top_p=top_p)
        return {sample.text for sample in own.sample([SamplingRequest("a", num_samples=300)])[0]}

    assert len(texts(0.3)) < len(texts(1.0))


def test_no_more_tokens_than_there_is_room_for(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    own = generator(model, tokenizer, max_tokens=1000, template=Template(suffix="", bos="none"))
    requests = [SamplingRequest("a" * length, num_samples=2) for length in (10, 62, 63, 64)]
    *found, full = own.sample(requests)
    assert isinstance(full, DataError)
    assert "no room" in str(full)
    for samples, room in zip(found, (54, 2, 1), strict=True):
        assert all(len(sample.text) <= room for sample in samples)
    assert found[1] == own.sample([requests[1]])[0]


def test_chat_template_is_taken_where_there_is_one() -> None:
    tokenizer = tokenizer_of_characters(CHATML)
    own = LocalGenerator(language_model(tokenizer), tokenizer, sampling=Sampling(max_tokens=4))
    assert own.template == Template(style="chat", bos="one", opening="generation")
    plain = Template(prefix="<s>user\n", suffix="<s>", bos="one")
    assert own.template != plain
    conversation = ({"role": "user", "content": "a"},)
    first, second = own.sample([SamplingRequest("a"), SamplingRequest(conversation)])
    assert first == second
    (refused,) = own.sample([SamplingRequest("a </s>")])
    assert isinstance(refused, DataError)
    assert "special token" in str(refused)


def test_folder_is_loaded_and_samples_as_the_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = LocalGenerator(tmp_path, sampling=Sampling(1.0, max_tokens=24))
    assert loaded.sample(REQUESTS) == generator(model, tokenizer).sample(REQUESTS)
    assert loaded.identity()["generator"] == str(tmp_path)


def test_byte_pairs_keep_their_spaces() -> None:
    tokenizer = train_tokenizer(["1 + 1 = 2", "a b c"], 300)
    own = LocalGenerator(language_model(tokenizer), tokenizer, sampling=Sampling(1.0, 1.0, 8))
    ids = tokenizer(" b c", add_special_tokens=False)["input_ids"]
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    assert own._text(before, ids) == " b c"


def test_wrong_options(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        LocalGenerator(model, tokenizer, batch_size=0)
    with pytest.raises(ConfigError, match="tokenizer"):
        LocalGenerator(model)
    with pytest.raises(ModelError):
        LocalGenerator(tmp_path / "nothing")
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Sampling(**wrong)
