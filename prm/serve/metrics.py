"""What the server counts, for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from torch import Tensor

from prm.scoring.stages import Score
from prm.serve.batching import Pass

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = tuple(2**power for power in range(6, 18))
REWARDS = (-10, -5, -2, -1, -0.5, 0.0, *(tenth / 10 for tenth in range(1, 11)), 2, 5, 10)


class ServerMetrics:
    """The metrics of one server; `text` is what Prometheus reads.

    Args:
        reward_range: Lowest and highest reward that is expected; any if `None`.
    """

    def __init__(self, reward_range: tuple[float, float] | None = None) -> None:
        self.reward_range = reward_range or (-math.inf, math.inf)
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="prm", registry=self.registry)
        gauge = partial(Gauge, namespace="prm", registry=self.registry)
        histogram = partial(Histogram, namespace="prm", registry=self.registry)
        self.requests = counter("requests", "Requests answered, by status.", ["path", "status"])
        self.latency = histogram("request_seconds", "Time to answer.", ["path"], buckets=SECONDS)
        self.active = gauge("requests_active", "Requests being read or answered.")
        self.body_bytes = gauge("body_bytes", "Bytes of bodies in memory.")
        self.waiting = gauge("queue_requests", "Requests waiting for the model.", ["model"])
        self.jobs = histogram(
            "pass_requests", "Requests in a forward pass.", ["model"], buckets=SIZES
        )
        self.inputs = histogram(
            "pass_records", "Records in a forward pass.", ["model"], buckets=SIZES
        )
        self.pass_tokens = histogram(
            "pass_tokens", "Tokens of a forward pass.", ["model"], buckets=TOKENS
        )
        self.pass_seconds = histogram(
            "pass_seconds", "Time of a forward pass.", ["model"], buckets=SECONDS
        )
        self.tokens = counter("tokens", "Tokens that the model computed.", ["model"])
        self.rewards = histogram("reward", "Rewards that were given.", ["model"], buckets=REWARDS)
        self.missing = counter("rewards_missing", "Records without a reward.", ["model"])
        self.nan = counter("nan", "Reads at which the model gave a number not finite.", ["model"])
        self.out_of_range = counter(
            "rewards_out_of_range", "Rewards outside --reward_range.", ["model"]
        )
        self.truncated = counter("records_truncated", "Records cut off.", ["model"])
        self.version = gauge("aggregation_version", "Times the aggregation was changed.", ["model"])
        self.weight = gauge(
            "objective_weight",
            "Weight in force of an objective; NaN if the aggregation is not linear.",
            ["model", "objective"],
        )

    def of_model(self, name: str) -> ModelMetrics:
        """Return the metrics of one model."""
        return ModelMetrics(self, name)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics of one served model."""

    def __init__(self, metrics: ServerMetrics, name: str) -> None:
        self._name = name
        self._jobs = metrics.jobs.labels(name)
        self._inputs = metrics.inputs.labels(name)
        self._pass_tokens = metrics.pass_tokens.labels(name)
        self._pass_seconds = metrics.pass_seconds.labels(name)
        self._tokens = metrics.tokens.labels(name)
        self._rewards = metrics.rewards.labels(name)
        self._missing = metrics.missing.labels(name)
        self._nan = metrics.nan.labels(name)
        self._out_of_range = metrics.out_of_range.labels(name)
        self._truncated = metrics.truncated.labels(name)
        self._metrics = metrics

    def watch(
        self,
        num_waiting: Callable[[], int],
        version: Callable[[], int],
        weights: Mapping[str, Callable[[], float]],
    ) -> None:
        """Read the queue and the aggregation of the model whenever the metrics are read.

        Args:
            num_waiting: Requests that wait.
            version: Times the aggregation was changed.
            weights: Objective to its weight in force.
        """
        self._metrics.waiting.labels(self._name).set_function(num_waiting)
        self._metrics.version.labels(self._name).set_function(version)
        for name, weight in weights.items():
            self._metrics.weight.labels(self._name, name).set_function(weight)

    def count_pass(self, done: Pass) -> None:
        """Count a forward pass."""
        self._jobs.observe(done.num_jobs)
        self._inputs.observe(done.num_inputs)
        self._pass_tokens.observe(done.num_tokens)
        self._pass_seconds.observe(done.seconds)
        self._tokens.inc(done.num_tokens)

    def count_reads(self, columns: Tensor) -> None:
        """Count the reads `[read, column]` at which the model gave a number that is not finite."""
        self._nan.inc(int((~columns.isfinite()).any(dim=-1).sum()))

    def count(self, score: Score) -> None:
        """Count the score of a record."""
        low, high = self._metrics.reward_range
        if score.reward is None:
            self._missing.inc()
        else:
            self._rewards.observe(score.reward)
            self._out_of_range.inc(not low <= score.reward <= high)
        self._truncated.inc(bool(score.num_truncated))
