"""Process and multi-objective reward models: train, score, aggregate, with one spec everywhere.

The names below are loaded when they are first used, so `import prm` is instant and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from prm.moved import watch_imports

__version__ = "0.1.0"

_HOMES = {
    "Chain": "prm.records",
    "ChainScore": "prm.scores.chains",
    "Comparison": "prm.records",
    "PrmError": "prm.errors",
    "Rating": "prm.records",
    "RemoteScorer": "prm.scoring.client",
    "ResponseScore": "prm.scores.responses",
    "RewardFunction": "prm.rl.reward_function",
    "RewardScorer": "prm.scoring.scorer",
    "RewardSpec": "prm.spec",
    "ScoringSession": "prm.scoring.session",
}

if TYPE_CHECKING:
    from prm.errors import PrmError as PrmError
    from prm.records import Chain as Chain
    from prm.records import Comparison as Comparison
    from prm.records import Rating as Rating
    from prm.rl.reward_function import RewardFunction as RewardFunction
    from prm.scores.chains import ChainScore as ChainScore
    from prm.scores.responses import ResponseScore as ResponseScore
    from prm.scoring.client import RemoteScorer as RemoteScorer
    from prm.scoring.scorer import RewardScorer as RewardScorer
    from prm.scoring.session import ScoringSession as ScoringSession
    from prm.spec import RewardSpec as RewardSpec

__all__ = [
    "Chain",
    "ChainScore",
    "Comparison",
    "PrmError",
    "Rating",
    "RemoteScorer",
    "ResponseScore",
    "RewardFunction",
    "RewardScorer",
    "RewardSpec",
    "ScoringSession",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'prm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


watch_imports()
