"""Benchmarks, one file each: what a whole run is, what is quoted of it, and what others report.

There is no registry: the files of this folder are the list. A new benchmark is one more file that
holds a `Benchmark`; a report knows it by the names of the sources.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection

from prm.evaluation.benchmarks.base import Benchmark, Published

__all__ = ["Benchmark", "Published", "all_benchmarks", "benchmark_of"]


def all_benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark of this folder by its name, in alphabetical order."""
    found = {}
    for module_info in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        for member in vars(importlib.import_module(module_info.name)).values():
            if isinstance(member, Benchmark):
                found[member.name] = member
    return dict(sorted(found.items()))


def benchmark_of(sources: Collection[str]) -> Benchmark | None:
    """Return the benchmark that all sources are subsets of, if there is one.

    Example:
        >>> benchmark_of(["processbench/math"]).title, benchmark_of(["processbench/math", "mine"])
        ('ProcessBench', None)
    """
    whole = (b for b in all_benchmarks().values() if set(sources) <= set(b.sources))
    return next(whole, None)
