"""The reward of texts that RL trainers send, for the dialects that give one number per response.

Trainers send what the policy was shown: prompts in the policy's chat template, responses with
special tokens. What was said is read out of them by the policy's tokenizer, and scored in the
template of the reward model.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from fastapi import Request

from prm.errors import DataError
from prm.models.sources import load_tokenizer
from prm.records import Prompt, prompt_text
from prm.scores.chains import ChainScore
from prm.scores.reaggregate import unit_score
from prm.scores.responses import ResponseScore
from prm.serve.pool import ModelPool, ServedModel
from prm.texts.completions import Completion, choose_reward_from
from prm.texts.policy import PolicyText

_TURNS = r"<\|[^\s<>|]+\|>|\[/?INST\]|<(?:start|end)_of_turn>"
"""What chat templates write around turns."""

_RENDERED = re.compile(rf"^\s*<(?:s|bos)>|{_TURNS}")
_ENDING = re.compile(rf"(?:{_TURNS}|</s>|<eos>)\s*$")


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What a policy said.

    Args:
        prompt: What it was asked.
        response: What it answered, without special tokens.
        finished: Whether the answer ended by itself, with a special token.
    """

    prompt: Prompt
    response: str
    finished: bool


@dataclass(frozen=True, slots=True)
class TextReward:
    """What a trainer is told about an answer.

    Args:
        reward: The reward; `None` if there is none.
        probability: The same on a scale from 0 to 1: the aggregated probability of the steps, or
            the logistic function of the reward of a response.
        objectives: Objective to its value, of which more is better, as in `CompletionReward`.
        truncated: Whether the model read only a part of it.
        finished: As of the answer.
        reason: Why there is no reward. Empty if there is one.
    """

    reward: float | None
    probability: float | None
    objectives: Mapping[str, float | None]
    truncated: bool
    finished: bool
    reason: str


def served(request: Request, name: str | None) -> ServedModel:
    """Return the model of a request; the first one if it names none."""
    return _pool(request).get(name)


def _pool(request: Request) -> ModelPool:
    pool: ModelPool = request.app.state.pool
    return pool


def policy_text(request: Request, model: ServedModel) -> PolicyText:
    """Return what reads the policy's texts, by its tokenizer or by that of the reward model."""
    options = _pool(request).options
    given = options.policy_options or {}
    if options.policy_tokenizer:
        return load_policy(options.policy_tokenizer, json.dumps(given))
    if model not in _of_model:
        own = {**model.spec.template.options, **given}
        _of_model[model] = PolicyText(model.scorer.model.tokenizer, own)
    return _of_model[model]


_of_model: WeakKeyDictionary[ServedModel, PolicyText] = WeakKeyDictionary()


@functools.cache
def load_policy(folder: str, options: str = "{}") -> PolicyText:
    """Return what reads the texts of the policy whose tokenizer lies in a folder.

    Args:
        folder: The folder.
        options: What its chat template was given beside messages, as JSON text.

    Raises:
        ModelError: There is no tokenizer.
    """
    return PolicyText(load_tokenizer(folder), json.loads(options))


async def text_rewards(
    request: Request, model: ServedModel, answers: Sequence[PolicyAnswer]
) -> list[TextReward]:
    """Return the reward of each answer, in order.

    A process model reads an answer as steps, other models as a whole.

    Raises:
        DataError: A text has markup of a policy whose tokenizer the server does not have.
    """
    options = _pool(request).options
    for answer in answers if not options.policy_tokenizer else ():
        _refuse_markup(answer)
    reward_from, step_format = choose_reward_from(model.spec), model.spec.step_format
    completions = [Completion.read(one.prompt, one.response, step_format) for one in answers]
    records = [one.record(reward_from) for one in completions if not one.is_empty(reward_from)]
    scores = iter(await model.score(records))
    return [
        _empty(answer, model, options.empty_reward)
        if completion.is_empty(reward_from)
        else _reward(next(scores), answer, model)
        for answer, completion in zip(answers, completions, strict=True)
    ]


def _refuse_markup(answer: PolicyAnswer) -> None:
    """Refuse markup that the model would read as if somebody had said it."""
    found = _RENDERED.search(prompt_text(answer.prompt)) or _ENDING.search(answer.response)
    if found:
        raise DataError(
            "the text has markup of a chat template that the server does not know",
            got=found.group(),
            fix="Start the server with --policy_tokenizer and the policy's folder",
        )


def _reward(
    score: ChainScore | ResponseScore, answer: PolicyAnswer, model: ServedModel
) -> TextReward:
    return TextReward(
        reward=score.reward,
        probability=unit_score(score, model.spec),
        objectives=score.utilities,
        truncated=score.num_truncated > 0,
        finished=answer.finished,
        reason=score.reason,
    )


def _empty(answer: PolicyAnswer, model: ServedModel, empty: float | None) -> TextReward:
    spec = model.spec
    names = spec.response_names or [objective.name for objective in spec.step_heads]
    return TextReward(
        reward=empty,
        probability=None if empty is None else min(1.0, max(0.0, empty)),
        objectives=dict.fromkeys(names, empty),
        truncated=False,
        finished=answer.finished,
        reason="the response has no text" if empty is None else "",
    )
