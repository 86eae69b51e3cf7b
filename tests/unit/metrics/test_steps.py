"""`StepMetrics`: one answer whatever the batches and ranks."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from prm.errors import DataError
from prm.metrics.steps import StepMetrics

NAN = float("nan")


def batch(chains, seed=0):
    """Return the tensors of random chains: probabilities, labels, chain_index, first_error."""
    generator = np.random.default_rng(seed)
    probabilities, labels, index, first_error = [], [], [], []
    for chain in range(chains):
        steps = int(generator.integers(1, 6))
        first = int(generator.integers(-2, steps))
        probabilities += generator.random(steps).round(1).tolist()
        known = steps if first < 0 else first + 1
        labels += [float(step != first) if step < known else NAN for step in range(steps)]
        if first == -2:
            labels[-1] = NAN
        index += [chain] * steps
        first_error.append(first)
    return (
        torch.tensor(probabilities),
        torch.tensor(labels),
        torch.tensor(index, dtype=torch.int64),
        torch.tensor(first_error, dtype=torch.int64),
    )


def result(*batches):
    metrics = StepMetrics()
    for tensors in batches:
        metrics.update(*tensors)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_step_metrics_equal_scikit_learn():
    tensors = batch(50)
    probability, label = tensors[0].numpy(), tensors[1].numpy()
    known = ~np.isnan(label)
    values = result(tensors)
    expected = roc_auc_score(label[known], probability[known])
    assert values["step_auroc"] == pytest.approx(expected)
    expected = average_precision_score(1 - label[known], -probability[known])
    assert values["error_ap"] == pytest.approx(expected)


def test_a_chain_that_was_cut_off_is_not_clean():
    """It counts as wrong unless a step that was read is flagged at the right place."""
    metrics = StepMetrics()
    index, first = torch.tensor([0, 1, 2, 2]), torch.tensor([-1, -1, 1])
    probabilities, labels = torch.tensor([0.9, 0.9, 0.9, 0.1]), torch.tensor([1.0, 1, 1, 0])
    complete = torch.tensor([True, False, False])
    metrics.update(probabilities, labels, index, first, complete)
    values = metrics.compute()
    assert (values["correct_acc"], values["error_acc"]) == (0.5, 1.0)
    with pytest.raises(DataError, match="chain tensors do not match"):
        metrics.update(probabilities, labels, index, first, complete[:2])


def test_first_errors_by_hand():
    values = result(
        (
            torch.tensor([0.9, 0.2, 0.9, 0.9, 0.1]),
            torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]),
            torch.tensor([0, 0, 1, 1, 2]),
            torch.tensor([1, -1, -1]),
        )
    )
    assert values["error_acc"] == 1.0
    assert values["correct_acc"] == 0.5
    assert values["first_error_accuracy"] == pytest.approx(2 / 3)
    assert values["processbench_f1"] == pytest.approx(2 / 3)


def test_batches_and_interleaved_steps_do_not_matter():
    whole = batch(30)
    cut = int((whole[2] < 10).sum())
    first = (whole[0][:cut], whole[1][:cut], whole[2][:cut], whole[3][:10])
    rest = (whole[0][cut:], whole[1][cut:], whole[2][cut:] - 10, whole[3][10:])
    assert result(rest, first) == pytest.approx(result(whole), nan_ok=True)
    reverse = torch.argsort(29 - whole[2], stable=True)
    moved = (*(tensor[reverse] for tensor in whole[:3]), whole[3])
    assert result(moved) == pytest.approx(result(whole), nan_ok=True)


def test_nothing_and_unlabeled_are_nan():
    unlabeled = (torch.rand(3), torch.full((3,), NAN), torch.zeros(3).long(), torch.tensor([-2]))
    assert all(np.isnan(value) for value in result(unlabeled).values())
    empty = StepMetrics()
    empty.update(torch.zeros(0), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0).long())
    assert all(value.isnan() for value in empty.compute().values())


def test_one_class_is_nan_without_a_warning():
    values = result((torch.rand(3), torch.ones(3), torch.zeros(3).long(), torch.tensor([-1])))
    assert np.isnan(values["step_auroc"])
    assert np.isnan(values["processbench_f1"])


def test_unscored_chain_is_wrong_and_unscored_step_is_passed_over():
    values = result(
        (
            torch.tensor([NAN, NAN, 0.9]),
            torch.tensor([1.0, 1.0, 1.0]),
            torch.tensor([0, 1, 1]),
            torch.tensor([-1, -1]),
        )
    )
    assert values["correct_acc"] == 0.5


def test_half_precision_inputs_are_measured_in_float32():
    probability, *rest = batch(20)
    metrics = StepMetrics().half()
    metrics.update(probability.bfloat16(), *rest)
    assert metrics.probability[0].dtype == torch.float32
    exact = result((probability.bfloat16().float(), *rest))
    assert metrics.compute()["step_auroc"].item() == exact["step_auroc"]


def test_reset_forgets():
    metrics = StepMetrics()
    metrics.update(*batch(5))
    metrics.reset()
    metrics.update(*batch(9, seed=1))
    assert metrics.compute()["brier"].item() == result(batch(9, seed=1))["brier"]


@pytest.mark.parametrize(
    ("labels", "index"), [(torch.zeros(2), [0, 0, 0]), (torch.zeros(3), [0, 1, 0])]
)
def test_wrong_shapes_are_refused(labels, index):
    with pytest.raises(DataError, match="expected"):
        StepMetrics().update(torch.zeros(3), labels, torch.tensor(index), torch.tensor([-1]))


WORKER = """
    import sys, torch, torch.distributed as dist
    from prm.metrics.steps import StepMetrics
    rank, store, data, out = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = []
    for shares in torch.load(data):
        metrics = StepMetrics()
        for tensors in shares[rank]:
            metrics.update(*tensors)
        results.append({k: v.item() for k, v in metrics.compute().items()})
    torch.save(results, f"{out}{rank}")
    dist.destroy_process_group()
"""


def test_two_ranks_with_uneven_counts_equal_one(tmp_path):
    first, second = batch(30), batch(7, seed=1)
    torch.save([[[first], [second]], [[first, second], []]], tmp_path / "data")
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(WORKER)]
    paths = [str(tmp_path / name) for name in ("store", "data", "out")]
    processes = [subprocess.Popen([*command, str(rank), *paths]) for rank in (0, 1)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    for rank in (0, 1):
        for values in torch.load(tmp_path / f"out{rank}"):
            assert values == pytest.approx(result(first, second), nan_ok=True)


def test_places_are_those_of_the_chains_whatever_the_order_of_steps():
    """By source and index; the steps of the chains of a batch may come in turns."""
    index = torch.tensor([0, 1, 2, 0, 1, 2])
    probabilities = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8, 0.5])
    labels, first = torch.tensor([1.0, 0, 1, 1, 0, 0]), torch.tensor([-1, 0, 1])
    for sources in (None, torch.tensor([0, 0, 1])):
        metrics = StepMetrics()
        metrics.update(probabilities, labels, index, first, sources=sources)
        found = metrics.compute()["auroc_within_index"].item()
        pairs = [(0.9, 0.1), (0.2, 0.8)]
        pairs += [] if sources is not None else [(0.5, 0.1), (0.2, 0.5)]
        wins = [(np.sign(a - b) + 1) / 2 for a, b in pairs]
        assert found == pytest.approx(np.mean(wins))
