"""What can be had without understanding: baselines beside every result on responses.

A baseline is a logistic regression for one objective, fitted on its comparisons and ratings at
once: a comparison is a row of feature differences (better minus worse, both ways round), a rating
is a row of features and a bias, with its value scaled to [0, 1] over the training values as target.
The linear score is the utility of a response, so one fit can be measured on pairs and on values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from prm.arrays import Array
from prm.errors import DataError
from prm.evaluation.labels import ObjectiveLabels
from prm.metrics.pairs import sigmoid
from prm.records import Outcome, prompt_text

WORD = r"\b\w+\b"


class ResponseBaseline(ABC):
    """One baseline for one objective; `fit` first.

    Args:
        objective: Name of the objective.
        sign: 1 if a higher value is better, -1 if a lower one is.
    """

    name: str
    convention: str
    """What it learns, in words that stand beside the numbers."""

    def __init__(self, objective: str, sign: int = 1) -> None:
        self.objective = objective
        self.sign = sign

    def fit(self, records: Sequence[Outcome]) -> ResponseBaseline:
        """Learn from the decided pairs and the values that `records` have for the objective.

        Raises:
            DataError: There are none, or all values are equal and there is no pair.
        """
        labels = ObjectiveLabels(records, self.objective)
        if not len(labels.better) and len(np.unique(labels.value)) < 2:
            raise DataError(
                f"baselines of {self.objective!r} cannot be fitted",
                expected="training comparisons with a better response, or values that differ",
                got=f"{len(labels.value)} values, all alike, and no such comparison",
            )
        self.low_, self.high_ = labels.value_range
        self._fit(records, labels)
        return self

    def utilities(self, records: Sequence[Outcome]) -> Array:
        """Return the utility of every response of every record, in order; log-odds."""
        return self._utilities(records) if records else np.zeros(0)

    def values(self, utilities: Array) -> Array:
        """Return the values that utilities stand for, in the units of the training values."""
        return self.low_ + (self.high_ - self.low_) * sigmoid(self.sign * utilities)

    @abstractmethod
    def _fit(self, records: Sequence[Outcome], labels: ObjectiveLabels) -> None: ...

    @abstractmethod
    def _utilities(self, records: Sequence[Outcome]) -> Array: ...


class Constant(ResponseBaseline):
    """Every response gets the mean value: the majority among ratings, a tie in every pair.

    Example:
        >>> from prm.records import Rating
        >>> ratings = [Rating("?", "a", {"safety": 1}), Rating("?", "b", {"safety": 0})]
        >>> baseline = Constant("safety").fit([*ratings, ratings[0]])
        >>> [round(v, 3) for v in baseline.values(baseline.utilities(ratings)).tolist()]
        [0.667, 0.667]
    """

    name = "constant"
    convention = "the mean training value, and equal scores in every pair"

    def _fit(self, records: Sequence[Outcome], labels: ObjectiveLabels) -> None:
        values = labels.scaled_value
        share = np.clip(values.mean(), 1e-6, 1 - 1e-6) if len(values) else 0.5
        self.log_odds_ = self.sign * float(np.log(share / (1 - share)))

    def _utilities(self, records: Sequence[Outcome]) -> Array:
        return np.full(sum(len(record.responses) for record in records), self.log_odds_)


class _LogisticResponseBaseline(ResponseBaseline):
    """Logistic regression on features of prompt and response; subclasses name the features."""

    @abstractmethod
    def _fit_features(self, records: Sequence[Outcome]) -> None:
        """Learn what features need."""

    @abstractmethod
    def _features(self, records: Sequence[Outcome]) -> Any:
        """Return a sparse matrix, one row per response."""

    def _fit(self, records: Sequence[Outcome], labels: ObjectiveLabels) -> None:
        from scipy.sparse import csr_array, hstack, vstack
        from sklearn.linear_model import LogisticRegression

        self._fit_features(records)
        features = self._features(records)
        pairs = features[labels.better] - features[labels.worse]
        rated = features[labels.rated]
        good = labels.scaled_value if self.sign > 0 else 1 - labels.scaled_value
        bias = np.repeat([0.0, 1.0], [2 * len(labels.better), 2 * len(labels.rated)])
        design = hstack([vstack([pairs, -pairs, rated, rated]), csr_array(bias[:, None])])
        target = np.concatenate(
            [np.repeat([1, 0], len(labels.better)), np.repeat([1, 0], len(labels.rated))]
        )
        weight = np.concatenate([labels.share / 2, labels.share / 2, good, 1 - good])
        used = weight > 0
        model = LogisticRegression(solver="liblinear", fit_intercept=False, random_state=0)
        model.fit(design.tocsr()[used], target[used], sample_weight=weight[used])
        self.coefficients_, self.bias_ = model.coef_[0, :-1], float(model.coef_[0, -1])

    def _utilities(self, records: Sequence[Outcome]) -> Array:
        utilities: Array = self._features(records) @ self.coefficients_ + self.bias_
        return utilities


class ResponseLengthOnly(_LogisticResponseBaseline):
    """Logistic regression on the length of the response and its logarithm, in letters and words."""

    name = "length_only"
    convention = "logistic regression on the response's length and its logarithm"

    def _fit_features(self, records: Sequence[Outcome]) -> None:
        lengths = _lengths(records)
        self.scale_ = np.maximum(lengths.std(axis=0), 1e-12)
        self.center_ = lengths.mean(axis=0)

    def _features(self, records: Sequence[Outcome]) -> Any:
        from scipy.sparse import csr_array

        return csr_array((_lengths(records) - self.center_) / self.scale_)


class TfIdf(_LogisticResponseBaseline):
    """Logistic regression on the words of the prompt and, apart from them, of the response.

    In a pair the words of the prompt cancel, so that only those of the responses tell.
    """

    name = "tfidf"
    convention = "logistic regression on the TF-IDF words of prompt and response"

    def _fit_features(self, records: Sequence[Outcome]) -> None:
        prompts, responses = _texts(records)
        self.prompt_words_, self.response_words_ = _words().fit(prompts), _words().fit(responses)

    def _features(self, records: Sequence[Outcome]) -> Any:
        from scipy.sparse import hstack

        prompts, responses = _texts(records)
        prompt_of = np.repeat(np.arange(len(records)), [len(r.responses) for r in records])
        words = self.prompt_words_.transform(prompts)[prompt_of]
        return hstack([words, self.response_words_.transform(responses)]).tocsr()


RESPONSE_BASELINES: tuple[type[ResponseBaseline], ...] = (Constant, ResponseLengthOnly, TfIdf)
"""The baselines beside every result on responses, in the order of the tables."""


def _lengths(records: Sequence[Outcome]) -> Array:
    counts = [(len(t), len(t.split())) for record in records for t in record.responses]
    lengths = np.array(counts, dtype=np.float64)
    return np.concatenate([lengths, np.log1p(lengths)], axis=1)


def _texts(records: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """Return the prompts, and all responses in order."""
    prompts = [prompt_text(record.prompt) for record in records]
    return prompts, [text for record in records for text in record.responses]


def _words() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline

    # Hashed, since a vocabulary of a text without a word would be refused.
    return make_pipeline(
        HashingVectorizer(token_pattern=WORD, alternate_sign=False, norm=None),
        TfidfTransformer(sublinear_tf=True),
    )
