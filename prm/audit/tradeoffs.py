"""How the choice of an aggregation changes decisions: who wins, at which price, how firmly.

A decision is the best response to a prompt. All numbers are about the user's own stored scores:
over prompts with two or more responses that have a score of every objective. Of candidates with
equal rewards the first wins; `tied` says how often that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from prm.aggregation.objectives import (
    ObjectiveAggregation,
    WeightedSum,
    objective_aggregation,
    to_dict,
)
from prm.arrays import Indices
from prm.audit.decisions import Decisions, correlation
from prm.audit.exchange import exchange_rates
from prm.audit.sweeps import Sweep
from prm.audit.tradeoff_report import TradeoffReport
from prm.scores.tables import ResponseTable

BASE = "base"
"""Name of the choice that others are compared with."""


def audit_tradeoffs(
    table: ResponseTable,
    base: ObjectiveAggregation,
    compared: Mapping[str, ObjectiveAggregation] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> TradeoffReport:
    """Measure how decisions on stored scores depend on the aggregation.

    Args:
        table: Score rows with their groups and spec.
        base: The aggregation to compare with.
        compared: More aggregations by name, beside equal weights, the worst case, and each
            objective alone.
        settings: What to note in the report.

    Raises:
        DataError: No prompt has two responses with all scores, or rows have no group.
    """
    table.check_groups()
    decisions = Decisions.of(table, base)
    choices = {BASE: base, **_standard(table.objectives), **(compared or {})}
    winners = {name: decisions.winners(choice) for name, choice in choices.items()}
    sweep = Sweep.around(decisions, base)
    return TradeoffReport(
        table.objectives,
        BASE,
        decisions.counts(table),
        {name: decisions.statistics(choice) for name, choice in choices.items()},
        decisions.references(),
        agreement(winners),
        to_dict(sweep.aggregation),
        {name: sweep.by_weight(name) for name in table.objectives},
        {f"{a} / {b}": sweep.by_share(a, b) for a, b in combinations(table.objectives, 2)},
        {name: sweep.sensitivity(name) for name in table.objectives},
        exchange_rates(decisions, base),
        decisions.pareto(),
        correlation(table.objectives, decisions.centered()),
        decisions.scatter(),
        dict(settings or {}),
    )


def _standard(objectives: Sequence[str]) -> dict[str, ObjectiveAggregation]:
    alone = {
        f"{name} only": WeightedSum({other: float(other == name) for other in objectives})
        for name in objectives
    }
    worst = objective_aggregation("worst_case")
    return {"equal weights": WeightedSum(), "worst case": worst, **alone}


def agreement(winners: Mapping[str, Indices]) -> dict[str, dict[str, float]]:
    """Return the share of prompts with the same winner, by two names."""
    return {
        name: {other: float((mine == theirs).mean()) for other, theirs in winners.items()}
        for name, mine in winners.items()
    }
