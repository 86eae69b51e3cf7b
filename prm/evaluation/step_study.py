"""What is measured of scored steps beside baselines: all in all, by source and by kind of chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prm.evaluation.baselines.steps import STEP_BASELINES, AlwaysCorrect
from prm.evaluation.parts import MODEL, Bootstrap, Part, plain
from prm.evaluation.steps import ScoredChains, StepPart, StepPrediction
from prm.metrics.first_error import CLEAN, UNSCORED
from prm.records import Chain


@dataclass(frozen=True, slots=True)
class StepResults:
    """The result on scored steps.

    Args:
        overall: All chains.
        sources: Source name to its chains.
        means: Means over sources of what is measured on chains, and their F1 weighted by chains.
        breakdowns: The model's scores on parts of the data, by property and value.
        first_error_offsets: Predicted minus true first error to number of chains with an error;
            `"missed"` where no step was flagged, `"unscored"` where there is no prediction.
    """

    overall: StepPart
    sources: dict[str, StepPart]
    means: Part
    breakdowns: dict[str, dict[str, StepPart]]
    first_error_offsets: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON values, by scorer."""
        sources = {name: part.by_scorer() for name, part in self.sources.items()}
        return {
            "overall": self.overall.by_scorer(),
            "sources": {
                scorer: {name: by_scorer[scorer] for name, by_scorer in sources.items()}
                for scorer in self.overall.scores
            },
            "means": plain(self.means.scores),
            "mean_differences": plain(self.means.differences),
            "breakdowns": {
                name: {value: part.by_scorer()[MODEL] for value, part in parts.items()}
                for name, parts in self.breakdowns.items()
            },
            "first_error_offsets": self.first_error_offsets,
        }


def study_steps(
    predictions: Sequence[StepPrediction],
    training: Sequence[Chain] | None,
    threshold: float,
    bootstrap: Bootstrap,
) -> StepResults:
    """Measure step probabilities beside baselines, over all chains and by part.

    Args:
        predictions: The scored chains; at least one.
        training: Chains that the baselines learn from; without them there is only one that learns
            nothing.
        threshold: A step is judged wrong strictly below it.
        bootstrap: What gives intervals.

    Raises:
        DataError: The baselines cannot learn from `training`.
    """
    scorers = {MODEL: tuple(predictions), **_step_baselines(predictions, training)}
    scored = ScoredChains(scorers, threshold)
    alone = ScoredChains({MODEL: scorers[MODEL]}, threshold)

    def parts(chains: ScoredChains, key: Callable[[StepPrediction], str | None]) -> Any:
        names = [key(prediction) for prediction in predictions]
        return {
            name: chains.select([other == name for other in names]).part(bootstrap)
            for name in sorted({name for name in names if name is not None})
        }

    overall = scored.part(bootstrap)
    sources = {p.chain.source for p in predictions}
    by = {name: parts(alone, key) for name, key in BREAKDOWNS.items()}
    return StepResults(
        overall=overall,
        sources=parts(scored, lambda p: p.chain.source)
        if len(sources) > 1
        else dict.fromkeys(sources, overall),
        means=scored.means(bootstrap),
        breakdowns={name: found for name, found in by.items() if found},
        first_error_offsets=_offsets(predictions, threshold),
    )


def _step_baselines(
    predictions: Sequence[StepPrediction], training: Sequence[Chain] | None
) -> dict[str, tuple[StepPrediction, ...]]:
    """Return what each baseline says of exactly the steps that the model scored."""
    chains = [prediction.chain for prediction in predictions]
    result = {}
    for kind in (AlwaysCorrect,) if training is None else STEP_BASELINES:
        baseline = kind(predictions[0].objective).fit(training or ())
        result[baseline.name] = tuple(
            prediction.with_probabilities(values)
            for prediction, values in zip(predictions, baseline.predict(chains), strict=True)
        )
    return result


def _metadata(prediction: StepPrediction, name: str) -> str | None:
    value = prediction.chain.metadata.get(name)
    return None if value is None else str(value)


def _right_answer(prediction: StepPrediction) -> str | None:
    is_right = prediction.chain.metadata.get("final_answer_correct")
    return "true" if prediction.true_first_error >= 0 and is_right else None


BREAKDOWNS: Mapping[str, Callable[[StepPrediction], str | None]] = {
    "error_kind": lambda prediction: _metadata(prediction, "error_kind"),
    "classification": lambda prediction: _metadata(prediction, "classification"),
    "difficulty": lambda prediction: _metadata(prediction, "difficulty"),
    "right_answer_wrong_process": _right_answer,
}
"""Properties of chains by whose value the model's scores are shown; `None` leaves a chain out."""


def _offsets(predictions: Sequence[StepPrediction], threshold: float) -> dict[str, int]:
    pairs = [(p.first_error(threshold), p.true_first_error) for p in predictions]
    guesses = [(guess, true) for guess, true in pairs if true >= 0]
    counts = Counter(guess - true for guess, true in guesses if guess >= 0)
    return {
        **{str(offset): counts[offset] for offset in sorted(counts)},
        "missed": sum(guess == CLEAN for guess, _ in guesses),
        "unscored": sum(guess == UNSCORED for guess, _ in guesses),
    }
