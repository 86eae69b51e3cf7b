"""`ServeOptions`: the limits and habits of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from prm.errors import ConfigError

MEGABYTE = 1 << 20

_NO_LIMITS = ("reward_range", "log_texts", "policy_tokenizer", "policy_options", "empty_reward")


@dataclass(frozen=True)
class RequestOptions:
    """What a server accepts, how long it waits, and what it logs.

    Args:
        reward_range: Rewards outside these two numbers are counted in the metrics, as
            [LOWEST, HIGHEST].
        max_body_bytes: Most bytes of a request; more get 413.
        max_records: Most records of a request: chains, responses or inputs; more get 413.
        max_record_tokens: Most tokens of a record; more get 413. The model's `max_length` may cut
            it off earlier.
        max_request_tokens: Most tokens of a request; more get 413.
        max_waiting: Most requests that are read or wait at a time; more get 429.
        max_waiting_bytes: Most bytes of their bodies; more get 429.
        timeout: Seconds that a request may wait for its scores; then it gets 503.
        body_timeout: Seconds that a client may take to send a request; then it gets 408.
        write_timeout: Seconds that a client may take to read a part of a reply.
        drain_timeout: Seconds that accepted requests get when the server stops.
        log_texts: Write the bodies of requests into the log.
        policy_tokenizer: Folder or name of the tokenizer of the policy whose texts OpenRLHF,
            LLaMA-Factory and slime send; by default that of the model.
        policy_options: What the policy's chat template was given beside messages, as a JSON
            object; thinking turned on or off, and the date, are recognized without it.
        empty_reward: Reward of a response without any text in these dialects; by default it has
            none, which stops a trainer.

    Raises:
        ConfigError: A limit is not above 0, or the range is empty.
    """

    reward_range: tuple[float, float] | None = None
    max_body_bytes: int = 16 * MEGABYTE
    max_records: int = 1024
    max_record_tokens: int = 65536
    max_request_tokens: int = 4 * MEGABYTE
    max_waiting: int = 256
    max_waiting_bytes: int = 256 * MEGABYTE
    timeout: float = 120.0
    body_timeout: float = 20.0
    write_timeout: float = 20.0
    drain_timeout: float = 120.0
    log_texts: bool = False
    policy_tokenizer: str | None = None
    policy_options: dict[str, Any] | None = None
    empty_reward: float | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(RequestOptions)):
            value = getattr(self, name)
            if name not in _NO_LIMITS and not 0 < value < math.inf:
                raise ConfigError(f"--{name} is wrong", expected="a number above 0", got=value)
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            expected = "[LOWEST, HIGHEST]"
            raise ConfigError("--reward_range is wrong", expected=expected, got=self.reward_range)


@dataclass(frozen=True)
class ServeOptions(RequestOptions):
    """How a server treats requests, and who may send them.

    Args:
        token: Bearer token that requests must show; nobody is asked for one if empty.
    """

    token: str = ""
