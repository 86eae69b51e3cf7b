"""What the audit of trade-offs found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from prm.arrays import Array, Mask
from prm.metrics.intervals import Interval


@dataclass(frozen=True, slots=True)
class WinnerStatistics:
    """The winners under one aggregation.

    Args:
        parameters: Name and parameters of the aggregation.
        changed: Share of prompts where another response wins than under the base.
        pairs_flipped: Share of pairs of responses in the opposite order.
        tied: Share of prompts where several responses have the highest reward.
        dominated: Share of winners that another response to the prompt beats in some objective
            and equals in the others.
        utilities: Mean utility of the winners by objective.
        scores: Mean score of the winners by objective, in the heads' own units.
    """

    parameters: Mapping[str, Any]
    changed: Interval
    pairs_flipped: float
    tied: float
    dominated: float
    utilities: Mapping[str, float]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Flip:
    """What one setting of the weights changes.

    Args:
        setting: The factor on a weight, or the share of the first of two objectives.
        changed: Share of prompts where another response wins than with the weights as they are;
            `None` if all weights would be 0.
        pairs_flipped: Share of pairs of responses in the opposite order, likewise.
    """

    setting: float
    changed: float | None
    pairs_flipped: float | None


@dataclass(frozen=True, slots=True)
class Exchange:
    """The price of one objective in another, in utilities.

    Args:
        gained: The objective that rises by one unit.
        given: The objective that pays for it.
        rate: How far `given` may fall so that the reward stays: `(dR/du_gained) / (dR/du_given)`
            at the winners, median; `None` if no fall is accepted or the reward ignores `given`.
        low: Lower quartile over the winners, likewise.
        high: Upper quartile.
        paid: How far `given` really falls for one unit of `gained` between undominated responses
            to the same prompt, median; `None` if the two never conflict.
        num_conflicts: Pairs of responses that this is the median of.
    """

    gained: str
    given: str
    rate: float | None
    low: float | None
    high: float | None
    paid: float | None
    num_conflicts: int


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a small change of one weight does.

    Args:
        changed: Share of prompts where another response wins when the weight changes by 10 %, mean
            of up and down.
        utilities: Change of the winners' mean utility of each objective per unit of the weight's
            logarithm.
    """

    changed: float
    utilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pareto:
    """The choice that the data leave.

    Args:
        mean_front: Mean number of undominated responses per prompt.
        mean_candidates: Mean number of responses per prompt.
        single: Share of prompts where one response is best in everything.
        undominated: Share of responses that are undominated.
    """

    mean_front: float
    mean_candidates: float
    single: float
    undominated: float


@dataclass(frozen=True, slots=True)
class Scatter:
    """Candidates in the plane of the two objectives that conflict most, around prompt means."""

    objectives: tuple[str, str]
    points: Array
    dominated: Mask
    winner: Mask


@dataclass(frozen=True, slots=True)
class TradeoffReport:
    """Everything the audit found.

    Args:
        objectives: Names of the objectives.
        base: The choice that others are compared with.
        counts: Rows, prompts, and what was left out.
        choices: The winners under each aggregation, by name.
        references: Mean utility over all candidates, and of the best in each objective alone.
        agreement: Share of prompts with the same winner, by two names of choices.
        swept: Parameters of the aggregation whose weights are changed below.
        by_weight: Objective to what factors on its weight change.
        by_share: "a / b" to what dividing the weights of a and b anew changes.
        sensitivity: Objective to what a small change of its weight does.
        exchange: Prices of all ordered pairs of objectives under the base.
        pareto: The choice that the data leave.
        correlation: Correlation of utilities among responses to the same prompt; `None` for a
            constant objective.
        scatter: Points to plot; not in the JSON. `None` with one objective.
        settings: What the audit was made with.
    """

    objectives: tuple[str, ...]
    base: str
    counts: Mapping[str, int]
    choices: Mapping[str, WinnerStatistics]
    references: Mapping[str, Mapping[str, float]]
    agreement: Mapping[str, Mapping[str, float]]
    swept: Mapping[str, Any]
    by_weight: Mapping[str, tuple[Flip, ...]]
    by_share: Mapping[str, tuple[Flip, ...]]
    sensitivity: Mapping[str, Sensitivity]
    exchange: tuple[Exchange, ...]
    pareto: Pareto
    correlation: Mapping[str, Mapping[str, float | None]]
    scatter: Scatter | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        values = asdict(replace(self, scatter=None))
        del values["scatter"]
        return {"schema": "prm.tradeoff-report", "schema_version": 1, **values}
