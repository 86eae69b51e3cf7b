"""What search needs of a language model: samples that continue the beginning of a response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from prm.errors import ConfigError, DataError
from prm.records import Prompt

End = Literal["step", "end", "length"]
"""Why a sample ends: at the stop string, because the response is complete, or it is cut off."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: Softmax temperature, 0 or more; 0 takes the most probable token.
        top_p: Tokens are drawn from the most probable ones that have this much mass, in (0, 1].
        max_tokens: Tokens of one sample, at least 1; in beam search, of one step.

    Raises:
        ConfigError: A number is out of range.
    """

    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "0 or more", 0 <= self.temperature < float("inf"))
        _check("top_p", self.top_p, "above 0, at most 1", 0 < self.top_p <= 1)
        _check("max_tokens", self.max_tokens, "at least 1", self.max_tokens >= 1)


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """Asks for samples that continue a response.

    Args:
        prompt: What is answered.
        prefix: The response so far; empty to begin one.
        num_samples: Number of samples, at least 1.
        seed: Equal requests get equal samples, as far as the generator keeps to seeds.
    """

    prompt: Prompt
    prefix: str = ""
    num_samples: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation.

    Args:
        text: Its text, without the stop string.
        end: Why it ends.
    """

    text: str
    end: End


class Generator(Protocol):
    """A language model that samples."""

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""

    def identity(self) -> dict[str, Any]:
        """Return what samples depend on, as JSON values by name."""

    def sample(
        self, requests: Sequence[SamplingRequest], stop: str | None = None
    ) -> list[list[Sample] | DataError]:
        """Return the samples of each request, or why its prompt is refused.

        Args:
            requests: What to continue.
            stop: Text that ends a sample; without it samples are whole responses.

        Raises:
            PrmError: Nothing can be generated.
        """


def derived_seed(seed: int, *parts: object) -> int:
    """Return a seed in [0, 2^31) for something that has a name, whatever is done before it.

    Example:
        >>> derived_seed(0, "1 + 1?") == derived_seed(0, "1 + 1?") != derived_seed(1, "1 + 1?")
        True
    """
    text = json.dumps([seed, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _check(name: str, value: float, expected: str, fits: bool) -> None:
    if not fits:
        raise ConfigError(f"{name} is wrong", expected=expected, got=value)
