"""What can be had without understanding: baselines beside every result on steps.

Each learns with `fit(chains)` and gives the probability of every step with `predict(chains)`. They
see what a scorer should not need: position, length, surface words.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prm.errors import DataError
from prm.records import CORRECTNESS, Chain, prompt_text

_WORD = re.compile(r"\w+|[^\w\s]")


class StepBaseline(ABC):
    """One baseline; `fit` first, then `predict`.

    Args:
        objective: Name of the step labels that it learns from.
    """

    name: str
    convention: str
    """What it learns, in words that stand beside the numbers."""

    def __init__(self, objective: str = CORRECTNESS) -> None:
        self.objective = objective

    @abstractmethod
    def fit(self, chains: Sequence[Chain]) -> StepBaseline:
        """Learn from the labeled steps of `chains`.

        Raises:
            DataError: No step is labeled, or the baseline needs both classes and there is one.
        """

    @abstractmethod
    def predict(self, chains: Sequence[Chain]) -> list[list[float]]:
        """Return the probability of being correct, for every step of every chain."""


class AlwaysCorrect(StepBaseline):
    """Every step is correct.

    Example:
        >>> AlwaysCorrect().predict([Chain("?", ["a", "b"])])
        [[1.0, 1.0]]
    """

    name = "always_correct"
    convention = "every step has a probability of 1"

    def fit(self, chains: Sequence[Chain]) -> AlwaysCorrect:
        """Learn nothing."""
        return self

    def predict(self, chains: Sequence[Chain]) -> list[list[float]]:
        """Return 1 for every step."""
        return [[1.0] * len(chain.completions) for chain in chains]


class IndexOnly(StepBaseline):
    r"""The rate of correct steps at the same index, which is all that it knows of a step.

    Rates of rare indices are drawn to the overall rate $\bar y$: $$(\sum y + k \bar y) / (n + k)$$.

    Args:
        objective: Name of the step labels that it learns from.
        max_index: Later steps share one place.
        strength: k, how many steps the overall rate is worth.

    Example:
        >>> chains = [Chain("?", ["a", "b"], [1, 0])] * 20
        >>> [round(p, 2) for p in IndexOnly().fit(chains).predict(chains[:1])[0]]
        [0.9, 0.1]
    """

    name = "index_only"
    convention = "the rate of correct training steps at the same index in their chains"

    def __init__(
        self, objective: str = CORRECTNESS, max_index: int = 20, strength: float = 5.0
    ) -> None:
        super().__init__(objective)
        self.max_index = max_index
        self.strength = strength

    def fit(self, chains: Sequence[Chain]) -> IndexOnly:
        """Learn the rate of each place."""
        by_place: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for chain, index, label in _labeled_steps(chains, self.objective):
            by_place[self._place(chain, index)].append(label)
        labels = [label for group in by_place.values() for label in group]
        self.prior_ = sum(labels) / len(labels)
        self.rates_ = {
            place: (sum(group) + self.strength * self.prior_) / (len(group) + self.strength)
            for place, group in by_place.items()
        }
        return self

    def predict(self, chains: Sequence[Chain]) -> list[list[float]]:
        """Return the rate of each step's place; the overall rate for a place never seen."""
        return [
            [
                self.rates_.get(self._place(chain, index), self.prior_)
                for index in range(len(chain.completions))
            ]
            for chain in chains
        ]

    def _place(self, chain: Chain, index: int) -> tuple[int, ...]:
        return (min(index, self.max_index),)


class IndexAndLength(IndexOnly):
    """The same by index and fifth of the chain that the step lies in.

    It is told the length of the chain, which no model knows that scores a step when it is written:
    where chains end at their first error, that tells the label.

    Args:
        objective: Name of the step labels that it learns from.
        max_index: Later steps share one index.
        strength: How many steps the overall rate is worth.
    """

    name = "index_and_length"
    convention = (
        "the rate of correct training steps at the same index and fifth of their chains; unlike a "
        "model it is told how many steps the chain has, which tells where it ends"
    )

    def _place(self, chain: Chain, index: int) -> tuple[int, ...]:
        return min(index, self.max_index), 5 * index // len(chain.completions)


class _LogisticStepBaseline(StepBaseline):
    """Logistic regression on features of a step; subclasses name the features."""

    @abstractmethod
    def _pipeline(self) -> Any:
        """Return an unfitted scikit-learn pipeline that ends in a classifier."""

    @abstractmethod
    def _features(self, chain: Chain, index: int) -> Any:
        """Return what the pipeline reads for one step."""

    def fit(self, chains: Sequence[Chain]) -> _LogisticStepBaseline:
        """Learn from the labeled steps; a soft label counts as correct from 0.5 up."""
        steps = _labeled_steps(chains, self.objective)
        targets = [label >= 0.5 for _, _, label in steps]
        if len(set(targets)) < 2:
            raise DataError(
                f"baseline {self.name!r} cannot be fitted",
                expected="both correct and wrong training steps",
                got=f"{len(targets)} steps of one kind",
            )
        self.pipeline_ = self._pipeline()
        self.pipeline_.fit([self._features(chain, index) for chain, index, _ in steps], targets)
        return self

    def predict(self, chains: Sequence[Chain]) -> list[list[float]]:
        """Return the classifier's probability of every step."""
        features = [self._features(c, i) for c in chains for i in range(len(c.completions))]
        if not features:
            return []
        rest = iter(self.pipeline_.predict_proba(features)[:, 1].tolist())
        return [[next(rest) for _ in chain.completions] for chain in chains]


class StepLengthOnly(_LogisticStepBaseline):
    """Logistic regression on the lengths of the step and of the prompt, in characters and words."""

    name = "length_only"
    convention = "logistic regression on the lengths of step and prompt"

    def _pipeline(self) -> Any:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), _classifier())

    def _features(self, chain: Chain, index: int) -> list[float]:
        step, prompt = chain.completions[index], prompt_text(chain.prompt)
        return [
            math.log1p(count) for text in (step, prompt) for count in (len(text), len(text.split()))
        ]


class BagOfWords(_LogisticStepBaseline):
    """Logistic regression on the words and pairs of words of the step, without its context.

    A word is a run of letters or digits, or one other visible character, so that numbers and
    operators count.
    """

    name = "bag_of_words"
    convention = "logistic regression on the words and pairs of words of the step"

    def _pipeline(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.pipeline import make_pipeline

        words = HashingVectorizer(
            ngram_range=(1, 2), tokenizer=_WORD.findall, token_pattern=None, alternate_sign=False
        )
        return make_pipeline(words, _classifier())

    def _features(self, chain: Chain, index: int) -> str:
        return chain.completions[index]


STEP_BASELINES: tuple[type[StepBaseline], ...] = (
    AlwaysCorrect,
    IndexOnly,
    IndexAndLength,
    StepLengthOnly,
    BagOfWords,
)
"""The baselines beside every result on steps, in the order of the tables."""


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="liblinear", random_state=0)


def _labeled_steps(chains: Sequence[Chain], objective: str) -> list[tuple[Chain, int, float]]:
    steps = [
        (chain, index, label)
        for chain in chains
        for index, label in enumerate(chain.labels.get(objective, ()))
        if label is not None
    ]
    if not steps:
        raise DataError(
            "baselines cannot be fitted",
            expected=f"training chains with labels of {objective!r}",
            got=f"{len(chains)} chains without a labeled step",
        )
    return steps
