"""What a model says of test data, as the rows that are written beside a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prm.evaluation.responses import ResponsePrediction
from prm.evaluation.steps import StepPrediction
from prm.metrics.first_error import DEFAULT_THRESHOLD
from prm.records import Record

FILE = "predictions.jsonl"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of steps, of responses, or of both.

    Args:
        steps: Step probabilities, one entry per chain.
        responses: Scores of responses, one entry per comparison or rating.
        objectives: Names of the columns of the scores.
        threshold: A step is judged wrong strictly below it.
        apart: Whether rows of steps and of responses lie in folders of their own, `process` and
            `outcome`, as those of a joint model do.
    """

    steps: Sequence[StepPrediction] = ()
    responses: Sequence[ResponsePrediction] = ()
    objectives: Sequence[str] = ()
    threshold: float = DEFAULT_THRESHOLD
    apart: bool = False

    @property
    def records(self) -> list[Record]:
        """What was predicted."""
        return [*(p.chain for p in self.steps), *(p.record for p in self.responses)]

    def __bool__(self) -> bool:
        return bool(self.steps or self.responses)

    def files(self) -> dict[str, bytes]:
        """Return the JSON lines of each kind that there is, by file name."""
        rows: dict[str, list[Mapping[str, Any]]] = {
            "process": [prediction.to_row(self.threshold) for prediction in self.steps],
            "outcome": [prediction.to_row(self.objectives) for prediction in self.responses],
        }
        return {
            f"{kind}/{FILE}" if self.apart else FILE: _lines(found)
            for kind, found in rows.items()
            if found
        }


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    ).encode()
