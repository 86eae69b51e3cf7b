"""UltraFeedback as published: four completions per instruction, graded on four aspects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import (
    SUBSET,
    OutcomeFormat,
    list_field,
    mapping_field,
    meaning_field,
    text_field,
    wrong_field,
)
from prm.data.formats.help_steer import chosen_attributes
from prm.records import Outcome, Rating

_ASPECTS = {
    "instruction_following": "1 to 5, more follows the instruction better.",
    "honesty": "1 to 5, more is more honest about what it does not know.",
    "truthfulness": "1 to 5, more is more truthful.",
    "helpfulness": "1 to 5, more is more helpful.",
}
_GRADES: dict[str, float | None] = {str(grade): float(grade) for grade in range(1, 6)}
_GRADES["N/A"] = None


class UltraFeedback(OutcomeFormat):
    """Rows with `instruction` and `completions`, each with a grade from 1 to 5 for four aspects.

    Supervises instruction_following, honesty, truthfulness and helpfulness, of which more is better
    (graded by GPT-4; N/A is no label). The grades stay 1 to 5. `source` is kept as the subset. The
    older layout, in which each aspect is a list of one annotation, is read as well.

    Args:
        attributes: Aspect to the objective that it supervises, such as
            `{"truthfulness": "factuality"}`; by default all four, under their own names.

    Source:
        Cui et al., "UltraFeedback: Boosting Language Models with Scaled AI Feedback", 2023.
    """

    def __init__(self, *, attributes: dict[str, str] | None = None) -> None:
        self.attributes = chosen_attributes(attributes, _ASPECTS)
        self.objectives = {name: _ASPECTS[key] for key, name in self.attributes.items()}

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return one rating per completion."""
        instruction = text_field(row, "instruction", origin)
        completions = list_field(row, "completions", origin)
        if not completions:
            raise wrong_field("completions", "one or more", completions, origin)
        return [
            Rating(
                instruction,
                text_field(completion, "response", origin),
                self._values(completion, origin),
                metadata={SUBSET: row.get("source"), "model": completion.get("model")},
                origin=origin,
            )
            for completion in completions
        ]

    def _values(self, completion: Mapping[str, Any], origin: str) -> dict[str, float | None]:
        annotations = mapping_field(completion, "annotations", origin)
        return {
            objective: meaning_field(
                _annotation(annotations, aspect, origin), "Rating", _GRADES, origin
            )
            for aspect, objective in self.attributes.items()
        }


def _annotation(annotations: Mapping[str, Any], aspect: str, origin: str) -> Mapping[str, Any]:
    """Return what was said about an aspect, which may be the only item of a list."""
    listed = annotations.get(aspect)
    if isinstance(listed, list) and len(listed) == 1:
        annotations = {aspect: listed[0]}
    return mapping_field(annotations, aspect, origin)
