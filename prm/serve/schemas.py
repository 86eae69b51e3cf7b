"""What the native routes take and give, checked by pydantic and shown in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator, with_config

from prm.errors import DataError
from prm.messages import Message as RecordMessage
from prm.messages import read_messages
from prm.records import Chain, Rating
from prm.scores.rows import ChainRow, Probability, ResponseRow
from prm.spec import StepFormat
from prm.texts.completions import Completion

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Strict(BaseModel):
    """A body without fields that nobody reads."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Message(BaseModel):
    """One turn of a conversation, with what else a chat template may read."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    role: Name
    content: str | list[JsonValue] | None = Field(
        None, description="Text, parts of text, or null beside calls of tools."
    )


Prompt = str | Annotated[list[Message], Field(min_length=1)]


def _prompt(prompt: str | Sequence[Message]) -> Any:
    return prompt if isinstance(prompt, str) else plain_messages(prompt)


def plain_messages(messages: Sequence[Message]) -> tuple[RecordMessage, ...]:
    """Return messages as records keep them.

    Raises:
        DataError: One of them holds more than text and JSON values.
    """
    return read_messages([turn.model_dump() for turn in messages], None, "messages")


class ChainIn(Strict):
    """A chain of reasoning steps."""

    prompt: Prompt = Field(description="The problem, or a conversation that ends with the user.")
    completions: list[str] = Field(min_length=1, description="The steps, in order.")
    id: str = ""
    group: str = ""
    applicable: list[Name] | None = Field(
        None, description="Objectives that mean something for this record; by default all."
    )

    def record(self) -> Chain:
        """Return the record."""
        return Chain(_prompt(self.prompt), self.completions, id=self.id, group=self.group)


class ResponseIn(Strict):
    """A whole response."""

    prompt: Prompt = Field(description="The prompt, or a conversation that ends with the user.")
    response: str
    id: str = ""
    group: str = ""
    applicable: list[Name] | None = Field(
        None, description="Objectives that mean something for this record; by default all."
    )

    def record(self) -> Rating:
        """Return the record."""
        return Rating(_prompt(self.prompt), self.response, id=self.id, group=self.group)


class Aggregations(Strict):
    """Aggregations in place of those in force, for this request alone."""

    step_aggregation: str | dict[str, JsonValue] | None = Field(
        None, description="A name, or a name with parameters.", examples=["min", "product"]
    )
    objective_aggregation: str | dict[str, JsonValue] | None = Field(
        None, description="A name, or as in configs/aggregation.", examples=["worst_case"]
    )
    overrides: dict[str, JsonValue] | None = Field(
        None,
        description="Parameters of the objective aggregation to change.",
        examples=[{"weights.safety": 2}],
    )
    shaping: dict[str, JsonValue] | None = Field(
        None,
        description="What happens to the aggregated score: center, scale, squash, clip.",
        examples=[{"clip": [-5, 5]}],
    )

    def chosen(self) -> dict[str, Any]:
        """Return what `ServedModel.aggregated` takes."""
        return {
            "step_aggregation": self.step_aggregation,
            "objective_aggregation": self.objective_aggregation,
            "overrides": self.overrides,
            "shaping": self.shaping,
        }


class ForModel(Aggregations):
    """A request to one of the served models."""

    model: Name | None = Field(None, description="Name of a model; by default the first one.")


class ScoreRequest(ForModel):
    """Records to score."""

    records: list[Annotated[ChainIn | ResponseIn, Field(union_mode="left_to_right")]] = Field(
        description="Chains for a process model, responses for an outcome model.",
        examples=[[{"prompt": "2 + 2 = ?", "completions": ["2 + 2 = 4"]}]],
    )
    stream: bool = Field(False, description="Give rows of NDJSON as they are done.")


class StepsRequest(ForModel):
    """A chain, as steps or as one text that the model's separator splits."""

    prompt: Prompt
    response: str | None = Field(None, examples=["3 * 4 = 12\n2 + 12 = 15"])
    steps: list[str] | None = Field(None, min_length=1)
    threshold: Probability = Field(
        0.5, description="The first step with a probability below it is the first error."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> StepsRequest:
        if (self.response is None) == (self.steps is None):
            raise ValueError("give either response or steps")
        return self

    def chain(self, steps: Sequence[str]) -> Chain:
        """Return the record of these steps."""
        if not steps:
            raise DataError("the response has no steps", where="response")
        return Chain(_prompt(self.prompt), steps)


class RankRequest(ForModel):
    """Responses to one prompt."""

    prompt: Prompt
    responses: list[str] = Field(min_length=1, examples=[["7", "8"]])
    top: int | None = Field(None, ge=1, description="Give the best so many; by default all.")

    def completions(self, step_format: StepFormat) -> list[Completion]:
        """Return the responses with their steps."""
        prompt = _prompt(self.prompt)
        return [Completion.read(prompt, response, step_format) for response in self.responses]


for _kind in (ChainRow, ResponseRow):
    with_config(ConfigDict(extra="ignore"))(_kind)  # rows may hold texts and fields of others


class ReaggregateRequest(ForModel):
    """Rows that a score request gave, to be aggregated anew."""

    results: list[ChainRow | ResponseRow]


class AggregationRequest(Aggregations):
    """Aggregations to put in force for all requests that name none themselves."""


class InForce(BaseModel):
    """The aggregations of an answer."""

    step_aggregation: dict[str, Any] | None
    objective_aggregation: dict[str, Any] | None
    shaping: dict[str, Any]
    version: int = Field(description="Times the aggregations in force were changed.")


class ModelInfo(InForce):
    """A served model."""

    name: str
    kind: Literal["process", "outcome", "joint"]
    objectives: list[str] = Field(description="Objectives of whole responses.")
    step_objectives: list[str]
    reward_objective: str = Field(description="The step objective that is a chain's reward.")
    max_length: int
    separator: str = Field(description="What stands between the steps of a response.")


class ModelList(BaseModel):
    """The served models; the first one is the default."""

    models: list[ModelInfo]


class ModelReply(InForce):
    """What every answer says."""

    model: str


class ScoreReply(ModelReply):
    """A row per record, in order."""

    results: list[ChainRow | ResponseRow]


class StepOut(BaseModel):
    """A step, where it stands in the response, and its probability for each objective."""

    index: int
    text: str
    start: int | None
    end: int | None
    probabilities: dict[str, Probability | None]


class StepsReply(ModelReply):
    """The steps of a chain with their scores."""

    steps: list[StepOut]
    first_error: int | None = Field(description="-1 if there is none, null if it is not known.")
    reward: float | None
    aggregation: str
    scores: dict[str, float | None]
    num_truncated: int
    reason: str


class RankReply(ModelReply):
    """Score rows, the best first, with index, rank, margin and win_probability."""

    ranking: list[dict[str, Any]]


class Status(BaseModel):
    """Whether the server lives, or takes work."""

    status: str


class ErrorBody(BaseModel):
    """What was wrong, what was expected, what came, where, and what to do about it."""

    type: str
    message: str
    expected: str | None
    got: str | None
    where: str | None
    fix: str | None


class ErrorReply(BaseModel):
    """The body of every answer that is not 2xx."""

    error: ErrorBody
