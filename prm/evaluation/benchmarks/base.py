"""What there is to know of a benchmark, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prm.metrics.metric import Metric


@dataclass(frozen=True, slots=True)
class Published:
    """Figures of a system that others report; never a result of ours.

    Args:
        system: Name of the system, as it is published.
        values: Subset to the value of the benchmark's metric.
        headline: The value of the whole.
        by: Who reports it: paper or repository.
    """

    system: str
    values: Mapping[str, float]
    headline: float
    by: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its data, what a whole run is, and what is quoted of it.

    Args:
        name: Its name; the source of a subset's records is called `name/subset`.
        title: What tables call it.
        data: Where the records are, a dataset of the Hugging Face hub.
        format: Class of `prm.data.formats` that reads them.
        sizes: Subset to the number of records of a whole run.
        metric: What is measured on each subset.
        headline: What is quoted of a whole run, and of no other.
        published: What others report.

    Example:
        >>> from prm.metrics.pairs import PAIR_ACCURACY
        >>> toy = Benchmark("toy", "Toy", "me/toy", "Outcomes", {"a": 2, "b": 1}, PAIR_ACCURACY,
        ...     PAIR_ACCURACY)
        >>> toy.missing({"toy/a": 1})
        {'a': 1, 'b': 1}
    """

    name: str
    title: str
    data: str
    format: str
    sizes: Mapping[str, int]
    metric: Metric
    headline: Metric
    published: tuple[Published, ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """Name of the source to its subset."""
        return {f"{self.name}/{subset}": subset for subset in self.sizes}

    def missing(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return how many records of each subset a run lacks; empty if it is whole.

        Args:
            counts: Source to the number of its records in the run.
        """
        lacks = {
            subset: self.sizes[subset] - counts.get(source, 0)
            for source, subset in self.sources.items()
        }
        return {subset: count for subset, count in lacks.items() if count > 0}
