"""Small files of stored scores, as `prm score` writes them for an outcome model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from prm.aggregation.normalize import ZScore
from prm.aggregation.objectives import ObjectiveAggregation, WeightedSum
from prm.spec import ResponseHead, RewardSpec

NAMES = ("helpfulness", "safety", "verbosity")
WEIGHTS = {"helpfulness": 1.0, "safety": 1.0, "verbosity": 0.5}

Score = float | None


def make_spec(aggregation: ObjectiveAggregation | None = None) -> RewardSpec:
    """Three heads with spreads: safety is normalized, verbosity is to be low."""
    return RewardSpec(
        response_heads=(
            ResponseHead("helpfulness", "gaussian", 2),
            ResponseHead("safety", "gaussian", 2),
            ResponseHead("verbosity", "gaussian", 2, "minimize"),
        ),
        normalizers={"safety": ZScore(0.0, 2.0)},
        objective_aggregation=aggregation or WeightedSum(WEIGHTS),
    )


def make_rows(
    scores: Sequence[tuple[str, Sequence[Score]]],
    spec: RewardSpec | None = None,
    spread: float | None = None,
) -> list[dict[str, object]]:
    """Return rows of (prompt, scores), with ids r-0, r-1, ..."""
    spec = spec or make_spec()
    rows = []
    for index, (prompt, values) in enumerate(scores):
        numbers = [float("nan") if value is None else value for value in values]
        reward = spec.rewards(torch.tensor(numbers, dtype=torch.float64)).item()
        rows.append(
            {
                "id": f"r-{index}",
                "group": prompt,
                "response": 0,
                "scores": dict(zip(spec.response_names, values, strict=True)),
                "spreads": None if spread is None else dict.fromkeys(spec.response_names, spread),
                "utilities": dict.fromkeys(spec.response_names),
                "reward": None if reward != reward else reward,
                "aggregation": spec.objective_aggregation.name,
                "num_truncated": 0,
                "reason": "",
                "response_text": f"answer {index}, 2024-01-01",
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], spec: RewardSpec | None) -> Path:
    """Write rows as JSON lines with their spec beside them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if spec is not None:
        path.with_name(f"{path.name}.spec.json").write_text(spec.to_json())
    return path


def read_lines(path: Path) -> list[dict[str, object]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
