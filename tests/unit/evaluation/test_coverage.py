"""Intervals cover what they claim: 200 simulated data sets of 40 problems for each kind of metric.

The true value is that of a data set of 20,000 problems. Problems differ in how hard they are, so
that the units of one depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from prm.arrays import Array
from prm.evaluation.parts import MODEL, Bootstrap, Part, measure_part
from prm.evaluation.steps import SourceUnits
from prm.metrics.binary import StepUnits, strata_of
from prm.metrics.correlation import RankingUnits
from prm.metrics.first_error import ChainUnits
from prm.metrics.intervals import Statistic, cluster_bootstrap
from prm.metrics.metric import Units
from prm.metrics.pairs import PairUnits, sigmoid
from prm.metrics.values import ValueUnits

NUM_DATA_SETS = 200
NUM_PROBLEMS = 40
BASELINE = "baseline"

Generator = np.random.Generator
Scorers = dict[str, Sequence[Units]]
Make = Callable[[Generator, int], Scorers]


def problems(num_problems: int, num_units: int) -> np.ndarray:
    return np.repeat(np.arange(num_problems), num_units)


def pairs(generator: Generator, num_problems: int, skill: float) -> Scorers:
    """Three pairs per prompt, as the model and a weaker scorer that follows it see them."""
    groups = problems(num_problems, 3)
    margins = generator.normal(skill, 1, len(groups))
    margins += 0.7 * generator.normal(size=num_problems)[groups]
    strengths = np.exp(margins / 3 + 0.5 * generator.normal(size=len(groups)))
    weaker = 0.5 * margins + 0.7 * generator.normal(size=len(groups))
    return {
        name: [PairUnits(values, strengths=strengths, groups=groups)]
        for name, values in ((MODEL, margins), (BASELINE, weaker))
    }


def steps(generator: Generator, num_problems: int, skill: float) -> Scorers:
    """Three chains of four steps per problem; the baseline knows the index of a step alone."""
    groups = problems(num_problems, 12)
    index = np.tile(np.arange(4), 3 * num_problems)
    ease = 0.7 * generator.normal(size=num_problems)[groups] + generator.normal(size=len(groups))
    labels = (generator.random(len(groups)) < sigmoid(1 - 0.4 * index + ease)).astype(float)
    scores = skill * (labels - 0.5) + generator.normal(size=len(groups))
    scores += 0.4 * generator.normal(size=num_problems)[groups]
    strata = strata_of(np.zeros(len(groups)), index)
    return {
        name: [StepUnits(probabilities, labels, groups, strata)]
        for name, probabilities in ((MODEL, sigmoid(scores)), (BASELINE, 1 - index / 5))
    }


def chains(generator: Generator, num_problems: int, accuracy: float) -> Scorers:
    """Three chains per problem from two sources, six in ten of them with an error."""
    groups = problems(num_problems, 3)
    skill = np.log(accuracy / (1 - accuracy)) + 0.7 * generator.normal(size=num_problems)
    has_error = generator.random(len(groups)) < 0.6
    true = np.where(has_error, generator.integers(0, 4, len(groups)), -1)
    missed = np.where(has_error & (generator.random(len(groups)) < 0.5), -1, (true + 1) % 4)
    hit = generator.random(len(groups)) < sigmoid(skill[groups])
    lowest = (generator.random(len(groups)) < 0.4).astype(float)
    units = ChainUnits(np.where(hit, true, missed), true, lowest, groups)
    return {MODEL: [units, SourceUnits(units, groups % 2)]}


def rated(generator: Generator, num_problems: int, graded: bool) -> Scorers:
    """Three ratings per prompt, of 0 and 1 or in five grades, and rankings of three responses."""
    groups = problems(num_problems, 3)
    quality = generator.normal(size=len(groups)) + 0.7 * generator.normal(size=num_problems)[groups]
    scores = quality + generator.normal(size=len(groups))
    labels = np.clip(np.round(1.2 * quality + 3), 1, 5) if graded else (quality > 0).astype(float)
    values = np.clip(scores + 3, 1, 5) if graded else scores
    taus = np.clip(0.4 + 0.3 * quality, -1, 1)
    points = (generator.random(len(groups)) < sigmoid(0.5 + quality)).astype(float)
    return {
        MODEL: [
            ValueUnits(values, labels, None if graded else scores, groups),
            RankingUnits(taus, points, groups),
        ]
    }


WORLDS: dict[str, Make] = {
    "pairs": partial(pairs, skill=1.0),
    "easy pairs": partial(pairs, skill=1.8),
    "steps": partial(steps, skill=1.2),
    "easy steps": partial(steps, skill=2.5),
    "chains": partial(chains, accuracy=0.6),
    "easy chains": partial(chains, accuracy=0.85),
    "ratings": partial(rated, graded=False),
    "grades": partial(rated, graded=True),
}


def measured(make: Make, seed: int, num_problems: int, bootstrap: Bootstrap) -> Part:
    scorers = make(np.random.default_rng(seed), num_problems)
    return measure_part(scorers, num_problems, {}, bootstrap)


def without_bounds(statistic: Statistic, num_groups: int) -> tuple[Array, Array, Array]:
    return cluster_bootstrap(statistic, num_groups, num_resamples=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover_the_truth(name: str) -> None:
    truth = measured(WORLDS[name], 999, 20_000, without_bounds)
    covered: dict[str, int] = {}
    for seed in range(NUM_DATA_SETS):
        bootstrap = partial(cluster_bootstrap, num_resamples=500, seed=seed)
        part = measured(WORLDS[name], seed, NUM_PROBLEMS, bootstrap)
        rows = {"value": part.scores[MODEL], **part.differences}
        true = {"value": truth.scores[MODEL], **truth.differences}
        for kind, row in rows.items():
            for metric, interval in row.items():
                value = true[kind][metric].value
                if value is not None and interval.low is not None and interval.high is not None:
                    key = f"{metric}, {kind}"
                    inside = interval.low <= value <= interval.high
                    covered[key] = covered.get(key, 0) + inside
    shares = {key: count / NUM_DATA_SETS for key, count in covered.items()}
    assert len(shares) > 2
    wrong = {key: share for key, share in shares.items() if not 0.90 <= share <= 0.98}
    assert not wrong


@pytest.mark.parametrize("name", ["pairs", "steps", "ratings"])
def test_what_no_interval_covers_has_none(name: str) -> None:
    bootstrap = partial(cluster_bootstrap, num_resamples=20)
    part = measured(WORLDS[name], 0, NUM_PROBLEMS, bootstrap)
    without = [m for m in part.decided if not m.has_interval]
    assert {m.name for m in without} <= {"ece", "pair_ece"}
    assert without
    for rows in (part.scores[MODEL], *part.differences.values()):
        assert all(rows[m.name].low is None and rows[m.name].high is None for m in without)
    assert all(row[m.name].verdict is None for row in part.differences.values() for m in without)
