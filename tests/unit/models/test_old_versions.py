"""Model folders of every spec version, written by the code of their time, score as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from prm import RewardScorer
from prm.spec import RewardSpec

MODELS = Path(__file__).resolve().parents[2] / "old_versions"

NAMES = (
    "v1-process",
    "v2-process",
    "v2-outcome",
    "v2-joint",
    "v3-process",
    "v3-outcome",
    "v3-encoder",
    "v3-gated",
    "v3-joint",
)


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    return MODELS / str(request.param)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> RewardScorer:
    return RewardScorer.from_pretrained(folder, device="cpu")


def expected_rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return list(rows.get(kind, ()))


def assert_close(actual: Any, expected: Any, where: str) -> None:
    """Compare numbers within mappings and sequences; what is missing must stay missing."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_close(actual[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for index, value in enumerate(expected):
            assert_close(actual[index], value, f"{where}[{index}]")
    elif expected is None:
        assert actual is None, where
    else:
        assert actual == pytest.approx(expected, rel=0, abs=1e-5), where


def test_the_folder_is_of_the_version_it_is_named_after(folder: Path) -> None:
    spec = json.loads((folder / "prm_config.json").read_text(encoding="utf-8"))
    assert folder.name.startswith(f"v{spec['version']}-")


@pytest.mark.golden
def test_chains_score_as_they_did(folder: Path, scorer: RewardScorer) -> None:
    rows = expected_rows(folder, "chains")
    assert bool(rows) == bool(scorer.spec.step_heads)
    scores = scorer.score([(row["prompt"], row["completions"]) for row in rows])
    for row, score in zip(rows, scores, strict=True):
        for name in ("step_logits", "step_probabilities", "scores", "reward"):
            assert_close(getattr(score, name), row[name], f"{row['prompt']}: {name}")


@pytest.mark.golden
def test_responses_score_as_they_did(folder: Path, scorer: RewardScorer) -> None:
    rows = expected_rows(folder, "responses")
    assert bool(rows) == bool(scorer.spec.response_heads)
    scores = scorer.score([(row["prompt"], row["response"]) for row in rows])
    for row, score in zip(rows, scores, strict=True):
        row["spreads"] = as_deviations(row.get("spreads"), scorer.spec)
        for name in ("scores", "spreads", "gates", "utilities", "reward"):
            assert_close(getattr(score, name), row.get(name), f"{row['response']}: {name}")


def as_deviations(spreads: dict[str, Any] | None, spec: RewardSpec) -> dict[str, Any] | None:
    """Return stored spreads with the half widths of quantiles made standard deviations."""
    if spreads is None:
        return None
    levels = {head.name: head.levels for head in spec.response_heads if head.levels}
    widths = {name: (norm.ppf(of[-1]) - norm.ppf(of[0])) / 2 for name, of in levels.items()}
    return {name: x if x is None else x / widths.get(name, 1.0) for name, x in spreads.items()}
