"""`OpenAIGenerator`: samples from any server that speaks the OpenAI API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from prm.connection import Connection, TooLargeError, gather
from prm.errors import ConfigError, DataError, RemoteError
from prm.generators.generator import End, Sample, Sampling, SamplingRequest
from prm.messages import REASONING, TOOLS, answer_text
from prm.spec import Template
from prm.trees.chat import quoted
from prm.trees.prompts import chat_messages


class OpenAIGenerator:
    """Samples from vLLM, SGLang, llama.cpp or any other server of completions.

    Plain prompts go to `/v1/completions`, chat prompts to `/v1/chat/completions`. The beginning of
    a chat response is sent as an assistant's turn to be continued, which vLLM and SGLang do; other
    servers may refuse it, or answer with a turn of their own. A server that gives fewer samples
    than asked for is asked again for the others.

    Whether a sample ends at the stop string or with the response is told by `stop_reason` (vLLM) or
    `matched_stop` (SGLang). From a server that sends neither it counts as a step, and the response
    as ended once nothing follows it.

    Args:
        url: Address of the server, with or without `/v1`.
        model: Name of the model there; by default the only one it serves.
        sampling: How tokens are drawn.
        template: How a prompt is sent; by default as a chat. A `plain` one adds its prefix and
            suffix to the prompt.
        api_key_variable: Environment variable with the key; without it none is sent.
        concurrency: Requests at the same time, at least 1.
        timeout: Seconds that a try may take; also the longest pause that the server may ask for.
        retries: Tries after the first one, with pauses that double, or as long as `Retry-After`.

    Raises:
        ConfigError: An option is wrong.

    Example:
        >>> generator = OpenAIGenerator("http://127.0.0.1:8000")  # doctest: +SKIP
        >>> generator.sample([SamplingRequest("What is 2 + 3?", num_samples=2)])  # doctest: +SKIP
        [[Sample(text='5', end='end'), Sample(text='2 + 3 = 5', end='end')]]
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        sampling: Sampling | None = None,
        template: Template | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
    ) -> None:
        if concurrency < 1:
            raise ConfigError("concurrency is wrong", expected="at least 1", got=concurrency)
        self.url = _with_version(url)
        self.sampling = sampling or Sampling()
        self.template = template or Template(style="chat")
        self.concurrency = concurrency
        self.num_tokens = 0
        self._connection = Connection(
            self.url,
            token=os.environ.get(api_key_variable) or None,
            timeout=timeout,
            retries=retries,
        )
        self._model = model

    @property
    def model(self) -> str:
        """Name of the model that samples.

        Raises:
            ConfigError: It was not given, and the server has several.
            RemoteError: The server cannot be asked.
        """
        if self._model is None:
            answer = self._connection.run(self._connection.request("GET", "/models"))
            found = [str(one.get("id")) for one in self._list("data", answer)]
            if len(found) != 1:
                raise ConfigError(
                    "the server has several models",
                    expected="the name of one",
                    got=", ".join(found),
                    where=self.url,
                )
            self._model = found[0]
        return self._model

    def identity(self) -> dict[str, Any]:
        """Return what samples depend on, as JSON values by name."""
        return {
            "generator": f"{self.model} at {self.url}",
            "sampling": str(self.sampling),
            "template": str(self.template),
        }

    def sample(
        self, requests: Sequence[SamplingRequest], stop: str | None = None
    ) -> list[list[Sample] | DataError]:
        """Return the samples of each request; arguments and result as of `Generator`.

        Raises:
            RemoteError: The server cannot be reached, fails, or gives no completions.
        """
        return self._connection.run(self._sample_all(self.model, requests, stop))

    async def _sample_all(
        self, model: str, requests: Sequence[SamplingRequest], stop: str | None
    ) -> list[list[Sample] | DataError]:
        places = asyncio.Semaphore(self.concurrency)

        async def one(request: SamplingRequest) -> list[Sample] | DataError:
            async with places:
                return await self._sample(model, request, stop)

        return await gather([one(request) for request in requests])

    async def _sample(
        self, model: str, request: SamplingRequest, stop: str | None
    ) -> list[Sample] | DataError:
        """Ask until there are as many samples as wanted; every answer brings at least one."""
        samples: list[Sample] = []
        try:
            while len(samples) < request.num_samples:
                body = self._body(model, request, stop, first=len(samples))
                answer = await self._connection.request("POST", self._path, body)
                samples += [self._read(choice, stop) for choice in self._list("choices", answer)]
                self.num_tokens += (answer.get("usage") or {}).get("completion_tokens") or 0
        except TooLargeError as error:
            return DataError("the prompt is too long for the generator's server", got=error.got)
        except DataError as error:
            return error
        return samples[: request.num_samples]

    @property
    def _path(self) -> str:
        return "/chat/completions" if self.template.style == "chat" else "/completions"

    def _body(
        self, model: str, request: SamplingRequest, stop: str | None, first: int
    ) -> dict[str, Any]:
        """Return the body that asks for the samples from number `first` on."""
        return {
            "model": model,
            "n": request.num_samples - first,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": request.seed + first,
            **({"stop": [stop]} if stop else {}),
            **(self._text(request) if self.template.style == "plain" else self._messages(request)),
        }

    def _text(self, request: SamplingRequest) -> dict[str, Any]:
        if not isinstance(request.prompt, str):
            raise DataError(
                "a conversation needs the chat template",
                expected="a text prompt",
                got=list(request.prompt),
            )
        start = self.template.prefix + request.prompt + self.template.suffix
        return {"prompt": start + request.prefix}

    def _messages(self, request: SamplingRequest) -> dict[str, Any]:
        first, *turns = map(quoted, chat_messages(request.prompt, self.template.system))
        asked = {name: value for name, value in first.items() if name != TOOLS}
        options = self.template.options
        body = {
            "messages": [asked, *turns],
            **({TOOLS: first[TOOLS]} if TOOLS in first else {}),
            **({"chat_template_kwargs": dict(options)} if options else {}),
        }
        if not request.prefix:
            return body
        turn = {"role": "assistant", "content": request.prefix}
        return body | {
            "messages": [asked, *turns, turn],
            "continue_final_message": True,
            "add_generation_prompt": False,
        }

    def _read(self, choice: Mapping[str, Any], stop: str | None) -> Sample:
        if self.template.style == "chat":
            message = choice.get("message")
            text = _said(message) if isinstance(message, Mapping) else None
        else:
            text = choice.get("text")
        if not isinstance(text, str):
            raise self._malformed("a choice with text", choice)
        whole = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs become ?
        return Sample(whole, _end(choice, text, stop))

    def _list(self, name: str, answer: Any) -> list[Mapping[str, Any]]:
        """Return a list of objects in an answer."""
        found = answer.get(name) if isinstance(answer, Mapping) else None
        if not isinstance(found, list) or not found:
            raise self._malformed(f"an object with a list of {name}", answer)
        if not all(isinstance(one, Mapping) for one in found):
            raise self._malformed(f"objects in {name}", answer)
        return found

    def _malformed(self, expected: str, got: object) -> RemoteError:
        return RemoteError(
            "the answer is not of the OpenAI API", expected=expected, got=got, where=self.url
        )


def _said(message: Mapping[str, Any]) -> str | None:
    """Return the text of an answer, after the reasoning that a server parsed out of it."""
    content, reasoning = message.get("content"), message.get(REASONING)
    if not isinstance(reasoning, str) or not isinstance(content or "", str):
        return content
    return answer_text({"content": content or "", REASONING: reasoning})


def _with_version(url: str) -> str:
    """Return an address that ends in `/v1`.

    Raises:
        ConfigError: It holds a password, which would be shown in messages.
    """
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            "the address of the generator holds a password",
            fix="Put a key into the environment variable that api_key_variable names",
        )
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def _end(choice: Mapping[str, Any], text: str, stop: str | None) -> End:
    """Return why a choice ends."""
    if choice.get("finish_reason") != "stop":
        return "length"
    if stop is None:
        return "end"
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            return "step" if choice[name] == stop else "end"
    return "step" if text else "end"
