"""`RewardWeighting`: a weighting tied to the training of a policy with TRL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object  # type: ignore[import-untyped]
from transformers import TrainerCallback

from prm.aggregation.objectives import ObjectiveAggregation
from prm.atomic import write_text
from prm.errors import ConfigError
from prm.rl.reward_function import CompletionReward, RewardFunction
from prm.rl.weighting import Weighting

STATE_FILE = "prm_weighting.json"
"""Where a checkpoint keeps the state of its weighting."""


class RewardWeighting(TrainerCallback):
    """Sets the aggregation of a reward function at every step of a TRL trainer.

    The weighting is shown the mean utility of each objective over all answers of a training step
    and all ranks; answers of evaluations do not count. Logs get, at every logging step, what the
    last answers were weighted with (`prm/weighting/weights.safety`, `prm/weighting/multiplier`) and
    their mean utilities (`prm/utility_mean/safety`). Every checkpoint gets a file with the
    weighting's state, which a resumed run continues from.

    Args:
        function: The reward function that the trainer asks, itself or through views.
        weighting: What gives the aggregation of each step.

    Raises:
        ConfigError: They are not about the same objectives.

    Example:
        >>> function = RewardFunction("runs/replies/model")  # doctest: +SKIP
        >>> points = {0: {"weights.safety": 1}, 500: {"weights.safety": 4}}  # doctest: +SKIP
        >>> ramp = WeightSchedule(WeightedSum(), function.objectives, points)  # doctest: +SKIP
        >>> weighting = RewardWeighting(function, ramp)  # doctest: +SKIP
        >>> GRPOTrainer(policy, function, args, data, callbacks=[weighting])  # doctest: +SKIP
    """

    def __init__(self, function: RewardFunction, weighting: Weighting) -> None:
        if weighting.objectives != function.objectives:
            raise ConfigError(
                "the weighting is not about the objectives of the reward function",
                expected=", ".join(function.objectives),
                got=", ".join(weighting.objectives),
            )
        self.function = function
        self.weighting = weighting
        self.used: dict[str, float] = {}
        self._summing: Any = None
        self._in_force: dict[str, float] = {}
        self._means: dict[str, float] = {}
        self._seen: list[CompletionReward] = []
        self._is_training = self._is_restored = False
        function.observers.append(self._observe)

    def attach(self, trainer: Any) -> None:
        """Run before the trainer's other callbacks, so that experiment trackers get the values too.

        If the trainer has one reward function per objective and sums them itself, its
        `reward_weights` are kept equal to the weights in force.

        Args:
            trainer: A `GRPOTrainer` or `RLOOTrainer`, with this callback or without.

        Raises:
            ConfigError: The trainer has reward functions for a part of the objectives only; at a
                step, it sums them and the aggregation is not a weighted sum.
        """
        handler, names = trainer.callback_handler, set(self.function.objectives)
        handler.callbacks = [self, *(other for other in handler.callbacks if other is not self)]
        found = names & set(trainer.reward_func_names)
        if found and found != names:
            raise ConfigError(
                "the trainer has no reward function for some objectives",
                expected=", ".join(self.function.objectives),
                got=", ".join(trainer.reward_func_names),
            )
        self._summing = trainer if found else None

    def save(self, folder: str | Path) -> None:
        """Write the state of the weighting into a checkpoint's folder."""
        data = {"weighting": type(self.weighting).__name__, "state": self.weighting.state_dict()}
        write_text(Path(folder) / STATE_FILE, json.dumps(data, indent=2) + "\n")

    def restore(self, folder: str | Path) -> None:
        """Continue from a checkpoint; a trainer that resumes does it by itself.

        Raises:
            ConfigError: The folder holds no state, or that of another weighting.
        """
        path, kind = Path(folder) / STATE_FILE, type(self.weighting).__name__
        if not path.is_file():
            raise ConfigError(
                "the checkpoint does not say where its weighting was",
                expected=str(path),
                fix="Call restore() of the callback with the right folder before training",
            )
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("weighting") != kind:
            raise ConfigError(
                "the checkpoint is of another weighting",
                expected=kind,
                got=data.get("weighting"),
                where=str(path),
            )
        self.weighting.load_state_dict(data["state"])
        self._is_restored = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Continue where the checkpoint was, if the trainer resumes from one."""
        if state.global_step > 0 and not self._is_restored and self.weighting.state_dict():
            self.restore(_checkpoint(args, state))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the aggregation of the step."""
        aggregation = self.weighting.aggregation(state.global_step)
        self.function.set_objective_aggregation(aggregation)
        self._in_force = self.weighting.values(state.global_step)
        self._is_training = True
        if self._summing is not None:
            self._set_reward_weights(aggregation)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the weighting what the step's answers got."""
        self._is_training = False
        seen, self._seen = self._seen, []
        means = self._means_over_ranks(seen)
        self._means = means or self._means
        self.weighting.observe(means)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add to a training step's log what the last answers were weighted with, and got."""
        if logs is None or "loss" not in logs:
            return
        values = {f"prm/weighting/{name}": value for name, value in self.used.items()}
        values |= {f"prm/utility_mean/{name}": value for name, value in self._means.items()}
        logs.update(values)
        state.log_history[-1].update(values)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the state into the checkpoint."""
        if state.is_world_process_zero:
            self.save(_checkpoint(args, state))

    def _observe(self, rewards: Sequence[CompletionReward]) -> None:
        if self._is_training:
            self.used = self._in_force
            self._seen.extend(rewards)

    def _means_over_ranks(self, seen: Sequence[CompletionReward]) -> dict[str, float]:
        """Return objective to the mean of its known utilities; every rank gets the same."""
        values = {
            name: [value for reward in seen if (value := reward.objectives[name]) is not None]
            for name in self.function.objectives
        }
        parts = gather_object([{name: (sum(own), len(own)) for name, own in values.items()}])
        means = {}
        for name in values:
            totals, counts = zip(*(part[name] for part in parts), strict=True)
            if any(counts):
                means[name] = sum(totals) / sum(counts)
        return means

    def _set_reward_weights(self, aggregation: ObjectiveAggregation) -> None:
        weights = aggregation.linear_weights(self.function.objectives)
        if weights is None:
            raise ConfigError(
                "the aggregation cannot be written as reward_weights",
                expected="a weighted sum",
                got=aggregation,
            )
        for name, weight in weights.items():
            self._summing.reward_weights[self._summing.reward_func_names.index(name)] = weight


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
