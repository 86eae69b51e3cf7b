"""Best of N by hand, and what no ranking may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from prm.scores.ranking import rank_candidates

NAN = np.nan


def test_groups_in_order_best_first_and_without_reward_last():
    groups = np.array([0, 1, 0, 0, 1, 0])
    rewards = np.array([0.5, 1.0, NAN, 2.0, 1.0, 0.75])
    ranking = rank_candidates(groups, rewards)
    assert ranking.order.tolist() == [3, 5, 0, 2, 1, 4]
    assert ranking.rank.tolist() == [0, 1, 2, -1, 0, 1]
    np.testing.assert_allclose(ranking.margin, [1.25, 0.25, NAN, NAN, 0.0, NAN])
    assert np.isnan(ranking.win_probability).all()


def test_top_keeps_the_best_of_each_group():
    ranking = rank_candidates(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, NAN, NAN])).top(1)
    assert (ranking.order.tolist(), ranking.margin.tolist()) == ([1], [1.0])


def test_what_was_cut_off_comes_after_what_was_read_to_its_end():
    groups, rewards = np.array([0, 0, 0, 0, 1]), np.array([3.0, 2.0, 1.0, NAN, 5.0])
    cut = np.array([True, False, True, True, True])
    ranking = rank_candidates(groups, rewards, np.ones(5), cut)
    assert ranking.order.tolist() == [1, 0, 2, 3, 4]
    assert ranking.rank.tolist() == [0, 1, 2, -1, 0]
    np.testing.assert_allclose(ranking.margin, [NAN, 2.0, NAN, NAN, NAN])
    assert np.isnan(ranking.win_probability).tolist() == [True, False, True, True, True]


def test_win_probability_by_hand():
    groups, rewards = np.zeros(3, dtype=np.int64), np.array([1.0, 0.0, 0.0])
    ranking = rank_candidates(groups, rewards, np.array([0.3, 0.4, NAN]))
    assert ranking.win_probability[0] == pytest.approx(norm.cdf(1 / 0.5))
    assert np.isnan(ranking.win_probability[1:]).all()


REWARDS = arrays(float, 12, elements=st.floats(-5, 5).map(lambda value: round(value, 3)))


@given(REWARDS, st.integers(-8, 8))
def test_the_scale_of_rewards_changes_no_order(rewards, exponent):
    groups = np.arange(12) % 3
    changed = rank_candidates(groups, 2.0**exponent * rewards)
    assert changed.order.tolist() == rank_candidates(groups, rewards).order.tolist()
