"""`ResponseMetrics`: one answer whatever the batches and ranks."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from prm.errors import DataError
from prm.metrics.pairs import pair_nll
from prm.metrics.responses import ResponseMetrics

NAN = float("nan")
EMPTY = torch.zeros(0)


def batch(count, seed=0):
    """Return scores, values, margins, outcomes, strengths, weights."""
    generator = torch.Generator().manual_seed(seed)
    scores, margins = torch.randn(2, count, generator=generator)
    values = (torch.rand(count, generator=generator) < scores.sigmoid()).float()
    outcomes = torch.randint(0, 3, (count,), generator=generator) / 2
    strengths = torch.randint(1, 4, (count,), generator=generator).float()
    return scores, values, margins, outcomes, strengths, torch.rand(count, generator=generator)


def result(*batches, **options):
    metrics = ResponseMetrics(**options)
    for tensors in batches:
        metrics.update(*tensors)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_values_equal_references():
    scores, values, margins, outcomes, *_ = tensors = batch(200)
    found = result(tensors[:4])
    assert found["auroc"] == pytest.approx(roc_auc_score(values, scores))
    assert found["pearson"] == pytest.approx(stats.pearsonr(scores, values).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(scores, values).statistic)
    assert found["brier"] == pytest.approx(float((scores.sigmoid() - values).square().mean()))
    decided = outcomes != 0.5
    right = (margins > 0) == (outcomes == 1)
    assert found["pair_accuracy"] == pytest.approx(float(right[decided].float().mean()))
    assert found["pair_nll"] == pytest.approx(pair_nll(margins, outcomes))
    assert np.isnan(found["strength_spearman"])


def test_graded_values_have_no_auroc_and_squared_error_needs_units():
    tensors = (torch.tensor([1.0, 2.5, 4.0]), torch.tensor([1.0, 2.0, 5.0]), EMPTY, EMPTY)
    logits, graded = result(tensors), result(tensors, in_label_units=True)
    assert np.isnan(logits["mse"])
    assert graded["mse"] == pytest.approx((0.25 + 1) / 3)
    assert all(np.isnan(found[name]) for found in (logits, graded) for name in ("auroc", "ece"))
    assert logits["spearman"] == pytest.approx(1)


def test_strength_is_compared_with_the_margin_of_the_better_response():
    margins, outcomes = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 0.0, 1.0])
    found = result((EMPTY, EMPTY, margins, outcomes, torch.tensor([1.0, 2.0, 3.0])))
    assert found["strength_spearman"] == pytest.approx(1)


def test_batches_and_order_do_not_matter():
    whole = batch(60)
    first, rest = tuple(x[:13] for x in whole), tuple(x[13:] for x in whole)
    assert result(rest, first) == pytest.approx(result(whole), nan_ok=True)


def test_missing_units_are_left_out():
    scores, values, margins, outcomes, *_ = batch(40)
    lost = torch.arange(40) % 3 == 0
    hidden = (scores.masked_fill(lost, NAN), values, margins.masked_fill(lost, NAN), outcomes)
    kept = (scores[~lost], values[~lost], margins[~lost], outcomes[~lost])
    assert result(hidden) == pytest.approx(result(kept), nan_ok=True)


def test_nothing_is_nan():
    assert all(np.isnan(x) for x in result((EMPTY, EMPTY, EMPTY, EMPTY)).values())


def test_reset_forgets():
    metrics = ResponseMetrics()
    metrics.update(*batch(5))
    metrics.reset()
    metrics.update(*batch(9, seed=1))
    assert metrics.compute()["pair_nll"].item() == result(batch(9, seed=1))["pair_nll"]


@pytest.mark.parametrize("shapes", [(3, 2, 1, 1), (2, 2, 2, 1)])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(DataError, match="expected one shape"):
        ResponseMetrics().update(*(torch.zeros(n) for n in shapes))


WORKER = """
    import sys, torch, torch.distributed as dist
    from prm.metrics.responses import ResponseMetrics
    rank, store, data, out = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = []
    for shares in torch.load(data):
        metrics = ResponseMetrics()
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
