"""The OpenAI API with a server on the loopback that answers as vLLM, SGLang and others do."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prm.errors import ConfigError, DataError, RemoteError
from prm.generators.generator import Sample, Sampling, SamplingRequest
from prm.generators.openai import OpenAIGenerator
from prm.spec import Template
from tests.openai_server import (
    Handler,
    Reply,
    StubServer,
    chat_completion,
    running,
    vllm_completion,
)

Serve = Callable[[Callable[[dict[str, Any]], Reply]], StubServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that stop with the test."""
    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(running(StubServer(reply)))


PLAIN = Template(suffix="\n")


def test_completions(serve: Serve) -> None:
    server = serve(vllm_completion)
    own = OpenAIGenerator(server.url, template=PLAIN, sampling=Sampling(0.7, 0.9, 50))
    assert own.sample([SamplingRequest("2 + 3 = ?", "so\n", 2, 11)], "\n") == [
        [Sample(" 2 + 3 = 5", "end")] * 2
    ]
    assert server.bodies == [
        {
            "model": "policy",
            "prompt": "2 + 3 = ?\nso\n",
            "n": 2,
            "max_tokens": 50,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 11,
            "stop": ["\n"],
        }
    ]
    assert server.heads == [("/v1/completions", None)]
    assert own.num_tokens == 16


def test_chat(serve: Serve) -> None:
    server = serve(chat_completion)
    own = OpenAIGenerator(server.url + "/v1/", "m", template=Template("chat", system="Be brief."))
    turn = {"role": "user", "content": "2 + 3?"}
    assert (
        own.sample([SamplingRequest("2 + 3?"), SamplingRequest((turn,), "so\n")])
        == [[Sample("5", "end")]] * 2
    )
    system = {"role": "system", "content": "Be brief."}
    first, second = sorted(server.bodies, key=lambda body: len(body["messages"]))
    assert (first["messages"], first["model"], "stop" in first) == ([system, turn], "m", False)
    assert second["messages"] == [system, turn, {"role": "assistant", "content": "so\n"}]
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    assert {head[0] for head in server.heads} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("choice", "end"),
    [
        ({"stop_reason": "\n"}, "step"),
        ({"stop_reason": None}, "end"),
        ({"stop_reason": 151645}, "end"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "abort"}, "length"),
        ({"finish_reason": "content_filter"}, "length"),
    ],
)
def test_ends_of_vllm(serve: Serve, choice: dict[str, Any], end: str) -> None:
    server = serve(lambda body: vllm_completion(body, **choice))
    own = OpenAIGenerator(server.url, template=PLAIN)
    assert own.sample([SamplingRequest("a")], "\n") == [[Sample(" 2 + 3 = 5", end)]]


@pytest.mark.parametrize(
    ("choice", "end"),
    [({"matched_stop": "\n"}, "step"), ({"matched_stop": 2}, "end"), ({}, "step")],
)
def test_ends_of_sglang_and_of_servers_that_do_not_say(
    serve: Serve, choice: dict[str, Any], end: str
) -> None:
    server = serve(lambda body: chat_completion(body, **choice))
    assert OpenAIGenerator(server.url).sample([SamplingRequest("a")], "\n") == [[Sample("5", end)]]


def test_nothing_more_to_say_is_the_end(serve: Serve) -> None:
    server = serve(lambda body: chat_completion(body, ""))
    assert OpenAIGenerator(server.url).sample([SamplingRequest("a", "b\n")], "\n") == [
        [Sample("", "end")]
    ]


def test_server_that_gives_one_sample_is_asked_again_with_other_seeds(serve: Serve) -> None:
    server = serve(lambda body: chat_completion({**body, "n": 1}, str(body["seed"])))
    (samples,) = OpenAIGenerator(server.url).sample([SamplingRequest("a", num_samples=3, seed=7)])
    assert [sample.text for sample in samples] == ["7", "8", "9"]
    assert [body["n"] for body in server.bodies] == [3, 2, 1]


def test_requests_run_at_the_same_time_within_the_limit(serve: Serve) -> None:
    barrier = threading.Barrier(3)

    def reply(body: dict[str, Any]) -> Reply:
        barrier.wait(10)
        return chat_completion(body, body["messages"][0]["content"])

    server = serve(reply)
    requests = [SamplingRequest(str(index)) for index in range(6)]
    found = OpenAIGenerator(server.url, concurrency=3).sample(requests)
    assert [samples[0].text for samples in found] == [str(index) for index in range(6)]
    assert server.most_running == 3


def test_busy_server_is_asked_again_after_the_time_it_names(serve: Serve) -> None:
    answers = iter([(429, {"error": {"message": "busy"}}, {"retry-after": "0"}), (503, "", {})])
    server = serve(lambda body: next(answers, None) or chat_completion(body))
    assert OpenAIGenerator(server.url).sample([SamplingRequest("a")]) == [[Sample("5", "end")]]
    assert len(server.bodies) == 3
    assert len({json.dumps(body) for body in server.bodies}) == 1


@pytest.mark.parametrize("headers", [{"retry-after": "3600"}, {}])
def test_server_that_stays_busy_is_an_error(serve: Serve, headers: dict[str, str]) -> None:
    server = serve(lambda body: (429, {"error": {"message": "quota"}}, headers))
    with pytest.raises(RemoteError, match=r"429.*quota"):
        OpenAIGenerator(server.url, retries=0 if not headers else 5).sample([SamplingRequest("a")])
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_prompt_is_one_result_among_others(serve: Serve, status: int) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if body["prompt"].startswith("long"):
            text = "This model's maximum context length is 64 tokens."
            return status, {"object": "error", "message": text, "code": status}, {}
        return vllm_completion(body)

    own = OpenAIGenerator(serve(reply).url, template=PLAIN)
    found, long = own.sample([SamplingRequest("a"), SamplingRequest("long")])
    assert found == [Sample(" 2 + 3 = 5", "end")]
    assert isinstance(long, DataError)
    assert "maximum context length" in str(long)


def test_conversation_is_refused_by_a_plain_template(serve: Serve) -> None:
    own = OpenAIGenerator(serve(vllm_completion).url, template=PLAIN)
    (chat,) = own.sample([SamplingRequest(({"role": "user", "content": "a"},))])
    assert isinstance(chat, DataError)
    assert "chat template" in str(chat)


@pytest.mark.parametrize(
    "answer",
    [
        "no json",
        [],
        {"choices": []},
        {"choices": [1]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": None}}]},
    ],
)
def test_answers_that_are_no_completions(serve: Serve, answer: Any) -> None:
    server = serve(lambda body: (200, answer, {}))
    with pytest.raises(RemoteError):
        OpenAIGenerator(server.url).sample([SamplingRequest("a")])


@pytest.mark.parametrize("status", [401, 404, 500])
def test_other_failures_stop(serve: Serve, status: int) -> None:
    server = serve(lambda body: (status, {"error": {"message": "no"}}, {}))
    with pytest.raises((RemoteError, ConfigError), match="the server"):
        OpenAIGenerator(server.url, retries=0).sample([SamplingRequest("a")] * 3)


def test_key_is_sent_and_never_shown(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-123")
    server = serve(lambda body: (401, {"error": {"message": "bad key"}}, {}))
    with caplog.at_level(logging.DEBUG):
        own = OpenAIGenerator(server.url, "m", api_key_variable="MY_KEY", retries=0)
        with pytest.raises(ConfigError) as caught:
            own.sample([SamplingRequest("a")])
    assert server.heads[0][1] == "Bearer sk-123"
    assert "sk-123" not in caplog.text + str(caught.value) + repr(own) + str(own.identity())


def test_model_must_be_named_where_there_are_several(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(chat_completion)
    many = {"data": [{"id": "a"}, {"id": "b"}]}
    monkeypatch.setattr(Handler, "do_GET", lambda self: self._send((200, many, {})))
    with pytest.raises(ConfigError, match="a, b"):
        OpenAIGenerator(server.url).sample([SamplingRequest("a")])


def test_halves_of_surrogate_pairs_do_not_pass(serve: Serve) -> None:
    server = serve(lambda body: chat_completion(body, "\ud83d"))
    assert OpenAIGenerator(server.url).sample([SamplingRequest("a")]) == [[Sample("?", "end")]]


def test_wrong_options() -> None:
    for url in ("ftp://a", "a", ""):
        with pytest.raises(ConfigError, match="address"):
            OpenAIGenerator(url)
    with pytest.raises(ConfigError, match="password") as caught:
        OpenAIGenerator("http://me:secret@host")
    assert "secret" not in str(caught.value)
    for wrong in ({"concurrency": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(ConfigError):
            OpenAIGenerator("http://a", **wrong)


def test_server_that_is_not_there() -> None:
    with pytest.raises(RemoteError, match="does not answer"):
        OpenAIGenerator("http://127.0.0.1:9", retries=0).sample([SamplingRequest("a")])


def test_calls_tools_and_options_reach_the_server(serve: Serve) -> None:
    server = serve(chat_completion)
    template = Template("chat", options={"enable_thinking": False})
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    asked = {"role": "user", "content": "Weather?", "tools": [{"type": "function"}]}
    prompt = (asked, called, {"role": "tool", "content": "-3 C"})
    OpenAIGenerator(server.url, "m", template=template).sample([SamplingRequest(prompt)])
    (body,) = server.bodies
    assert body["tools"] == [{"type": "function"}]
    assert body["messages"][0] == {"role": "user", "content": "Weather?"}
    (sent,) = body["messages"][1]["tool_calls"]
    assert sent["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_reasoning_that_a_server_parsed_out_stays_in_the_text(serve: Serve) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        message = {"role": "assistant", "content": "5", "reasoning_content": "2 + 3"}
        return chat_completion(body, message=message)

    ((sample,),) = OpenAIGenerator(serve(answer).url, "m", template=Template("chat")).sample(
        [SamplingRequest("2 + 3?")]
    )
    assert sample.text == "<think>\n2 + 3\n</think>\n\n5"
