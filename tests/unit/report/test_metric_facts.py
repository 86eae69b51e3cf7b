"""A metric is one entry of its units: tables, terminal, Markdown, JSON and monitor read it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from prm.errors import ConfigError
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.steps import StepPrediction
from prm.metrics.binary import StepUnits
from prm.metrics.metric import PLACES, Metric
from prm.metrics.responses import ResponseMetrics
from prm.metrics.steps import StepMetrics
from prm.records import Chain
from prm.report.evaluation import document, draw
from prm.report.markdown import render
from prm.training.callbacks import BestCheckpoint
from prm.training.meters import MONITORED, RANKING

SURE = Metric(
    "sure_and_wrong", "sure and wrong", False, "share of wrong steps above 0.9", "steps", "headline"
)
ROWS = [
    StepPrediction(Chain("?", ["a", "b"], [1, 0], group=str(n)), (0.95, 0.95 if n % 4 else 0.2))
    for n in range(40)
]


def sure_and_wrong(steps, weights):
    chosen = (steps.label < 0.5) & (steps.probability > 0.9)
    return float(weights[chosen].sum() / weights.sum())


@pytest.fixture
def one_more(monkeypatch):
    """A metric that is added in one place."""
    monkeypatch.setattr(StepUnits, "metrics", {SURE: sure_and_wrong, **StepUnits.metrics})


def report():
    return evaluate(Predictions(ROWS), num_resamples=50)


def test_a_new_metric_is_in_the_report_with_its_difference(one_more):
    stored = report().to_dict()
    assert stored["overall"]["model"]["metrics"]["sure_and_wrong"]["value"] == 30 / 80
    difference = stored["overall"]["always_correct"]["differences"]["sure_and_wrong"]
    assert (difference["value"], difference["verdict"]) == (30 / 80 - 40 / 80, "better")
    assert stored["conventions"]["sure_and_wrong"] == SURE.convention


def test_a_new_metric_is_in_markdown_and_on_the_terminal(one_more):
    text = render(document(report()))
    assert "| scorer | chains | sure and wrong | step AUROC |" in text
    assert "## all: sure and wrong, n = 80 steps" in text
    assert "- sure_and_wrong: share of wrong steps above 0.9" in text
    file = io.StringIO()
    draw(Console(file=file, width=120), report())
    assert "sure and wrong" in file.getvalue()


def test_a_new_metric_is_measured_in_validation(one_more):
    metrics = StepMetrics()
    probability, label = torch.tensor([0.95, 0.95]), torch.tensor([1.0, 0.0])
    metrics.update(probability, label, torch.zeros(2).long(), torch.tensor([1]))
    assert metrics.compute()["sure_and_wrong"].item() == 0.5


@pytest.mark.parametrize("width", [60, 300])
def test_the_place_of_a_metric_decides_which_columns_a_narrow_terminal_leaves_out(width):
    file = io.StringIO()
    draw(Console(file=file, width=width), report())
    shown = file.getvalue()
    first = next(section for section in document(report()).sections)
    by_heading = {column.heading: column.rank for column in first.blocks[0].columns}
    for metric in (*StepUnits.metrics, *report().steps.overall.metrics):
        assert PLACES[by_heading[metric.heading]] == metric.place
    assert "AUROC" in shown
    assert ("Brier" in shown) == ("oracle" in shown) == (width == 300)
    assert "| Brier |" in render(document(report()))


@pytest.mark.parametrize("metric", [*StepMetrics.metrics, *ResponseMetrics.metrics])
def test_a_checkpoint_is_chosen_by_metrics_of_which_more_is_better(metric, tmp_path):
    name = f"val/helpfulness/{metric.name}"
    if metric.higher_is_better:
        assert BestCheckpoint(tmp_path, name).mode == "max"
        return
    with pytest.raises(ConfigError, match="monitor is wrong"):
        BestCheckpoint(tmp_path, name)


def test_the_monitor_knows_the_mean_over_objectives_too():
    assert RANKING in MONITORED
    assert len(set(MONITORED)) == len(MONITORED)
    assert np.all([name not in MONITORED for name in ("brier", "ece", "pair_nll", "mse")])
