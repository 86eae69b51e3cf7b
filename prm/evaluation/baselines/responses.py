"""What can be had without understanding: baselines beside every result of an outcome model.

A baseline is a logistic regression for one objective, fitted on its comparisons and ratings at
once: a comparison is a row of feature differences (better minus worse, both ways round), a rating
is a row of features and a bias, with its value scaled to [0, 1] over the training values as target.
The linear score is the utility of a response, so one fit can be measured on pairs and on values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm.errors import DataError
from prm.metrics.pairs import sigmoid
from prm.records import Comparison, Outcome, prompt_text

Array = NDArray[np.float64]

WORD = r"\b\w+\b"


class ResponseBaseline(ABC):
    """One baseline for one objective; `fit` first.

    Args:
        objective: Name of the objective.
        sign: 1 if a higher value is better, -1 if a lower one is.
    """

    name: str

    def __init__(self, objective: str, sign: int = 1) -> None:
        self.objective = objective
        self.sign = sign

    def fit(self, records: Sequence[Outcome]) -> ResponseBaseline:
        """Learn from the decided pairs and the values that `records` have for the objective.

        Raises:
            DataError: There are none, or all values are equal and there is no pair.
        """
        rows = LabelRows(records, self.objective)
        if not len(rows.better) and len(np.unique(rows.value)) < 2:
            raise DataError(
                f"baselines of {self.objective!r} cannot be fitted",
                expected="training comparisons with a better response, or values that differ",
                got=f"{len(rows.value)} values, all alike, and no such comparison",
            )
        self.low_, self.high_ = rows.value_range
        self._fit(records, rows)
        return self

    def utilities(self, records: Sequence[Outcome]) -> Array:
        """Return the utility of every response of every record, in order; log-odds."""
        return self._utilities(records) if records else np.zeros(0)

    def values(self, utilities: Array) -> Array:
        """Return the values that utilities stand for, in the units of the training values."""
        return self.low_ + (self.high_ - self.low_) * sigmoid(self.sign * utilities)

    @abstractmethod
    def _fit(self, records: Sequence[Outcome], rows: LabelRows) -> None: ...

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

    def _fit(self, records: Sequence[Outcome], rows: LabelRows) -> None:
        share = np.clip(rows.share.mean(), 1e-6, 1 - 1e-6) if len(rows.share) else 0.5
        self.log_odds_ = self.sign * float(np.log(share / (1 - share)))

    def _utilities(self, records: Sequence[Outcome]) -> Array:
        return np.full(sum(len(record.responses) for record in records), self.log_odds_)


class _LogisticBaseline(ResponseBaseline):
    """Logistic regression on features of prompt and response; subclasses name the features."""

    @abstractmethod
    def _fit_features(self, records: Sequence[Outcome]) -> Any:
        """Learn what features need, and return those of `records`."""

    @abstractmethod
    def _features(self, records: Sequence[Outcome]) -> Any:
        """Return a sparse matrix, one row per response."""

    def _fit(self, records: Sequence[Outcome], rows: LabelRows) -> None:
        from scipy.sparse import csr_array, hstack, vstack
        from sklearn.linear_model import LogisticRegression

        features = self._fit_features(records)
        pairs = features[rows.better] - features[rows.worse]
        rated = features[rows.rated]
        good = rows.share if self.sign > 0 else 1 - rows.share
        bias = np.repeat([0.0, 1.0], [2 * len(rows.better), 2 * len(rows.rated)])
        design = hstack([vstack([pairs, -pairs, rated, rated]), csr_array(bias[:, None])])
        target = np.concatenate(
            [np.repeat([1, 0], len(rows.better)), np.repeat([1, 0], len(rows.rated))]
        )
        weight = np.concatenate([rows.weight / 2, rows.weight / 2, good, 1 - good])
        used = weight > 0
        model = LogisticRegression(solver="liblinear", fit_intercept=False, random_state=0)
        model.fit(design.tocsr()[used], target[used], sample_weight=weight[used])
        self.coefficients_, self.bias_ = model.coef_[0, :-1], float(model.coef_[0, -1])

    def _utilities(self, records: Sequence[Outcome]) -> Array:
        utilities: Array = self._features(records) @ self.coefficients_ + self.bias_
        return utilities


class LengthOnly(_LogisticBaseline):
    """Logistic regression on the length of the response and its logarithm, in letters and words."""

    name = "length_only"

    def _fit_features(self, records: Sequence[Outcome]) -> Any:
        lengths = _lengths(records)
        self.scale_ = np.maximum(lengths.std(axis=0), 1e-12)
        self.center_ = lengths.mean(axis=0)
        return self._features(records)

    def _features(self, records: Sequence[Outcome]) -> Any:
        from scipy.sparse import csr_array

        return csr_array((_lengths(records) - self.center_) / self.scale_)


class TfIdf(_LogisticBaseline):
    """Logistic regression on the words of the prompt and, apart from them, of the response.

    In a pair the words of the prompt cancel, so that only those of the responses tell.
    """

    name = "tfidf"

    def _fit_features(self, records: Sequence[Outcome]) -> Any:
        self.prompt_words_, self.response_words_ = _words(), _words()
        prompts, responses = _texts(records)
        return self._joined(
            records,
            self.prompt_words_.fit_transform(prompts),
            self.response_words_.fit_transform(responses),
        )

    def _features(self, records: Sequence[Outcome]) -> Any:
        prompts, responses = _texts(records)
        return self._joined(
            records,
            self.prompt_words_.transform(prompts),
            self.response_words_.transform(responses),
        )

    def _joined(self, records: Sequence[Outcome], prompts: Any, responses: Any) -> Any:
        from scipy.sparse import hstack

        sizes = [len(record.responses) for record in records]
        return hstack([prompts[np.repeat(np.arange(len(sizes)), sizes)], responses]).tocsr()


BASELINES: tuple[type[ResponseBaseline], ...] = (Constant, LengthOnly, TfIdf)
"""The baselines of every outcome report."""


class LabelRows:
    """What records say about one objective; responses are numbered through all records.

    Args:
        records: Comparisons and ratings; those of other objectives are passed over.
        objective: Name of the objective.
    """

    def __init__(self, records: Sequence[Outcome], objective: str) -> None:
        pairs: list[tuple[int, int, float]] = []
        rated: list[tuple[int, float]] = []
        start = 0
        for record in records:
            if not isinstance(record, Comparison):
                value = record.values.get(objective)
                rated += [] if value is None else [(start, value)]
            elif record.objective == objective:
                decided = decided_pairs(record.ranks)
                pairs += [(start + i, start + j, 1 / len(decided)) for i, j in decided]
            start += len(record.responses)
        self.better = np.array([pair[0] for pair in pairs], dtype=np.int64)
        self.worse = np.array([pair[1] for pair in pairs], dtype=np.int64)
        self.weight = np.array([pair[2] for pair in pairs], dtype=np.float64)
        self.rated = np.array([row[0] for row in rated], dtype=np.int64)
        self.value = np.array([row[1] for row in rated], dtype=np.float64)

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest value; one apart if they are equal, 0 and 1 if there is none."""
        low, high = float(self.value.min(initial=np.inf)), float(self.value.max(initial=-np.inf))
        if low < high:
            return low, high
        return (low, low + 1) if 1 < low < np.inf or low < 0 else (0.0, 1.0)

    @property
    def share(self) -> Array:
        """The values scaled to [0, 1]."""
        low, high = self.value_range
        return np.clip((self.value - low) / (high - low), 0, 1)


def decided_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Return (better, worse) for every two responses whose ranks differ.

    Example:
        >>> decided_pairs([1, 0, 1])
        [(1, 0), (1, 2)]
    """
    return [
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    ]


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
