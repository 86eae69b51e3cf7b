"""Benchmarks: one file each, found where they lie, and quoted only of whole runs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from prm.data.formats import all_formats
from prm.evaluation import benchmarks
from prm.evaluation.benchmarks import all_benchmarks, benchmark_of
from prm.evaluation.predictions import Predictions
from prm.evaluation.report import evaluate
from prm.evaluation.steps import AVERAGED, StepPrediction
from prm.records import Chain
from prm.report.evaluation import document, headline
from prm.report.markdown import render

NEW = """
from prm.evaluation.benchmarks.base import Benchmark, Published
from prm.evaluation.steps import mean_over_sources
from prm.metrics.first_error import FIRST_ERROR_ACCURACY

TOY = Benchmark(
    name="toy",
    title="ToyBench",
    data="somebody/toy-bench",
    format="HFStepwise",
    sizes={"easy": 4, "hard": 2},
    metric=FIRST_ERROR_ACCURACY,
    headline=mean_over_sources(FIRST_ERROR_ACCURACY),
    published=(Published("a big model", {"easy": 0.9, "hard": 0.5}, 0.7, "a paper"),),
)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A benchmark in one new file beside the others."""
    (tmp_path / "toy_bench.py").write_text(NEW)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    yield all_benchmarks()["toy"]
    sys.modules.pop("prm.evaluation.benchmarks.toy_bench")


def chains(subset, count):
    """Return scored chains, every other one with an error that is found."""
    return [
        StepPrediction(
            Chain("?", ["a", "b"], [1, n % 2], source=f"toy/{subset}", group=f"{subset}{n}"),
            (0.9, 0.9 if n % 2 else 0.1),
        )
        for n in range(count)
    ]


def report(rows):
    return evaluate(Predictions(rows), num_resamples=20)


def test_a_benchmark_in_one_new_file_is_found_and_quoted(toy):
    found = report([*chains("easy", 4), *chains("hard", 2)])
    assert (found.benchmark, found.missing, found.partial) == (toy, {}, False)
    assert found.to_dict()["benchmark"] == "toy"
    assert headline(found).startswith("ToyBench mean first error 1.000")
    text = render(document(found))
    assert "## ToyBench, as others report it" in text
    assert "| model | 1.000 | 1.000 | 1.000 | this report |" in text
    assert "| a big model | 0.900 | 0.500 | 0.700 | a paper |" in text


def test_part_of_it_has_no_headline(toy):
    found = report([*chains("easy", 4), *chains("hard", 1)])
    assert found.missing == {"hard": 1}
    assert "partial, not the ToyBench score (missing records: hard 1)" in headline(found)
    assert "| model | 1.000 | — | — | this report |" in render(document(found))


def test_without_its_file_there_is_no_such_benchmark():
    assert "toy" not in all_benchmarks()
    assert benchmark_of(["toy/easy"]) is None
    assert benchmark_of(["processbench/math", "mine"]) is None


@pytest.mark.parametrize("benchmark", all_benchmarks().values(), ids=lambda b: b.name)
def test_facts_of_a_benchmark_are_consistent(benchmark):
    assert benchmark.format in all_formats()
    assert benchmark_of(benchmark.sources) is benchmark
    assert benchmark.missing(dict.fromkeys(benchmark.sources, 0)) == dict(benchmark.sizes)
    for row in benchmark.published:
        assert set(row.values) == set(benchmark.sizes)
        assert row.by
        if benchmark.headline in AVERAGED:
            assert np.mean(list(row.values.values())) == pytest.approx(row.headline, abs=0.0011)
