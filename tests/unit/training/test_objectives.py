"""What an objective to train says in the spec."""

from __future__ import annotations

from prm.losses.rating import Pinball
from prm.training.objectives import ResponseObjective


def test_levels_of_quantiles_go_to_the_spec() -> None:
    objective = ResponseObjective("length", rating=Pinball((0.2, 0.9)), readout="quantile")
    assert objective.spec.levels == (0.2, 0.9)
    assert not objective.spec.has_centered_score
    assert ResponseObjective("style").spec.levels == ()
