"""Winners, pairs and dominated candidates, against plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from prm.audit.groups import PromptGroups, share_flipped


@pytest.fixture
def rivals():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 12, size=60)
    usable = generator.random(60) < 0.9
    found = PromptGroups.of(groups, usable)
    return found, groups, usable, generator.integers(-3, 4, size=(len(found.rows), 3)).astype(float)


def members(found):
    return [np.flatnonzero(found.groups == group) for group in range(found.num_groups)]


def test_candidates_are_the_usable_rows_of_groups_with_rivals(rivals):
    found, groups, usable, _ = rivals
    expected = [row for row in np.flatnonzero(usable) if (groups[usable] == groups[row]).sum() > 1]
    assert sorted(found.rows.tolist()) == expected
    assert all(len(set(groups[found.rows[part]])) == 1 for part in members(found))
    assert found.sizes.tolist() == [len(part) for part in members(found)]


def test_winners_are_the_first_best(rivals):
    found, _, _, values = rivals
    expected = [part[np.argmax(values[part, 0])] for part in members(found)]
    assert found.winners(values[:, 0]).tolist() == expected


@pytest.mark.parametrize("limit", [1 << 22, 50])
def test_dominated_as_the_definition_says(rivals, limit):
    found, _, _, values = rivals
    expected = np.zeros(len(values), dtype=bool)
    for part in members(found):
        for i in part:
            better = [
                (values[j] >= values[i]).all() and (values[j] > values[i]).any() for j in part
            ]
            expected[i] = any(better)
    assert found.dominated(values, limit).tolist() == expected.tolist()


def test_all_pairs_and_random_pairs_stay_within_groups(rivals):
    found, *_ = rivals
    expected = {pair for part in members(found) for pair in combinations(part.tolist(), 2)}
    assert set(zip(*(side.tolist() for side in found.pairs(10_000)), strict=True)) == expected
    first, second = found.pairs(20)
    assert len(first) == 20
    assert (first != second).all()
    assert (found.groups[first] == found.groups[second]).all()


def test_share_flipped_counts_no_ties():
    pairs = np.array([0, 0, 1]), np.array([1, 2, 2])
    before, after = np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 2.0])
    assert share_flipped(pairs, before, after) == pytest.approx(2 / 3)
    assert share_flipped(pairs, before, before) == 0


def test_group_means(rivals):
    found, _, _, values = rivals
    for part in members(found):
        np.testing.assert_allclose(found.group_means(values)[part[0]], values[part].mean(axis=0))
