"""`prm fit`, `validate`, `test`, `predict`: what they write, and one number on every surface."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from prm.cli.main import main
from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.module import RecordDataModule
from prm.data.sources.source import Source
from prm.errors import ConfigError
from prm.models.sources import FromScratch
from prm.scoring.scorer import RewardScorer
from prm.training.objectives import StepObjective
from prm.training.strategies import check_precision
from prm.training.task import RewardTask
from tests.runs import (
    LLAMA,
    assert_same_weights,
    checkpoint,
    fit,
    metrics,
    prm,
    read_jsonl,
    source,
    weights,
    write_arithmetic,
    write_config,
    write_data,
    write_pretrained,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs that several tests look at."""
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_data(folder)
        fit(folder, trainer={"max_epochs": 3})
        for command in ("test", "predict"):
            prm(command, *saved(), "--results", command)
    return folder / "run"


def saved() -> list[str]:
    """Options that name a finished run in the working directory."""
    return ["--config", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt"]


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


def fit_error(capsys: pytest.CaptureFixture[str], folder: Path, **changes: Any) -> str:
    return error_of(capsys, "fit", "--config", write_config(folder, **changes))


def test_a_run_writes_everything_into_its_folder(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} < names
    assert {"model/model.safetensors", "model/prm_config.json", "model/README.md"} < names
    assert {f"samples/step-{step:07d}.md" for step in (3, 6, 9)} < names
    assert {f"{folder}/predictions.jsonl" for folder in ("test", "predict")} < names
    assert {"test/report.json", "test/report.md"} < names
    assert not [name for name in names if name.endswith((".part", ".old"))]
    assert {path.name for path in run.parent.iterdir() if path.is_dir()} == {"run"}


def test_the_metrics_of_every_step_and_validation_are_kept(run: Path) -> None:
    assert metrics(run, "step") == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]
    for name in ("step_auroc", "error_ap", "ece", "brier", "processbench_f1"):
        assert len(metrics(run, f"val/{name}")) == 3


def test_the_sample_table_shows_the_first_chains(run: Path) -> None:
    rows = (run / "samples/step-0000009.md").read_text(encoding="utf-8").splitlines()[2:]
    assert {row.split("|")[1].strip() for row in rows} == {
        f"arithmetic-easy-train-1-{index}" for index in range(4)
    }


def test_the_saved_configuration_says_the_same(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["max_length"] == 128
    assert config["data"]["init_args"]["train"][0]["init_args"]["path"] == "train.jsonl"
    assert "ckpt_path" in config


def test_one_number_on_every_surface(run: Path) -> None:
    """Exported model = best checkpoint through `prm test` = `prm predict`."""
    chains = list(Source(str(run.parent / "test.jsonl"), HFStepwise()))
    scores = RewardScorer.from_pretrained(run / "model").score(chains)
    tested, predicted = (
        read_jsonl(run / name / "predictions.jsonl") for name in ("test", "predict")
    )
    assert len(tested) == len(predicted) == len(chains) == 7
    for chain, score, *rows in zip(chains, scores, tested, predicted, strict=True):
        for row in rows:
            assert row["id"] == chain.id
            assert row["probabilities"] == pytest.approx(score.probabilities, abs=1e-5)


def test_the_report_counts_the_test_data(run: Path) -> None:
    report = json.loads((run / "test/report.json").read_text(encoding="utf-8"))
    assert "best.ckpt" in json.dumps(report)
    assert (run / "test/report.md").stat().st_size > 500


def test_validate_repeats_the_validation_of_the_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    prm("validate", *saved())
    best = max(metrics(run, "val/step_auroc"))
    assert f"{best:.4f}" in capsys.readouterr().out.replace(str(best), f"{best:.4f}")


def test_the_exported_model_is_the_best_checkpoint(run: Path) -> None:
    aurocs = metrics(run, "val/step_auroc")
    best = checkpoint(run, "best")
    assert best["global_step"] == 3 * (1 + aurocs.index(max(aurocs)))
    assert "best.ckpt" in (run / "model/README.md").read_text(encoding="utf-8")


def test_a_used_run_folder_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    before = (run / "metrics.csv").read_bytes()
    error = error_of(capsys, "fit", "--config", "run.yaml")
    assert "already holds a run" in error
    assert "--overwrite" in error
    assert (run / "metrics.csv").read_bytes() == before


def test_training_fits_what_it_sees(run_dir: Path) -> None:
    write_arithmetic(run_dir / "train.jsonl", 8)
    for name in ("validation", "test"):
        write_arithmetic(run_dir / f"{name}.jsonl", 8)
    trained = fit(run_dir, trainer={"max_epochs": 60}, model={"lr": 0.02})
    losses = metrics(trained, "train/loss")
    assert losses[0] > 0.5
    assert losses[-1] < 0.1
    assert metrics(trained, "val/step_auroc")[-1] == 1.0


LOSSES = {
    "BCE": {"label_smoothing": 0.1, "error_weight": "balanced"},
    "CrossEntropy": {"step_weighting": "chain"},
    "MSE": {"error_weight": 2.0},
    "QValueRanking": {"zeta": 2.0},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_exports(run_dir: Path, loss: str) -> None:
    write_data(run_dir)
    objective = {"loss": {"class_path": loss, "init_args": LOSSES[loss]}}
    trained = fit(run_dir, model={"steps": [objective]}, trainer={"max_epochs": 4})
    losses = metrics(trained, "train/loss")
    assert sum(losses[-3:]) < sum(losses[:3])
    scorer = RewardScorer.from_pretrained(trained / "model")
    readout = "softmax" if loss == "CrossEntropy" else "sigmoid"
    assert scorer.spec.step_heads[0].readout == readout


def write_two_objectives(folder: Path) -> None:
    """Write chains whose odd ones have no label of redundancy."""
    for name in ("train", "validation", "test"):
        rows = read_jsonl(folder / f"{name}.jsonl")
        for index, row in enumerate(rows):
            size = len(row["completions"])
            redundant = [float(step % 2) for step in range(size)] if index % 2 == 0 else None
            row["labels"] = {"correctness": row["labels"]} | (
                {"redundancy": redundant} if redundant else {}
            )
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def test_several_objectives_train_beside_each_other(run_dir: Path) -> None:
    write_data(run_dir)
    write_two_objectives(run_dir)
    objectives = [
        {"name": "correctness"},
        {"name": "redundancy", "loss": {"class_path": "CrossEntropy"}, "loss_weight": 0.5},
    ]
    trained = fit(
        run_dir,
        model={"steps": objectives, "chain_reward": "correctness"},
        trainer={"max_epochs": 8},
    )
    whole = metrics(trained, "train/loss")
    parts = [metrics(trained, f"train/loss_{name}") for name in ("correctness", "redundancy")]
    for total, correctness, redundancy in zip(whole, *parts, strict=True):
        assert total == pytest.approx(correctness + 0.5 * redundancy, rel=1e-5)
    assert sum(parts[1][-3:]) < 0.8 * sum(parts[1][:3])
    spec = RewardScorer.from_pretrained(trained / "model").spec
    assert [(o.name, o.readout) for o in spec.step_heads] == [
        ("correctness", "sigmoid"),
        ("redundancy", "softmax"),
    ]


def test_a_frozen_backbone_changes_only_heads(run_dir: Path) -> None:
    write_data(run_dir)
    start = weights(fit(run_dir, "start", model={"lr": 0.0, "step_format": {"marker": None}}))
    for name, value in weights(fit(run_dir, model={"freeze_backbone": True})).items():
        assert torch.equal(value, start[name]) != name.startswith("model.heads"), name


def test_gradient_checkpointing_gives_the_same_update(run_dir: Path) -> None:
    write_data(run_dir)
    plain = fit(run_dir, "plain")
    assert_same_weights(plain, fit(run_dir, model={"gradient_checkpointing": True}))


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradient_checkpointing_recomputes_a_pretrained_model(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, recomputed: bool
) -> None:
    """Stock models come in evaluation mode, in which transformers would ignore the option."""
    write_data(run_dir, 24, 1)
    write_pretrained(run_dir / "base")
    calls: list[bool] = []
    forward = Qwen2MLP.forward

    def count(layer: Qwen2MLP, states: torch.Tensor) -> torch.Tensor:
        calls.append(layer.training)
        return forward(layer, states)

    monkeypatch.setattr(Qwen2MLP, "forward", count)
    backbone = {"class_path": "prm.models.sources.Pretrained", "init_args": {"path": "base"}}
    fit(run_dir, model={"backbone": backbone, "gradient_checkpointing": recomputed})
    in_check = 1  # whether the model is random in training mode
    assert sum(calls) == in_check + (6 if recomputed else 3)


@pytest.mark.parametrize(
    "model", [{}, {"language_model": {"loss_weight": 0.3}}, {"head": "mlp"}], ids=str
)
def test_the_update_does_not_depend_on_the_token_budget(
    run_dir: Path, model: dict[str, Any]
) -> None:
    """One micro-batch or many, the same three steps."""
    write_data(run_dir, 21)
    large = fit(run_dir, "large", model=model, data={"max_tokens": 4096})
    small = fit(run_dir, "small", model=model, data={"max_tokens": 48})
    assert_same_weights(large, small)
    assert metrics(large, "train/loss") == pytest.approx(metrics(small, "train/loss"), rel=1e-5)


def test_scaled_gradients_are_refused() -> None:
    """Without a GPU, Lightning itself takes bfloat16 for float16."""
    with pytest.raises(ConfigError, match="16-mixed is not supported"):
        check_precision("16-mixed")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_trainer_of_ones_own_is_told_of_its_precision(precision: Any, run_dir: Path) -> None:
    path = write_arithmetic(run_dir / "train.jsonl", 8)
    data = RecordDataModule(train=[Source(str(path), HFStepwise())])
    trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False, max_epochs=1)
    source = FromScratch(LLAMA, vocab_size=270)
    with pytest.raises(ConfigError, match=f"trainer.precision {precision} is not supported"):
        trainer.fit(RewardTask(source, steps=[StepObjective()]), data)


def test_mixed_precision_keeps_float32_weights_and_heads(run_dir: Path) -> None:
    write_data(run_dir)
    trained = fit(run_dir, trainer={"precision": "bf16-mixed"})
    assert {value.dtype for value in weights(trained).values()} == {torch.float32}
    assert all(math.isfinite(loss) for loss in metrics(trained, "train/loss"))
    model = RewardScorer.from_pretrained(trained / "model").model
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_bfloat16_backbone_has_float32_heads(run_dir: Path) -> None:
    write_data(run_dir)
    backbone = {
        "class_path": "prm.models.sources.FromScratch",
        "init_args": {"config": LLAMA, "vocab_size": 270, "dtype": "bfloat16"},
    }
    trained = fit(run_dir, model={"backbone": backbone, "lr": 0.001})
    for name, value in weights(trained).items():
        heads = name.startswith("model.heads")
        assert value.dtype == (torch.float32 if heads else torch.bfloat16), name
    assert RewardScorer.from_pretrained(trained / "model").score([("1 + 1 = ?", ["2"])])


def test_an_mlp_head_is_exported(run_dir: Path) -> None:
    write_data(run_dir)
    fit(run_dir, model={"head": "mlp"})
    prm("test", *saved())
    chains = list(Source("test.jsonl", HFStepwise()))
    scores = RewardScorer.from_pretrained("run/model").score(chains)
    for score, row in zip(scores, read_jsonl(Path("run/test/predictions.jsonl")), strict=True):
        assert row["probabilities"] == pytest.approx(score.probabilities, abs=1e-5)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_schedule_ends_with_the_run(run_dir: Path, epochs: int) -> None:
    """Linear from the peak at step 0 to 0 after the last step, whatever the epochs."""
    write_data(run_dir, 40)
    schedule = {"decay": "linear", "warmup": 0}
    run = fit(run_dir, model={"schedule": schedule}, trainer={"max_epochs": epochs})
    steps = 5 * epochs
    expected = [0.01 * (1 - step / steps) for step in range(steps)]
    assert metrics(run, "train/lr") == pytest.approx(expected, rel=1e-4)
    assert checkpoint(run)["lr_schedulers"][0]["_last_lr"][0] == pytest.approx(0.0, abs=1e-12)


def test_limited_batches_shorten_the_schedule(run_dir: Path) -> None:
    write_data(run_dir, 40)
    schedule = {"decay": "linear", "warmup": 0}
    run = fit(run_dir, model={"schedule": schedule}, trainer={"limit_train_batches": 2})
    assert metrics(run, "train/lr") == pytest.approx([0.01, 0.005], rel=1e-4)


def test_gradient_clip_limits_the_step(run_dir: Path) -> None:
    write_data(run_dir)
    optimizer = {"class_path": "torch.optim.SGD"}
    moved = {}
    start = weights(fit(run_dir, "start", model={"lr": 0.0, "optimizer": optimizer}))
    for clip in (0.01, None):
        model = {
            "gradient_clip": clip,
            "optimizer": optimizer,
            "schedule": {"decay": "constant", "warmup": 0},
        }
        end = weights(fit(run_dir, f"clip-{clip}", model=model))
        moved[clip] = math.sqrt(sum(float((end[k] - start[k]).square().sum()) for k in start))
    assert moved[0.01] <= 3 * 0.01 * 0.01 * 1.001
    assert moved[None] > 10 * moved[0.01]


def test_learning_rate_of_heads_and_weight_decay_have_an_effect(run_dir: Path) -> None:
    write_data(run_dir)
    groups = checkpoint(fit(run_dir, model={"head_lr_factor": 5.0, "weight_decay": 0.1}))[
        "optimizer_states"
    ][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [0.01, 0.01, 0.05, 0.05]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]


def test_without_validation_data_the_last_step_is_exported(run_dir: Path) -> None:
    write_data(run_dir)
    run = fit(run_dir, data={"validation": None, "validation_share": 0.0})
    assert not (run / "checkpoints/best.ckpt").exists()
    assert "last step" in (run / "model/README.md").read_text(encoding="utf-8")


def test_shuffled_labels_keep_their_number(run_dir: Path) -> None:
    write_data(run_dir, 40)
    for shuffled in (False, True):
        fit(run_dir, f"{shuffled}", data={"shuffle_labels": shuffled, "batch_size": 40})
    first, second = (metrics(run_dir / name, "train/loss")[0] for name in ("False", "True"))
    assert first != second
    assert first == pytest.approx(second, rel=0.05)


def test_decontamination_takes_problems_out(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data(run_dir)
    against = [source("validation.jsonl"), source("train.jsonl", limit=10)]
    trained = fit(run_dir, data={"decontaminate_against": against, "batch_size": 1})
    problems = {row["prompt"] for row in read_jsonl(run_dir / "train.jsonl")[:10]}
    problems |= {row["prompt"] for row in read_jsonl(run_dir / "validation.jsonl")}
    kept = [r for r in read_jsonl(run_dir / "train.jsonl") if r["prompt"] not in problems]
    assert len(metrics(trained, "train/loss")) == len(kept) <= 14
    assert f"decontamination took out {24 - len(kept)} of 24 records" in caplog.text


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "typo in the trainer": ({"trainer": {"max_epoch": 1}}, "max_epoch"),
    "typo in the model": ({"model": {"learning_rate": 1}}, "learning_rate"),
    "typo in the data": ({"data": {"batchsize": 1}}, "batchsize"),
    "typo on top": ({"overwite": True}, "overwite"),
    "a source without a format": ({"data": {"train": [{"path": "train.jsonl"}]}}, "format"),
    "unknown loss": ({"model": {"steps": [{"loss": {"class_path": "BCEE"}}]}}, "BCEE"),
    "no such file": ({"data": {"train": [source("absent.jsonl")]}}, "absent.jsonl"),
    "over the position limit": ({"model": {"max_length": 300}}, "max_length"),
    "labels named differently": ({"model": {"steps": [{"name": "x"}]}}, "objective 'x'"),
    "lora and a frozen backbone": (
        {"model": {"freeze_backbone": True, "lora": {"class_path": "prm.models.lora.LoRA"}}},
        "exclude each other",
    ),
    "a chain over the budget": ({"data": {"max_tokens": 8}}, "max_tokens"),
    "batch size 0": ({"data": {"batch_size": 0}}, "batch_size"),
    "a wrong schedule": ({"model": {"schedule": {"warmup": -1}}}, "schedule"),
    "checkpoint_every 0": ({"checkpoint_every": 0}, "checkpoint_every"),
    "an unknown metric": ({"monitor": "val/auroc"}, "val/auroc"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_wrong_option_is_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    changes, expected = ERRORS[name]
    write_data(run_dir, 12)
    assert expected in fit_error(capsys, run_dir, **changes)
    assert not Path("run/model").exists()


def test_a_checkpoint_that_is_none_is_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(run_dir)
    assert "needs a trained model" in error_of(capsys, "test", "--config", config)
    Path("cut.ckpt").write_bytes(b"PK\x03\x04")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    torch.save(Path("a"), "code.ckpt")
    for path, message in {
        "absent.ckpt": "no such checkpoint",
        "cut.ckpt": "cannot read the checkpoint",
        "code.ckpt": "cannot read the checkpoint",
        "foreign.ckpt": "not a checkpoint of prm",
    }.items():
        for command in ("fit", "test"):
            words = (command, "--config", config, "--ckpt_path", path)
            error = error_of(capsys, *words)
            assert message in error
            assert path in error
