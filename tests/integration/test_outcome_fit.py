"""`prm fit`, `test`, `predict` of outcome and joint models: what they write and refuse."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prm.cli.main import main
from prm.data.formats.outcomes import Outcomes
from prm.data.sources.source import Source
from prm.data.sources.writers import write_records
from prm.records import Comparison, Rating
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec
from tests.outcome_runs import (
    EQUAL,
    HELPFULNESS,
    LENGTH,
    SAFETY,
    TESTED,
    fit_outcomes,
    joint_config,
    one_objective,
    outcome_source,
    pairs,
    write_chains,
    write_outcome_config,
    write_outcomes,
)
from tests.runs import checkpoint, metrics, prm, read_jsonl, weights, write_pretrained

ENCODER: dict[str, Any] = {
    "class_path": "prm.models.sources.FromScratch",
    "init_args": {
        "config": {
            "model_type": "bert",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
        "vocab_size": 290,
    },
}


def saved(run: str = "run") -> list[str]:
    """Options that name a finished run in the working directory."""
    return ["--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/best.ckpt"]


def some_slow(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """Return parameters of which all but the quick ones are outside the default run."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three objectives from three sources, tested and predicted."""
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_outcomes(folder)
        objectives = [
            HELPFULNESS | {"normalizer": "zscore"},
            SAFETY | {"normalizer": "quantile"},
            LENGTH,
        ]
        model = {"responses": objectives}
        fit_outcomes(folder, trainer={"max_epochs": 3}, model=model, data=TESTED)
        for command in ("test", "predict"):
            prm(command, *saved(), "--results", command)
    return folder / "run"


def test_a_run_writes_everything_into_its_folder(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} < names
    assert {"model/model.safetensors", "model/prm_config.json", "model/README.md"} < names
    assert {f"samples/step-{step:07d}.md" for step in (5, 10, 15)} < names
    assert {f"{folder}/predictions.jsonl" for folder in ("test", "predict")} < names
    assert {"test/report.json", "test/report.md"} < names


def test_every_objective_learns_from_its_source(run: Path) -> None:
    assert metrics(run, "val/helpfulness/pair_accuracy")[-1] == 1.0
    assert metrics(run, "val/safety/auroc")[-1] == 1.0
    assert metrics(run, "val/length/spearman")[-1] > 0.8
    assert len(metrics(run, "val/ranking")) == 3


def test_the_loss_is_the_weighted_sum_of_its_parts(run: Path) -> None:
    names = ("helpfulness/preference", "safety/rating", "length/rating")
    parts = [metrics(run, f"train/loss_{name}") for name in names]
    for whole, helpfulness, safety, length in zip(metrics(run, "train/loss"), *parts, strict=True):
        assert whole == pytest.approx(helpfulness + safety + 0.1 * length, rel=1e-5)


def test_the_loss_with_learned_weights_is_that_of_the_step(run_dir: Path) -> None:
    """All factors are 1 before the first update, and its learning rate moves them far."""
    write_outcomes(run_dir)
    model = {"responses": [HELPFULNESS, SAFETY], "learn_weights": True, "lr": 1.0}
    fit_outcomes(run_dir, trainer={"limit_train_batches": 1, "max_epochs": 1}, model=model)
    run = run_dir / "run"
    names = ("loss_helpfulness/preference", "loss_safety/rating")
    parts = [metrics(run, f"train/{name}")[0] for name in names]
    assert metrics(run, "train/loss")[0] == pytest.approx(sum(parts), rel=1e-5)


def test_the_mixture_is_shown(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_outcomes(run_dir)
    fit_outcomes(run_dir, trainer={"limit_train_batches": 1})
    rows = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if line.strip()}
    assert rows["source"] == [
        "size",
        "helpfulness",
        "length",
        "safety",
        "in",
        "an",
        "epoch",
        "share",
    ]
    assert rows["pairs"] == ["24", "24", "0", "0", "24", "33.3%"]
    assert rows["verdicts"] == ["24", "0", "0", "24", "24", "33.3%"]
    assert rows["lengths"] == ["24", "0", "24", "0", "24", "33.3%"]


def test_the_exported_model_is_the_best_checkpoint(run: Path) -> None:
    rankings = metrics(run, "val/ranking")
    best = checkpoint(run, "best")
    assert best["global_step"] == 5 * (1 + rankings.index(max(rankings)))
    folder = json.loads((run / "model/config.json").read_text(encoding="utf-8"))
    assert folder["architectures"] == ["LlamaForSequenceClassification"]
    assert list(folder["id2label"].values()) == ["helpfulness", "safety", "length"]


def test_normalizers_are_fitted_on_validation_responses_and_stored(run: Path) -> None:
    """Utilities of the reference are standardized, or log-odds of their quantile."""
    scorer = RewardScorer.from_pretrained(run / "model")
    normalizers = scorer.spec.normalizers
    assert {name: item.name for name, item in normalizers.items()} == {
        "helpfulness": "z_score",
        "safety": "quantile",
    }
    assert {item.parameters()["source"] for item in normalizers.values()} == {"validation"}
    assert {item.parameters()["num"] for item in normalizers.values()} == {18 + 9 + 9}
    scores = scorer.score([rating for part in _validation(run.parent) for rating in part])
    helpful = torch.tensor([score.utilities["helpfulness"] for score in scores])
    assert helpful.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert helpful.std().item() == pytest.approx(1.0, abs=1e-4)
    safe = torch.tensor([score.utilities["safety"] for score in scores]).sigmoid()
    assert safe.mean().item() == pytest.approx(0.5, abs=0.01)


def _validation(folder: Path) -> list[list[Rating]]:
    found = []
    for name in ("pairs", "verdicts", "lengths"):
        for record in Source(str(folder / f"{name}-validation.jsonl"), Outcomes()):
            found.append([Rating(record.prompt, response) for response in record.responses])
    return found


def test_minimized_scores_count_against_the_reward(run: Path) -> None:
    scores = RewardScorer.from_pretrained(run / "model").score(("Ask 3", "word word word"))
    score = scores[0]
    assert score.utilities["length"] == -score.scores["length"]
    assert score.reward == pytest.approx(sum(score.utilities.values()) / 3)


def test_one_number_on_every_surface(run: Path) -> None:
    """Exported model = best checkpoint through `prm test` = `prm predict`."""
    scorer = RewardScorer.from_pretrained(run / "model")
    tested, predicted = (
        read_jsonl(run / name / "predictions.jsonl") for name in ("test", "predict")
    )
    records = [
        record
        for name in ("pairs", "verdicts", "lengths")
        for record in Source(str(run.parent / f"{name}-test.jsonl"), Outcomes(), name=name)
    ]
    assert len(tested) == len(predicted) == len(records) == 24
    for record, *rows in zip(records, tested, predicted, strict=True):
        scored = scorer.score([Rating(record.prompt, text) for text in record.responses])
        for row in rows:
            assert row["id"] == record.id
            assert row["rewards"] == pytest.approx([one.reward for one in scored], abs=1e-5)
            for name, values in row["scores"].items():
                assert values == pytest.approx([one.scores[name] for one in scored], abs=1e-5)


def test_validation_measures_the_exported_reward(run: Path) -> None:
    """The reward that is logged is the one that the model gives, normalizers included."""
    best = metrics(run, "val/ranking").index(max(metrics(run, "val/ranking")))
    scorer = RewardScorer.from_pretrained(run / "model")
    margins = []
    for record in Source(str(run.parent / "pairs-validation.jsonl"), Outcomes()):
        assert isinstance(record, Comparison)
        if record.ranks == (0, 1):
            first, second = scorer.score([Rating(record.prompt, text) for text in record.responses])
            margins.append(first.reward - second.reward)
    nll = torch.nn.functional.softplus(-torch.tensor(margins)).mean().item()
    assert metrics(run, "val/reward/pair_nll")[best] == pytest.approx(nll, rel=1e-4)


def test_the_report_measures_every_objective(run: Path) -> None:
    report = json.loads((run / "test/report.json").read_text(encoding="utf-8"))
    text = (run / "test/report.md").read_text(encoding="utf-8")
    assert "best.ckpt" in json.dumps(report)
    for heading in ("helpfulness (maximize)", "safety (maximize)", "length (minimize)"):
        assert heading in text
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert "val/safety/verdicts/auroc" in next(csv.reader(file))


@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_named_metric(run_dir: Path) -> None:
    write_outcomes(run_dir)
    config = write_outcome_config(
        run_dir, monitor="val/length/spearman", trainer={"max_epochs": 3}, model={"lr": 0.05}
    )
    prm("fit", "--config", config)
    values = metrics(run_dir / "run", "val/length/spearman")
    step = checkpoint(run_dir / "run", "best")["global_step"]
    assert step == 5 * (1 + values.index(max(values)))


LEVELS = {"name": "length", "direction": "minimize"}

LOSSES: dict[str, tuple[dict[str, Any], str]] = {
    "BradleyTerry": (
        {"preference": {"class_path": "BradleyTerry", "init_args": {"votes": True}}},
        "pairs",
    ),
    "PlackettLuce": ({"preference": {"class_path": "PlackettLuce"}}, "pairs"),
    "Davidson": ({"preference": {"class_path": "Davidson"}}, "pairs"),
    "RaoKupper": ({"preference": {"class_path": "RaoKupper"}}, "pairs"),
    "SignAwareCost": ({"preference": {"class_path": "SignAwareCost"}}, "pairs"),
    "GaussianPreference": (
        {"preference": {"class_path": "GaussianPreference"}, "readout": "gaussian"},
        "pairs",
    ),
    "BinaryCrossEntropy": (
        {
            "rating": {
                "class_path": "BinaryCrossEntropy",
                "init_args": {"positive_weight": "balanced"},
            }
        },
        "verdicts",
    ),
    "CumulativeLink": (
        {"rating": {"class_path": "CumulativeLink", "init_args": {"num_levels": 3}}},
        "lengths",
    ),
    "Pinball": ({"rating": {"class_path": "Pinball"}, "readout": "quantile"}, "lengths"),
    "GaussianLikelihood": (
        {"rating": {"class_path": "GaussianLikelihood"}, "readout": "gaussian"},
        "lengths",
    ),
}

OBJECTIVE_OF = {"pairs": "helpfulness", "verdicts": "safety", "lengths": "length"}


@pytest.mark.parametrize("loss", some_slow(LOSSES, ("CumulativeLink", "Pinball")))
def test_every_loss_trains_and_exports(run_dir: Path, loss: str) -> None:
    write_outcomes(run_dir)
    options, name = LOSSES[loss]
    objective = {"name": OBJECTIVE_OF[name], **options}
    run = fit_outcomes(
        run_dir, trainer={"max_epochs": 6}, **one_objective(objective, name, lr=0.02)
    )
    losses = metrics(run, "train/loss")
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
    score = RewardScorer.from_pretrained(run / "model").score(("Ask 3", "word word"))[0]
    assert score.reward == score.scores[objective["name"]]
    assert (score.spreads is not None) == ("readout" in options)


@pytest.mark.parametrize("read_at", some_slow(("pooler", "mean", "last"), ("pooler",)))
def test_an_encoder_trains_and_exports(run_dir: Path, read_at: str) -> None:
    write_outcomes(run_dir)
    response_format = {"end": "none", "read_at": read_at}
    model = {"backbone": ENCODER, "response_format": response_format}
    run = fit_outcomes(run_dir, model=model, trainer={"max_epochs": 6})
    losses = metrics(run, "train/loss_safety/rating")
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
    assert RewardScorer.from_pretrained(run / "model").score(("Task 1", "bomb"))[0].reward
    assert (run / "model/heads.safetensors").is_file() == (read_at != "pooler")


def test_joint_models_train_on_chains_and_responses(run_dir: Path) -> None:
    write_outcomes(run_dir)
    write_chains(run_dir)
    prm("fit", "--config", joint_config(run_dir, trainer={"max_epochs": 3}))
    run = run_dir / "run"
    for name in ("train/loss_correctness", "train/loss_safety/rating", "val/ranking"):
        assert len(metrics(run, name)) > 2
    assert len(metrics(run, "val/step_auroc")) == 3
    prm("test", *saved())
    scorer = RewardScorer.from_pretrained(run / "model")
    assert scorer.spec.kind == "joint"
    chain, response = scorer.score([("1 + 1 = ?", ["2"]), ("Task 1", "bomb")])
    assert 0 < chain.reward < 1
    assert set(response.scores) == {"helpfulness", "safety"}
    for folder in ("test/process", "test/outcome"):
        assert (run / folder / "predictions.jsonl").is_file()
    report = json.loads((run / "test/report.json").read_text(encoding="utf-8"))
    assert report["overall"]["length_only"]["differences"]["step_auroc"]["n"] > 0
    assert set(report["objectives"]) == {"helpfulness", "safety"}
    for row in read_jsonl(run / "test/outcome/predictions.jsonl")[:3]:
        texts = [record for record in pairs(200, 8) if record.prompt == row["group"]]
        scored = scorer.score([Rating(texts[0].prompt, text) for text in texts[0].responses])
        expected = [one.scores["helpfulness"] for one in scored]
        assert row["scores"]["helpfulness"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_frozen_backbone_changes_only_heads(run_dir: Path) -> None:
    write_outcomes(run_dir)
    start = weights(fit_outcomes(run_dir, "start", model={"lr": 0.0}))
    for name, value in weights(fit_outcomes(run_dir, model={"freeze_backbone": True})).items():
        assert torch.equal(value, start[name]) != name.startswith("model.heads"), name


@pytest.mark.slow
def test_lora_trains_and_exports_heads(run_dir: Path) -> None:
    pytest.importorskip("peft")
    write_outcomes(run_dir)
    write_pretrained(run_dir / "base")
    backbone = {"class_path": "Pretrained", "init_args": {"path": "base"}}
    lora = {"class_path": "prm.models.lora.LoRA"}
    run = fit_outcomes(run_dir, model={"backbone": backbone, "lora": lora}, data=TESTED)
    prm("test", *saved())
    state = weights(run)
    heads = state["model.heads.layers.weight"]
    assert all(value.any() for name, value in state.items() if "lora_B" in name)
    scorer = RewardScorer.from_pretrained(run / "model")
    assert not torch.equal(scorer.model.heads.layers.weight, torch.zeros_like(heads))
    row = read_jsonl(run / "test/predictions.jsonl")[0]
    scored = scorer.score([Rating("Question 200", text) for text in ("please 4", "never 0")])
    for name, values in row["scores"].items():
        assert values == pytest.approx([one.scores[name] for one in scored], abs=1e-5)


def test_a_language_model_regularizes(run_dir: Path) -> None:
    write_outcomes(run_dir)
    language_model = {"loss_weight": 0.5}
    run = fit_outcomes(run_dir, model={"language_model": language_model}, trainer={"max_epochs": 2})
    losses = metrics(run, "train/loss_language_model")
    assert losses[-1] < losses[0]


def test_shuffled_labels_end_near_chance(run_dir: Path) -> None:
    """The control trains as long, and ranks held-out prompts no better than a coin."""
    for part, (start, count) in {"train": (0, 60), "validation": (100, 60)}.items():
        write_records(pairs(start, count), run_dir / f"pairs-{part}.jsonl")
    changes = one_objective(HELPFULNESS, "pairs")
    plain = fit_outcomes(run_dir, "plain", trainer={"max_epochs": 3}, **changes)
    changes["data"]["shuffle_labels"] = True
    control = fit_outcomes(run_dir, "control", trainer={"max_epochs": 3}, **changes)
    name = "val/helpfulness/pair_nll"
    assert metrics(plain, "val/helpfulness/pair_accuracy")[-1] == 1.0
    assert metrics(plain, name)[-1] < 0.2
    assert metrics(control, name)[-1] > 0.5


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must fail with one line, and return the line."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(str(stop.code))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(lines) == 1
    return lines[0]


def _grades(folder: Path) -> None:
    rows = [Rating(f"Task {index}", "bomb", {"safety": 3.0}) for index in range(4)]
    write_records(rows, folder / "verdicts-train.jsonl", overwrite=True)


def _ties(folder: Path) -> None:
    rows = [Comparison(f"Question {i}?", ["b", "c"], [0, 0], objective="helpfulness") for i in "12"]
    write_records(rows, folder / "pairs-validation.jsonl", overwrite=True)


ROBERTA = copy.deepcopy(ENCODER)
ROBERTA["init_args"]["config"] |= {"model_type": "roberta", "max_position_embeddings": 96}

ERRORS: dict[str, tuple[dict[str, Any], str, Callable[[Path], None] | None]] = {
    "ratings without a rating loss": (
        one_objective({"name": "safety"}, "verdicts"),
        "24 ratings of objective 'safety', and no loss uses them",
        None,
    ),
    "comparisons without a preference loss": (
        one_objective(HELPFULNESS | {"rating": {"class_path": "MeanSquaredError"}}, "pairs"),
        "24 comparisons of objective 'helpfulness', and no loss uses them",
        None,
    ),
    "an unknown objective": (
        one_objective({"name": "honesty"}, "pairs"),
        "no training record has a label of objective 'honesty'",
        None,
    ),
    "several objectives and no aggregation": (
        {"model": {"objective_aggregation": None}},
        "objective_aggregation is missing",
        None,
    ),
    "weights of other objectives": (
        {"model": {"objective_aggregation": EQUAL | {"init_args": {"weights": {"honesty": 1.0}}}}},
        "honesty",
        None,
    ),
    "a rating of 3 for binary cross-entropy": (
        one_objective(SAFETY, "verdicts"),
        "expected a number in [0, 1], got 3.0",
        _grades,
    ),
    "ratings between levels": (
        one_objective(
            {
                "name": "length",
                "rating": {"class_path": "CumulativeLink", "init_args": {"num_levels": 2}},
            },
            "lengths",
        ),
        "expected a whole number from 0 to 1, got 2.0",
        None,
    ),
    "a readout that the loss cannot train": (
        one_objective(HELPFULNESS | {"readout": "gaussian"}, "pairs"),
        "BradleyTerry cannot train the readout of 'helpfulness'",
        None,
    ),
    "quantiles without their loss": (
        one_objective(HELPFULNESS | {"readout": "quantile"}, "pairs"),
        "Pinball",
        None,
    ),
    "a pooler of a decoder": (
        {"model": {"response_format": {"read_at": "pooler"}}},
        "expected response_format.read_at 'last', got pooler",
        None,
    ),
    "a language model on an encoder": (
        {"model": {"backbone": ENCODER, "language_model": {"loss_weight": 0.1}}},
        "language_model needs a decoder",
        None,
    ),
    "positions that RoBERTa keeps for padding": (
        {"model": {"backbone": ROBERTA, "max_length": 96}},
        "max_length is over the backbone's position limit: expected at most 95, got 96",
        None,
    ),
    "an unknown normalizer": (
        one_objective(HELPFULNESS | {"normalizer": "z"}, "pairs"),
        "normalizer",
        None,
    ),
    "a metric of nothing": (
        {"monitor": "val/honesty/pair_accuracy"},
        "do not decide val/honesty/pair_accuracy: expected one of val/helpfulness/",
        None,
    ),
    "a metric of which less is better": ({"monitor": "val/length/mse"}, "monitor is wrong", None),
    "validation data that rank nothing": (
        one_objective(HELPFULNESS, "pairs"),
        "the validation data do not decide val/ranking",
        _ties,
    ),
    "a set over the budget": ({"data": {"max_tokens": 12}}, "max_tokens", None),
    "two objectives of one name": (
        {"model": {"responses": [HELPFULNESS, HELPFULNESS]}},
        "unique names",
        None,
    ),
}


QUICK = (
    "ratings without a rating loss",
    "several objectives and no aggregation",
    "a rating of 3 for binary cross-entropy",
    "a pooler of a decoder",
    "a language model on an encoder",
    "a metric of nothing",
)


@pytest.mark.parametrize("name", some_slow(ERRORS, QUICK))
def test_a_wrong_option_is_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    changes, expected, arrange = ERRORS[name]
    write_outcomes(run_dir)
    if arrange is not None:
        arrange(run_dir)
    config = write_outcome_config(run_dir, **changes)
    assert expected in error_of(capsys, "fit", "--config", config)
    assert not Path("run/model").exists()


@pytest.mark.parametrize("kind", some_slow(("process", "joint"), ("joint",)))
def test_an_encoder_cannot_read_steps(
    run_dir: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    write_outcomes(run_dir)
    write_chains(run_dir)
    path = joint_config(run_dir, model={"backbone": ENCODER})
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if kind == "process":
        config["model"]["init_args"] |= {"responses": None, "objective_aggregation": None}
        chains = [config["data"]["init_args"]["train"][-1]]
        config["data"]["init_args"] = {"train": chains}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "lets tokens see later tokens" in error_of(capsys, "fit", "--config", path)


def test_a_dataset_of_another_kind_is_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chains for a model without step objectives name the source that does not fit."""
    write_chains(run_dir)
    wrong = outcome_source("chains-train.jsonl", format={"class_path": "HFStepwise"})
    config = write_outcome_config(run_dir, data={"train": [wrong]})
    error = error_of(capsys, "fit", "--config", config)
    assert "no objectives of steps" in error
    assert "chains-train.jsonl" in error


def test_the_spec_of_a_checkpoint_is_that_of_the_run(run: Path) -> None:
    spec = RewardSpec.from_json(checkpoint(run, "best")["prm"]["spec"])
    assert [item.name for item in spec.response_heads] == ["helpfulness", "safety", "length"]
    assert [item.direction for item in spec.response_heads] == ["maximize"] * 2 + ["minimize"]
