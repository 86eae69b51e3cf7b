"""`RewardFunction`: the reward of completions, as every RL trainer can call it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation
from prm.errors import ConfigError, DataError
from prm.messages import BeyondText
from prm.rl.completions import Text, as_pair
from prm.scores.chains import ChainScore
from prm.scores.reaggregate import reaggregate, with_aggregations
from prm.scores.responses import ResponseScore
from prm.scoring.loading import ScorerOptions
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, Shaping
from prm.texts.completions import Completion, RewardFrom
from prm.texts.steps import StepSpan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from prm.scoring.client import RemoteScorer

Completions = list[Completion]
Scores = list[ChainScore | ResponseScore]


@dataclass(frozen=True, slots=True)
class CompletionReward:
    """What a model says about one completion of a policy.

    Args:
        reward: The scalar that RL gets; `None` if there is none, and `score.reason` says why.
        objectives: Objective to its value, of which more is better: the utility for objectives of
            responses, the aggregated step score for step objectives. `None` where it is missing.
        score: All that the model said.
        response: The text that was scored.
        steps: Where its steps stand in it; empty if the response was scored as a whole.
    """

    reward: float | None
    objectives: Mapping[str, float | None]
    score: ChainScore | ResponseScore
    response: str
    steps: tuple[StepSpan, ...] = ()

    @property
    def step_probabilities(self) -> tuple[float | None, ...]:
        """Probability of each step, for the reward objective; empty without steps."""
        return self.score.probabilities


class _Replaced(NamedTuple):
    """What a reward function has in the place of its model's spec."""

    steps: StepAggregation | str | None
    objectives: ObjectiveAggregation | None
    shaping: Shaping | None


class RewardFunction:
    r"""The reward of completions: a callable for RL trainers, with the scores of `RewardScorer`.

    It is no `nn.Module`. It pickles as its arguments: the model is loaded at the first use, and
    again in a process that it was sent to. The last batch is remembered, so that several views
    of it (one callable per objective) cost one forward pass. Calls may come from several threads.

    Args:
        model: Folder of a model, the address of a `prm serve` (`http://host:port`), a
            `RemoteScorer` for one of its models, or a loaded scorer, which cannot be pickled.
        step_aggregation: Step aggregation in place of the spec's.
        objective_aggregation: Objective aggregation in place of the spec's.
        shaping: Shaping of the reward in place of the spec's.
        reward_from: Whether the steps of a completion or the whole response are scored; needed for
            a joint model alone, which can do both.
        empty: Reward, and value of every objective, of a completion without any text, which the
            model cannot score; `None` gives it none. Trainers treat `None` as average, which a
            policy can exploit.
        truncated: Reward, and value of every objective, of a completion that did not fit into the
            model's `max_length`; `None` gives it none. `keep` is what the part that was read gets,
            so that a policy may gain by a mistake that nobody reads.
        tokenizer: The policy's tokenizer or its folder, to decode completions that come as token
            ids.
        device: Where the model runs; `auto` takes a GPU if there is one.
        dtype: Type of the backbone's weights; as stored if not given.
        max_tokens: Tokens in one forward pass.

    Raises:
        ConfigError: An argument does not fit the model.
        SpecError: The folder holds no model.

    Attributes:
        observers: Called with the rewards of each new batch. They stay behind when the function is
            pickled.

    Example:
        >>> reward = RewardFunction("runs/arithmetic/model")  # doctest: +SKIP
        >>> problem = "Compute ((8 + 20) + 10) - 8."  # doctest: +SKIP
        >>> reward([problem], ["8 + 20 = 28\n28 + 10 = 38\n38 - 8 = 30"])  # doctest: +SKIP
        [0.99]
    """

    def __init__(
        self,
        model: str | Path | RewardScorer | RemoteScorer,
        *,
        step_aggregation: StepAggregation | str | None = None,
        objective_aggregation: ObjectiveAggregation | None = None,
        shaping: Shaping | None = None,
        reward_from: RewardFrom | None = None,
        empty: float | None = None,
        truncated: float | Literal["keep"] | None = "keep",
        tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        max_tokens: int = 16384,
    ) -> None:
        self.model = model
        self.empty = empty
        self.truncated = truncated
        self.observers: list[Callable[[Sequence[CompletionReward]], None]] = []
        self._replaced = _Replaced(step_aggregation, objective_aggregation, shaping)
        self._tokenizer = tokenizer
        self._loading = (device, dtype, max_tokens)
        self._reset()
        self.reward_from = _checked_source(self.spec, reward_from)

    def _reset(self) -> None:
        self._lock, self._model_lock = threading.Lock(), threading.RLock()
        self._last: tuple[Completions | None, Future[Scores]] = (None, Future())

    @property
    def spec(self) -> RewardSpec:
        """The model's spec, with the aggregations in force; those of a server may change."""
        stored = self._folder_spec if self._is_folder else self.scorer.spec
        return with_aggregations(stored, *self._replaced)

    @cached_property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that a completion gets values for."""
        if self.reward_from == "response":
            return self.spec.response_names
        return tuple(objective.name for objective in self.spec.step_heads)

    @cached_property
    def scorer(self) -> RewardScorer | RemoteScorer:
        """What scores; loaded at the first use."""
        if not isinstance(self.model, str | Path):
            return self.model
        if _is_address(self.model):
            from prm.scoring.client import RemoteScorer

            return RemoteScorer(str(self.model))
        device, dtype, max_tokens = self._loading
        return ScorerOptions(Path(self.model), device, dtype, max_tokens=max_tokens).load()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What decodes token ids."""
        if not isinstance(self._tokenizer, str | Path):
            return self._tokenizer
        from transformers import AutoTokenizer

        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self._tokenizer)
        return loaded

    @property
    def _is_folder(self) -> bool:
        return isinstance(self.model, str | Path) and not _is_address(self.model)

    @cached_property
    def _folder_spec(self) -> RewardSpec:
        """The spec of a folder, for which no model is loaded."""
        return RewardSpec.load(str(self.model))

    def set_step_aggregation(self, aggregation: StepAggregation | str) -> None:
        """Aggregate steps in another way from now on; raises as the constructor."""
        self._replace(self._replaced._replace(steps=aggregation))

    def set_objective_aggregation(self, aggregation: ObjectiveAggregation) -> None:
        """Aggregate objectives in another way from now on; raises as the constructor."""
        self._replace(self._replaced._replace(objectives=aggregation))

    def _replace(self, replaced: _Replaced) -> None:
        with_aggregations(self.spec, *replaced)
        with self._lock:
            self._replaced = replaced

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **_: Any
    ) -> list[float | None]:
        """Return the reward of each completion; arguments as `score`, others are ignored."""
        return [found.reward for found in self.score(prompts, completions)]

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        *,
        applicable: Sequence[Collection[str] | None] | None = None,
    ) -> list[CompletionReward]:
        """Return what the model says about each completion.

        Args:
            prompts: Texts, conversations, or token ids; one per completion.
            completions: What the policy wrote, in any of these forms.
            applicable: For each completion the objectives that mean something for it; `None` for
                all. The others are missing, and the aggregation's policy decides.

        Raises:
            DataError: The lengths differ, something is no text, or an objective is unknown.
        """
        names = [None] * len(prompts) if applicable is None else list(applicable)
        if not len(prompts) == len(completions) == len(names):
            raise DataError(
                "prompts, completions and applicable objectives do not match",
                expected="one of each per completion",
                got=(len(prompts), len(completions), len(names)),
            )
        read = [self._read(*pair) for pair in zip(prompts, completions, strict=True)]
        scores, is_new = self._shared_scores(read)
        spec = self.spec
        rewards = [
            self._reward(completion, score, only, spec)
            for completion, score, only in zip(read, scores, names, strict=True)
        ]
        if is_new:
            for observer in self.observers:
                observer(rewards)
        return rewards

    def _read(self, prompt: Text, completion: Text) -> Completion:
        try:
            return Completion.read(
                *as_pair(prompt, completion, self.tokenizer), self.spec.step_format
            )
        except BeyondText as error:
            return Completion("", "", (), reason=str(error))

    def _shared_scores(self, completions: Completions) -> tuple[Scores, bool]:
        """Return the scores, and whether this call asked for them rather than one before it."""
        with self._lock:
            is_new = completions != self._last[0]
            if is_new:
                self._last = completions, Future()
            result = self._last[1]
        if is_new:
            self._settle(completions, result)
        return result.result(), is_new

    def _settle(self, completions: Completions, result: Future[Scores]) -> None:
        try:
            with nullcontext() if self._is_remote else self._model_lock:
                result.set_result(self._scores(completions))
        except BaseException as error:
            with self._lock:
                self._last = None, Future()
            result.set_exception(error)

    @property
    def _is_remote(self) -> bool:
        """Whether a server scores, which batches concurrent requests itself."""
        return not (self._is_folder or isinstance(self.model, RewardScorer))

    def _scores(self, completions: Completions) -> Scores:
        """Return the score of each completion; ids of records are those that a server must give."""
        records = [
            None
            if completion.is_empty(self.reward_from)
            else completion.record(self.reward_from, id=str(index))
            for index, completion in enumerate(completions)
        ]
        scores = iter(self.scorer.score([record for record in records if record is not None]))
        return [
            self._unscored(completion.reason or "the completion has no text")
            if record is None
            else next(scores) or self._unscored("the server did not score it")
            for completion, record in zip(completions, records, strict=True)
        ]

    def _unscored(self, reason: str) -> ChainScore | ResponseScore:
        names = dict.fromkeys(self.objectives)
        if self.reward_from == "response":
            return ResponseScore("", "", 0, names, None, names, None, "", reason=reason)
        logits: dict[str, tuple[float | None, ...]] = dict.fromkeys(names, ())
        return ChainScore("", logits, names, None, self.spec.chain_reward, "", reason=reason)

    def _reward(
        self,
        completion: Completion,
        score: ChainScore | ResponseScore,
        applicable: Collection[str] | None,
        spec: RewardSpec,
    ) -> CompletionReward:
        applies_in_part = applicable is not None and set(applicable) != set(self.objectives)
        if applies_in_part or any(part is not None for part in self._replaced):
            score = reaggregate(score, spec, applicable=applicable)
        response = completion.response
        if self.empty is not None and not (response.strip() or completion.reason):
            return self._fixed(self.empty, score, response)
        if self.truncated != "keep" and score.num_truncated:
            return self._fixed(self.truncated, score, response)
        if isinstance(score, ResponseScore):
            return CompletionReward(score.reward, score.utilities, score, response)
        return CompletionReward(score.reward, score.scores, score, response, completion.steps)

    def _fixed(
        self, value: float | None, score: ChainScore | ResponseScore, response: str
    ) -> CompletionReward:
        return CompletionReward(value, dict.fromkeys(self.objectives, value), score, response)

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.model, RewardScorer):
            raise ConfigError(
                "this RewardFunction cannot be sent to another process",
                expected="the folder of a model, or an address",
                got="a loaded model",
                fix="Give it the folder that the model was loaded from",
            )
        dropped = {"scorer", "tokenizer", "_lock", "_model_lock", "_last"}
        kept = {key: value for key, value in self.__dict__.items() if key not in dropped}
        return kept | {"observers": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def _is_address(model: str | Path) -> bool:
    return str(model).startswith(("http://", "https://"))


def _checked_source(spec: RewardSpec, reward_from: RewardFrom | None) -> RewardFrom:
    scored: dict[RewardFrom, Any] = {"steps": spec.step_heads, "response": spec.response_heads}
    allowed = [name for name, heads in scored.items() if heads]
    if reward_from is None and len(allowed) == 1:
        return allowed[0]
    if reward_from not in allowed:
        raise ConfigError(
            f"reward_from does not fit a {spec.kind} model",
            expected=" or ".join(allowed),
            got=reward_from,
        )
    return reward_from
