"""The protocols of vLLM and SGLang: the numbers of the exported folder, and the reward by name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from prm.models import checkpoint
from prm.models.sources import load_tokenizer
from prm.records import Chain
from prm.trees.tree import flat_path
from tests.interop import recorded
from tests.interop.recorded import (
    ClassificationResponse,
    EmbeddingResponse,
    PoolingResponse,
    SglangEmbedding,
)
from tests.interop.served_models import ANSWER, PROMPT, STEPS, Served, rendered


def post(served: Served, path: str, body: Any, status: int = 200) -> Any:
    """Return the JSON answer to a body."""
    answer = httpx.post(served.url + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def stock(served: Served, name: str, ids: list[int]) -> torch.Tensor:
    """Return what stock transformers makes of a folder: `[column]`, or `[token, column]`."""
    is_outcome = served.offline[name].spec.kind == "outcome"
    family: Any = (
        AutoModelForSequenceClassification if is_outcome else AutoModelForTokenClassification
    )
    with checkpoint.quiet(), torch.no_grad():
        model = family.from_pretrained(served.folder(name), dtype=torch.float32).eval()
        return model(input_ids=torch.tensor([ids])).logits[0]


def text_ids(served: Served, name: str, text: str, **options: Any) -> list[int]:
    """Return the token ids of a text by the folder's tokenizer."""
    return load_tokenizer(str(served.folder(name)))(text, **options)["input_ids"]


def close(expected: Any) -> Any:
    """Return what compares equal to 1e-5."""
    return pytest.approx(expected, abs=1e-5)


def test_classify_gives_the_columns_of_stock_transformers(served: Served) -> None:
    body = recorded.VLLM_CLASSIFY
    answer = ClassificationResponse.model_validate(post(served, "/classify", body))
    names = [objective.name for objective in served.offline["replies"].spec.heads]
    for item, text in zip(answer.data, body["input"], strict=True):
        expected = stock(served, "replies", text_ids(served, "replies", text))
        assert item.probs == close(expected.tolist())
        assert item.label == names[int(expected.argmax())]
        assert item.num_classes == 3
    assert [item.index for item in answer.data] == [0, 1]


def test_ids_and_texts_give_the_same(served: Served) -> None:
    texts = recorded.VLLM_CLASSIFY["input"]
    ids = [text_ids(served, "replies", text) for text in texts]
    by_text, by_ids = (post(served, "/classify", {"input": given}) for given in (texts, ids))
    rows = [item["probs"] for item in by_text["data"]]
    assert [item["probs"] for item in by_ids["data"]] == [close(row) for row in rows]
    assert by_text["usage"]["prompt_tokens"] == sum(map(len, ids))
    single = post(served, "/classify", {"input": ids[0]})
    assert single["data"][0]["probs"] == close(rows[0])


@pytest.mark.parametrize("name", ["replies", "chat"])
def test_messages_go_through_the_template_of_the_spec(served: Served, name: str) -> None:
    scorer = served.offline[name]
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]
    answer = post(served, "/classify", {"model": name, "messages": messages})
    (score,) = scorer.score([(PROMPT, ANSWER)])
    assert answer["data"][0]["probs"] == close(list(score.scores.values()))
    assert answer["data"][0]["truncated"] is False
    reward = post(served, "/classify", {"model": f"{name}:reward", "messages": messages})
    assert reward["data"][0]["probs"] == close([score.reward])
    assert reward["data"][0]["label"] == "reward"


def test_what_is_cut_off_is_said(served: Served) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 200}]
    assert post(served, "/classify", {"messages": messages})["data"][0]["truncated"] is True
    post(served, "/classify", {"input": "b " * 200}, status=413)


@pytest.mark.parametrize("name", ["steps", "pairs", "classes"])
def test_pooling_gives_the_columns_at_the_step_markers(served: Served, name: str) -> None:
    tree = served.offline[name].builder.build(Chain(PROMPT, STEPS)).tree
    ids, reads = flat_path(tree)
    columns = stock(served, name, ids)[reads]
    raw = {"model": name, "input": ids, "use_activation": False}
    answer = PoolingResponse.model_validate(post(served, "/pooling", raw))
    assert answer.data[0].data == [close(row) for row in columns.tolist()]
    active = {
        "steps": columns.sigmoid(),
        "classes": columns.softmax(dim=-1),
        "pairs": columns,
    }[name]
    for asked in ({}, {"use_activation": True}):
        found = post(served, "/pooling", {"model": name, "input": ids, **asked})
        assert found["data"][0]["data"] == [close(row) for row in active.tolist()]


def test_a_recorded_request_for_steps_gives_their_probabilities(served: Served) -> None:
    answer = PoolingResponse.model_validate(post(served, "/pooling", recorded.VLLM_POOLING))
    (score,) = served.offline["steps"].score([(PROMPT, STEPS)])
    assert answer.data[0].data == [close([value]) for value in score.probabilities]


def test_the_reward_of_a_process_model_is_its_aggregated_steps(served: Served) -> None:
    body = {"model": "steps:reward", "messages": recorded.VLLM_POOLING["messages"]}
    (score,) = served.offline["steps"].score([(PROMPT, STEPS)])
    for path, key in (("/classify", "probs"), ("/pooling", "data")):
        assert post(served, path, body)["data"][0][key] == close([score.reward])


def test_models_with_both_heads_give_every_token(served: Served) -> None:
    ids, _ = flat_path(served.offline["joint"].builder.build(Chain(PROMPT, STEPS)).tree)
    answer = post(served, "/pooling", {"model": "joint", "input": ids, "use_activation": False})
    expected = stock(served, "joint", ids)
    assert answer["data"][0]["data"] == [close(row) for row in expected.tolist()]


def test_verl_reads_the_aggregated_reward(served: Served) -> None:
    """`probs[-1]` of the last head would be the utility of one objective."""
    (score,) = served.offline["chat"].score([(PROMPT, "It is 15.")])
    output = ClassificationResponse.model_validate(post(served, "/classify", recorded.VERL_VLLM))
    assert output.data[-1].probs[-1] == close(score.reward)
    found = EmbeddingResponse.model_validate(post(served, "/v1/embeddings", recorded.VERL_SGLANG))
    assert found.data[-1].embedding[-1] == close(score.reward)


def test_there_is_one_bos_whatever_text_and_tokenizer_add(served: Served) -> None:
    text = rendered(PROMPT, "It is 15.<|im_end|>\n")
    plain = text_ids(served, "chat", text, add_special_tokens=False)
    tokenizer = load_tokenizer(str(served.folder("chat")))
    bos, bos_id = str(tokenizer.bos_token), tokenizer.bos_token_id
    for given in (text, bos + text, bos + bos + text):
        answer = post(served, "/classify", {"model": "chat", "input": given})
        assert answer["data"][0]["probs"] == close(stock(served, "chat", [bos_id, *plain]).tolist())
        assert answer["usage"]["prompt_tokens"] == len(plain) + 1
    body = {"model": "chat", "input": text, "add_special_tokens": False}
    answer = post(served, "/classify", body)
    assert answer["data"][0]["probs"] == close(stock(served, "chat", plain).tolist())


def test_sglang_gives_raw_columns_and_a_list_for_a_list(served: Served) -> None:
    body = recorded.SGLANG_CLASSIFY
    answer = post(served, "/classify", body)
    for item, text in zip(answer, body["text"], strict=True):
        expected = stock(served, "replies", text_ids(served, "replies", text)).tolist()
        assert SglangEmbedding.model_validate(item).embedding == close(expected)
    single = post(served, "/classify", {"text": body["text"][0]})
    assert single["embedding"] == close(answer[0]["embedding"])
    ids = text_ids(served, "replies", body["text"][0])
    assert post(served, "/classify", {"input_ids": ids})["embedding"] == close(single["embedding"])
    many = post(served, "/classify", {"input_ids": [ids]})
    assert many[0]["embedding"] == close(single["embedding"])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/classify", {"model": "steps", "input": "x"}, 422, "scores steps"),
        ("/classify", {"model": "nobody", "input": "x"}, 404, "no such model"),
        ("/classify", {"model": "nobody:reward", "input": "x"}, 404, "no such model"),
        ("/classify", {"input": "x", "messages": []}, 422, "messages"),
        ("/classify", {"input": "x", "truncate_prompt_tokens": 4}, 422, "truncate_prompt_tokens"),
        ("/classify", None, 422, "body"),
        ("/classify", [], 422, "body"),
        ("/classify", {"input": []}, 422, "input"),
        ("/classify", {"input": [[]]}, 422, "input"),
        ("/classify", {"input": [10**9]}, 422, "token ids are wrong"),
        ("/classify", {"input": ""}, 422, "token ids are wrong"),
        ("/classify", {"messages": [{"role": "user", "content": "x"}]}, 422, "assistant's turn"),
        ("/classify", {"text": "x", "input_ids": [1]}, 422, "either text or input_ids"),
        ("/classify", {"input": "\u2028" * 5000}, 413, "too long"),
        ("/pooling", {"model": "steps", "input": "no marker"}, 422, "no step marker"),
        ("/pooling", {"model": "steps", "input": "x", "task": "classify"}, 422, "token_classify"),
        ("/pooling", {"input": "x", "task": "token_classify"}, 422, "classify"),
        ("/pooling", {"input": "x", "task": "embed"}, 422, "task"),
        ("/pooling", {"input": "x", "encoding_format": "base64"}, 422, "encoding_format"),
        ("/v1/embeddings", {"input": "x", "dimensions": 8}, 422, "dimensions"),
        ("/v1/embeddings", {}, 422, "input"),
    ],
)
def test_what_would_be_ignored_or_wrong_is_refused(
    served: Served, path: str, body: Any, status: int, says: str
) -> None:
    assert says in str(post(served, path, body, status))
