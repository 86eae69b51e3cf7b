"""One report for both kinds: that of a joint model has everything of each."""

from __future__ import annotations

import json

import torch

from prm.aggregation.objectives import WeightedSum
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.responses import ResponsePrediction
from prm.evaluation.steps import StepPrediction
from prm.records import Chain, Comparison
from prm.report.evaluation import document, headline, write, write_predictions
from prm.report.markdown import render
from prm.spec import ResponseHead, RewardSpec, StepHead

SPEC = RewardSpec(
    step_heads=(StepHead(),),
    response_heads=(ResponseHead("helpfulness"),),
    objective_aggregation=WeightedSum(),
)
CHAINS = [
    StepPrediction(Chain("?", ["a", "b"], [1, n % 2], id=str(n), group=str(n)), (0.9, 0.3 + n / 40))
    for n in range(20)
]
PAIRS = [
    ResponsePrediction(
        Comparison(f"{n}?", ["yes, so", "no"], objective="helpfulness", id=f"p{n}"),
        torch.tensor([[1.0], [n % 3 - 0.5]]),
        torch.tensor([1.0, n % 3 - 0.5]),
    )
    for n in range(20)
]
TRAINING = [p.chain for p in CHAINS] + [p.record for p in PAIRS]


def joint(training=TRAINING):
    both = Predictions(CHAINS, PAIRS, ("helpfulness",), apart=True)
    return evaluate(both, SPEC, training, num_resamples=20)


def numbers(report):
    """Return a report without what says how it was made."""
    general = ("schema", "settings", "conventions", "context", "data_sha256")
    return {key: value for key, value in report.to_dict().items() if key not in general}


def test_a_joint_report_is_both_reports():
    steps = evaluate(Predictions(CHAINS), SPEC, TRAINING, num_resamples=20)
    responses = evaluate(
        Predictions(responses=PAIRS, objectives=("helpfulness",)), SPEC, TRAINING, num_resamples=20
    )
    assert numbers(joint()) == numbers(steps) | numbers(responses)
    schemas = [report.to_dict()["schema"] for report in (steps, responses, joint())]
    assert schemas == ["prm.process-report", "prm.outcome-report", "prm.joint-report"]
    assert joint().settings == steps.settings | responses.settings


def test_each_kind_learns_its_baselines_from_its_own_records():
    report = joint()
    assert list(report.steps.overall.differences) == [
        "always_correct",
        "index_only",
        "index_and_length",
        "length_only",
        "bag_of_words",
    ]
    differences = report.objectives["helpfulness"].overall.differences
    assert list(differences) == ["constant", "length_only", "tfidf"]
    assert list(joint(None).steps.overall.differences) == ["always_correct"]


def test_what_one_name_means_for_both_is_said_twice():
    conventions = joint().conventions()
    assert conventions["length_only"] == (
        "logistic regression on the lengths of step and prompt; "
        "logistic regression on the response's length and its logarithm"
    )


def test_one_page_and_a_folder_of_rows_for_each_kind(tmp_path):
    report = joint()
    names = {str(path.relative_to(tmp_path)) for path in write(report, tmp_path)}
    assert {"report.json", "report.md"} < names
    assert {"process/predictions.jsonl", "outcome/predictions.jsonl"} < names
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(
        json.dumps(report.to_dict())
    )
    text = render(document(report))
    assert "# Joint evaluation" in text
    assert "## all: 20 chains" in text
    assert "## helpfulness (maximize)" in text
    lines = headline(report).splitlines()
    assert lines[1].startswith("steps: step AUROC ")
    assert lines[2].startswith("helpfulness: pair accuracy ")


def test_rows_of_one_kind_lie_in_the_folder_itself(tmp_path):
    assert write_predictions(Predictions(CHAINS), tmp_path) == [tmp_path / "predictions.jsonl"]
    alone = Predictions(responses=PAIRS, objectives=("helpfulness",), apart=True)
    assert write_predictions(alone, tmp_path) == [tmp_path / "outcome" / "predictions.jsonl"]
