"""`RemoteScorer`: the scores of a model that `prm serve` serves, as `RewardScorer` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from prm.aggregation import objectives, steps
from prm.aggregation.objectives import ObjectiveAggregation
from prm.aggregation.steps import StepAggregation
from prm.connection import Connection, OnError, send_all
from prm.fields import prompt_row
from prm.records import Chain, Prompt, Rating
from prm.scores.chains import ChainScore
from prm.scores.responses import RESPONSE
from prm.scores.rows import record_columns
from prm.scoring.replies import RankedResponse, ReplyReader, ScoredStep, ScoredSteps
from prm.scoring.scorer import Scorable, as_records, is_one_record
from prm.scoring.stages import Score
from prm.spec import RewardSpec

_IN_FORCE = ("step_aggregation", "objective_aggregation", "shaping")

BATCH = 64
"""Records in one request."""


class RemoteScorer:
    """Scores of a model behind `prm serve`, equal to those of `RewardScorer`.

    It pickles as its arguments and may be shared by threads. A score is the server's or there is
    none: answers are checked for number, order and content, and nothing is filled in.

    Args:
        url: Address of the server, `http://host:port`.
        model: Name of the model; the server's only one, or its first, if not given.
        token: The server's bearer token.
        timeout: Seconds that a request may take.
        retries: Further tries of a request that fails or is put off.
        on_error: Whether a record that cannot be scored raises or gets `None`. With `none`, what
            went wrong is logged.

    Raises:
        ConfigError: The address or a number is wrong.

    Example:
        >>> scorer = RemoteScorer("http://localhost:8000")  # doctest: +SKIP
        >>> scorer.score([("2 + 2 = ?", ["2 + 2 = 4"])])[0].reward  # doctest: +SKIP
        0.97
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        on_error: OnError = "raise",
    ) -> None:
        self.model = model
        self.on_error = on_error
        self._connection = Connection(url, token=token, timeout=timeout, retries=retries)
        self._reader = ReplyReader(self._connection.url)

    def __repr__(self) -> str:
        return f"RemoteScorer({self._connection.url!r}, {self.model!r})"

    @cached_property
    def spec(self) -> RewardSpec:
        """The model's spec, with the aggregations in force when the server was last asked."""
        return self._connection.run(self._fetch_spec())

    @property
    def step_aggregation(self) -> StepAggregation:
        """How the steps of a chain become one score."""
        return self.spec.step_aggregation

    def score(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        """Score chains or responses; arguments as `RewardScorer.score`.

        Returns:
            One `ChainScore` or `ResponseScore` per record, in order, or `None` where the server
            gave none and `on_error` is `none`.

        Raises:
            RemoteError: The server does not answer, or with something that cannot be right.
            PrmError: It refuses a record, as `RewardScorer` would.
        """
        return self._connection.run(self._score(records))

    async def score_async(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        """Like `score`, without blocking the event loop."""
        return await self._connection.awaited(self._score(records))

    def steps(
        self, prompt: Prompt, response: str | Sequence[str], threshold: float = 0.5
    ) -> ScoredSteps:
        """Score the steps of one response.

        Args:
            prompt: The prompt.
            response: The response, which the server splits, or its steps.
            threshold: Probability below which a step counts as an error.
        """
        return self._connection.run(self._steps(prompt, response, threshold))

    async def steps_async(
        self, prompt: Prompt, response: str | Sequence[str], threshold: float = 0.5
    ) -> ScoredSteps:
        """Like `steps`, without blocking the event loop."""
        return await self._connection.awaited(self._steps(prompt, response, threshold))

    def rank(
        self, prompt: Prompt, responses: Sequence[str], top: int | None = None
    ) -> list[RankedResponse]:
        """Rank candidate answers to one prompt, best first.

        Args:
            prompt: The prompt.
            responses: The candidates.
            top: How many of the best to return; all if not given.
        """
        return self._connection.run(self._rank(prompt, responses, top))

    async def rank_async(
        self, prompt: Prompt, responses: Sequence[str], top: int | None = None
    ) -> list[RankedResponse]:
        """Like `rank`, without blocking the event loop."""
        return await self._connection.awaited(self._rank(prompt, responses, top))

    def reaggregate(
        self,
        scores: Sequence[Score],
        *,
        step_aggregation: StepAggregation | str | None = None,
        objective_aggregation: ObjectiveAggregation | None = None,
        overrides: Mapping[str, Any] | None = None,
        shaping: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Return scores with the reward of other aggregations; the model does not run.

        Args:
            scores: Scores of this model.
            step_aggregation: In place of the one in force.
            objective_aggregation: In place of the one in force.
            overrides: Parameters of the one in force to change, such as `weights.safety`.
            shaping: Fields of the shaping in force to change, such as `clip`.
        """
        chosen = _chosen(step_aggregation, objective_aggregation, overrides, shaping)
        return self._connection.run(self._reaggregate(scores, chosen))

    def set_aggregation(
        self,
        *,
        step_aggregation: StepAggregation | str | None = None,
        objective_aggregation: ObjectiveAggregation | None = None,
        overrides: Mapping[str, Any] | None = None,
        shaping: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Change how the server aggregates, for everybody who asks it; arguments as `reaggregate`.

        Returns:
            What is in force now, with its version.
        """
        chosen = _chosen(step_aggregation, objective_aggregation, overrides, shaping)
        found = self._connection.run(self._set_aggregation(chosen))
        self.__dict__.pop("spec", None)
        return found

    def health(self) -> dict[str, Any]:
        """Return what the server says about itself; raises `RemoteError` if it does not answer."""
        found: dict[str, Any] = self._connection.run(self._connection.request("GET", "/health"))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "spec"}

    async def _name(self) -> str:
        if self.model is None:
            found = await self._connection.request("GET", "/v1/models")
            self.model = str(self._reader.read(found, "models", 0, "name"))
        return self.model

    async def _fetch_spec(self) -> RewardSpec:
        name = await self._name()
        found = await self._connection.request("GET", f"/v1/models/{name}/spec")
        return RewardSpec.from_dict(found, self._connection.url)

    async def _known_spec(self) -> RewardSpec:
        found: RewardSpec = self.__dict__.get("spec") or await self._fetch_spec()
        self.__dict__["spec"] = found
        return found

    async def _score(self, records: Scorable | Iterable[Scorable]) -> list[Any]:
        many: Any = [records] if is_one_record(records) else records
        spec = await self._known_spec()
        send = partial(self._send, spec)
        return await send_all(list(as_records(many, spec)), send, BATCH, self.on_error)

    async def _send(self, spec: RewardSpec, records: Sequence[Chain | Rating]) -> list[Score]:
        found = await self._post("/v1/score", {"records": [_row(record) for record in records]})
        rows = self._reader.rows(found, "results", len(records))
        self._follow(spec, found)
        return [
            _placed(self._reader.score(row, spec, record), record)
            for row, record in zip(rows, records, strict=True)
        ]

    def _follow(self, spec: RewardSpec, found: Mapping[str, Any]) -> None:
        """Forget a spec if the server has put other aggregations in force since."""
        known = spec.to_dict()
        told = {name: found.get(name) for name in _IN_FORCE}
        if any(value not in (None, known[name]) for name, value in told.items()):
            self.__dict__.pop("spec", None)

    async def _steps(
        self, prompt: Prompt, response: str | Sequence[str], threshold: float
    ) -> ScoredSteps:
        key = "response" if isinstance(response, str) else "steps"
        asked = {"prompt": prompt_row(prompt), "threshold": threshold, key: response}
        found = await self._post("/v1/steps", asked)
        rows = self._reader.read(found, "steps")
        steps = tuple(self._reader.built(ScoredStep, row) for row in rows)
        if key == "steps" and [step.text for step in steps] != list(response):
            raise self._reader.wrong("the steps that were sent", rows)
        built: ScoredSteps = self._reader.built(ScoredSteps, found | {"steps": steps})
        return built

    async def _rank(
        self, prompt: Prompt, responses: Sequence[str], top: int | None
    ) -> list[RankedResponse]:
        spec = await self._known_spec()
        asked = {"prompt": prompt_row(prompt), "responses": list(responses), "top": top}
        found = await self._post("/v1/rank", asked)
        ranking = self._reader.read(found, "ranking")
        count = len(responses) if top is None else min(top, len(responses))
        places = [self._reader.read(row, "index") for row in ranking]
        if len(places) > count or len(set(places) & set(range(len(responses)))) < len(places):
            raise self._reader.wrong(f"the places of up to {count} candidates", places)
        is_chain = spec.kind == "process"
        scores = [self._reader.any_score(row, spec, is_chain=is_chain) for row in ranking]
        return [
            self._reader.built(RankedResponse, row | {"score": score})
            for row, score in zip(ranking, scores, strict=True)
        ]

    async def _reaggregate(self, scores: Sequence[Score], chosen: dict[str, Any]) -> list[Any]:
        spec = await self._known_spec()
        rows = [score.to_row() for score in scores]
        found = await self._post("/v1/reaggregate", {"results": rows} | chosen)
        changed = self._reader.rows(found, "results", len(rows))
        return [
            self._reader.score(row, spec, score) for row, score in zip(changed, scores, strict=True)
        ]

    async def _set_aggregation(self, chosen: dict[str, Any]) -> dict[str, Any]:
        path = f"/v1/models/{await self._name()}/aggregation"
        found: dict[str, Any] = await self._connection.request("PUT", path, chosen)
        return found

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._connection.request("POST", path, {"model": await self._name()} | body)


def _placed(score: Score, record: Chain | Rating) -> Score:
    """Return a score with what the server is not told about the record."""
    placed = replace(score, **record_columns(record))
    if isinstance(placed, ChainScore):
        return placed
    return replace(placed, response=int(record.metadata.get(RESPONSE, 0)))


def _row(record: Chain | Rating) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "prompt": prompt_row(record.prompt)}
    if isinstance(record, Chain):
        return row | {"completions": list(record.completions)}
    return row | {"response": record.response}


def _chosen(
    step: StepAggregation | str | None,
    objective: ObjectiveAggregation | None,
    overrides: Mapping[str, Any] | None,
    shaping: Mapping[str, Any] | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if step is not None:
        found["step_aggregation"] = step if isinstance(step, str) else steps.to_dict(step)
    if objective is not None:
        found["objective_aggregation"] = objectives.to_dict(objective)
    if overrides is not None:
        found["overrides"] = dict(overrides)
    if shaping is not None:
        found["shaping"] = dict(shaping)
    return found
