"""Metrics as values: their facts are consistent, and units measure them by name."""

from __future__ import annotations

import numpy as np
import pytest

from prm.metrics.agreement import quadratic_kappa
from prm.metrics.binary import StepUnits, brier_score, error_ap, step_auroc
from prm.metrics.correlation import RankingUnits, spearman
from prm.metrics.first_error import ChainUnits, processbench_f1
from prm.metrics.metric import Metric
from prm.metrics.pairs import PairUnits, pair_accuracy, pair_brier, pair_ece, pair_nll
from prm.metrics.responses import ResponseMetrics
from prm.metrics.steps import StepMetrics
from prm.metrics.values import ValueUnits

KINDS = [StepUnits, ChainUnits, PairUnits, RankingUnits, ValueUnits]
ALL = [metric for kind in KINDS for metric in kind.metrics]


def metric(higher_is_better):
    return Metric("toy", "toy", higher_is_better, "made up", "toys")


@pytest.mark.parametrize(
    ("higher_is_better", "bounds", "verdict"),
    [
        (True, (0.1, 0.2), "better"),
        (True, (-0.2, -0.1), "worse"),
        (False, (0.1, 0.2), "worse"),
        (False, (-0.2, -0.1), "better"),
        (True, (0.0, 0.2), "undecided"),
        (False, (-0.2, 0.0), "undecided"),
        (None, (0.1, 0.2), None),
    ],
)
def test_a_difference_is_judged_by_the_direction(higher_is_better, bounds, verdict):
    assert metric(higher_is_better).better(*bounds) == verdict


def test_every_metric_says_what_it_is_and_one_name_is_one_meaning():
    assert all(m.heading and m.convention and m.unit for m in ALL)
    meanings = {(m.name, m.heading, m.higher_is_better, m.convention) for m in ALL}
    assert len({name for name, *_ in meanings}) == len(meanings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_units_names_a_metric_once(kind):
    names = [m.name for m in kind.metrics]
    assert len(set(names)) == len(names)


def test_training_logs_the_metrics_of_its_units():
    assert StepMetrics.metrics == (*StepUnits.metrics, *ChainUnits.metrics)
    assert ResponseMetrics.metrics == (*PairUnits.metrics, *ValueUnits.metrics)


def drawn(count=60, seed=0):
    generator = np.random.default_rng(seed)
    return generator, generator.integers(0, 12, count), generator.integers(0, 4, 12).astype(float)


def measured(units, multiplicity):
    """Return the metrics of units by name."""
    return dict(zip((m.name for m in units.metrics), units.measure(multiplicity), strict=True))


def test_steps_equal_the_pure_functions_under_any_weighting():
    generator, groups, multiplicity = drawn()
    p, y = generator.random(60).round(1), generator.integers(0, 2, 60).astype(float)
    units = StepUnits(p, y, groups)
    weights = multiplicity[groups]
    found = measured(units, multiplicity)
    assert found["step_auroc"] == pytest.approx(step_auroc(p, y, weights))
    assert found["error_ap"] == pytest.approx(error_ap(p, y, weights))
    assert found["brier"] == pytest.approx(brier_score(p, y, weights))
    assert units.values()["step_auroc"] == pytest.approx(step_auroc(p, y))


def test_chains_equal_the_pure_functions_under_any_weighting():
    generator, groups, multiplicity = drawn()
    guess, true = generator.integers(-3, 3, 60), generator.integers(-2, 3, 60)
    lowest = generator.choice([0.0, 1.0, np.nan], 60)
    units = ChainUnits(guess, true, lowest, groups)
    found = measured(units, multiplicity)
    weights = multiplicity[groups]
    wrong, clean = true >= 0, true == -1
    error_acc = np.average(guess[wrong] == true[wrong], weights=weights[wrong])
    correct_acc = np.average(guess[clean] == -1, weights=weights[clean])
    assert found["processbench_f1"] == pytest.approx(processbench_f1(error_acc, correct_acc))
    expected = np.average(guess[wrong] >= 0, weights=weights[wrong])
    assert found["error_recall"] == pytest.approx(expected)
    known = ~np.isnan(lowest)
    expected = np.average(lowest[known], weights=weights[known])
    assert found["min_on_last_step"] == pytest.approx(expected)
    counts = {m.name: units.count(m) for m in units.metrics}
    assert counts["error_acc"] == (true >= 0).sum()
    assert counts["min_on_last_step"] == known.sum()


def test_pairs_equal_the_pure_functions_under_any_weighting():
    generator, groups, multiplicity = drawn()
    margins, shares = generator.normal(size=60), generator.choice([1.0, 0.5], 60)
    margins[::7] = np.nan
    strengths = generator.integers(1, 4, 60).astype(float)
    units = PairUnits(margins, shares, strengths, groups)
    found = measured(units, multiplicity)
    known = ~np.isnan(margins)
    args = margins[known], np.ones(known.sum()), (multiplicity[groups] * shares)[known]
    assert found["pair_accuracy"] == pytest.approx(pair_accuracy(*args))
    assert found["pair_nll"] == pytest.approx(pair_nll(*args))
    assert found["pair_brier"] == pytest.approx(pair_brier(*args))
    assert found["pair_ece"] == pytest.approx(pair_ece(*args, debias=True))
    expected = spearman(margins[known], strengths[known], args[2])
    assert found["strength_spearman"] == pytest.approx(expected)
    assert units.count(next(iter(units.metrics))) == round(shares[known].sum())


def test_margins_that_are_no_log_odds_have_no_likelihood():
    found = PairUnits(np.array([1.0, -1.0]), is_probability=False).values()
    assert found["pair_accuracy"] == 0.5
    assert all(np.isnan(found[name]) for name in ("pair_nll", "pair_brier", "pair_ece"))


def test_grades_have_a_kappa_where_scores_are_in_their_units():
    labels, scores = np.array([1.0, 2, 3, 4]), np.array([1.2, 1.8, 3.9, 4.4])
    found = ValueUnits(scores, labels).values()
    assert found["quadratic_kappa"] == pytest.approx(quadratic_kappa([1, 2, 4, 4], labels))
    assert found["mse"] == pytest.approx(np.mean((scores - labels) ** 2))
    assert np.isnan(ValueUnits(scores, labels, log_odds=scores).values()["quadratic_kappa"])


@pytest.mark.parametrize(
    "units",
    [
        StepUnits(np.zeros(0), np.zeros(0)),
        ChainUnits(np.zeros(0), np.zeros(0), np.zeros(0)),
        PairUnits(np.zeros(0)),
        RankingUnits(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)),
        ValueUnits(np.zeros(0), np.zeros(0)),
    ],
    ids=lambda units: type(units).__name__,
)
def test_nothing_is_nan(units):
    assert all(np.isnan(value) for value in units.values().values())
    assert all(units.count(m) == 0 for m in units.metrics)
