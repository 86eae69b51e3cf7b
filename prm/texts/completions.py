"""A completion, a policy's text after a prompt, as the record that a reward model scores.

Whatever asks for the reward of a text, a trainer, a server's client or a search, asks here what is
scored: the steps of the text as a chain, or the text as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prm.errors import ConfigError
from prm.records import Chain, Prompt, Rating
from prm.texts.steps import StepSpan, split_steps

if TYPE_CHECKING:
    from prm.spec import RewardSpec, StepFormat

RewardFrom = Literal["steps", "response"]
"""Whether the steps of a completion are scored, or the whole response."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what followed it.

    Args:
        prompt: The prompt.
        response: The text after it.
        steps: Its steps and where they stand.
        reason: Why it cannot be scored, where it is more than text.
    """

    prompt: Prompt
    response: str
    steps: tuple[StepSpan, ...]
    reason: str = ""

    @classmethod
    def read(cls, prompt: Prompt, response: str, step_format: StepFormat) -> Completion:
        r"""Return a completion with its steps.

        Example:
            >>> from prm.spec import StepFormat
            >>> found = Completion.read("1 + 2 * 3?", "2 * 3 = 6\n1 + 6 = 7", StepFormat())
            >>> found.record("steps").completions
            ('2 * 3 = 6', '1 + 6 = 7')
        """
        return cls(prompt, response, split_steps(response, step_format))

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The texts of the steps."""
        return tuple(step.text for step in self.steps)

    def is_empty(self, reward_from: RewardFrom) -> bool:
        """Whether there is no text to score, or no step."""
        return not self.steps if reward_from == "steps" else not self.response.strip()

    def record(self, reward_from: RewardFrom, id: str = "") -> Chain | Rating:
        """Return what is scored.

        Args:
            reward_from: Whether steps or the whole response are scored.
            id: Name of the record.

        Raises:
            DataError: Steps are scored, and there is none; or a text is not valid Unicode.
        """
        if reward_from == "steps":
            return Chain(self.prompt, self.step_texts, id=id)
        return Rating(self.prompt, self.response, id=id)


def choose_reward_from(spec: RewardSpec, wanted: RewardFrom | None = None) -> RewardFrom:
    """Return whether a model scores the steps of a completion or the whole response.

    Args:
        spec: The model's spec.
        wanted: What is asked for; by default the response, of a process model the steps.

    Raises:
        ConfigError: The model does not score that.
    """
    chosen: RewardFrom = wanted or ("response" if spec.response_heads else "steps")
    if not (spec.step_heads if chosen == "steps" else spec.response_heads):
        raise ConfigError(
            f"the model does not score {'steps' if chosen == 'steps' else 'whole responses'}",
            got=f"a model of kind {spec.kind}",
        )
    return chosen
