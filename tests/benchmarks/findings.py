"""From repetitions to findings: what each bar says, and what each side reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.benchmarks.harness import Bar, Case, Lap, Measured
from tests.benchmarks.machine import GEMM
from tests.benchmarks.ratios import Estimate, estimate


@dataclass(frozen=True)
class Finding:
    """What a case says about one of its bars.

    Args:
        bar: The bar.
        result: What was measured; `None` if it could not be.
        reason: Why it could not.
    """

    bar: Bar
    result: Estimate | None
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; `None` if there is none, or no result."""
        if self.bar.value is None or self.result is None:
            return None
        if self.bar.metric in ("memory", "seconds"):
            return self.result.value <= self.bar.value
        return self.result.value >= self.bar.value


@dataclass(frozen=True)
class SideSummary:
    """Medians of a side.

    Args:
        name: Its name.
        seconds: Of a repetition.
        tokens_per_second: Useful tokens.
        gemm_share: Executed linear FLOPs over those of the GEMM in the same round.
        attention_share: Needed attention FLOPs over executed linear ones.
        peak_gib: Largest resident memory.
        disagreement: Largest relative difference of its checks from those of prm.
        error: Why it did not run.
    """

    name: str
    seconds: float | None = None
    tokens_per_second: float | None = None
    gemm_share: Estimate | None = None
    attention_share: float | None = None
    peak_gib: float | None = None
    disagreement: float | None = None
    error: str = ""


@dataclass(frozen=True)
class CaseResult:
    """Everything about a case that was run."""

    case: Case
    findings: list[Finding]
    sides: list[SideSummary]
    measured: dict[str, Measured]

    @property
    def agree(self) -> bool:
        """Whether all sides that ran computed the same."""
        return all((side.disagreement or 0) <= self.case.tolerance for side in self.sides)

    def to_dict(self) -> dict[str, Any]:
        """Return the case with every repetition, for JSON."""
        return {
            "name": self.case.name,
            "title": self.case.title,
            "tolerance": self.case.tolerance,
            "agree": self.agree,
            "findings": [asdict(finding) | {"met": finding.met} for finding in self.findings],
            "sides": [asdict(side) for side in self.sides],
            "measured": {name: asdict(side) for name, side in self.measured.items()},
        }


def evaluate(case: Case, measured: dict[str, Measured]) -> CaseResult:
    """Return what the repetitions of a case say."""
    findings = [_finding(case, bar, measured) for bar in case.bars]
    sides = [_summary(case, side.name, measured) for side in case.sides]
    return CaseResult(case, findings, sides, measured)


def _finding(case: Case, bar: Bar, measured: dict[str, Measured]) -> Finding:
    needed = [case.sides[0].name, *bar.against, *([GEMM] if bar.metric == "gemm" else [])]
    failed = [f"{name}: {measured[name].error}" for name in needed if measured[name].error]
    if failed:
        return Finding(bar, None, "; ".join(failed))
    ours, others = measured[needed[0]], [measured[name] for name in needed[1:]]
    if bar.metric == "memory":
        ratio = ours.peak_bytes / others[0].peak_bytes
        return Finding(bar, Estimate(ratio, ratio, ratio, 1))
    if bar.metric == "seconds":
        return Finding(bar, estimate([lap.seconds for lap in ours.laps]))
    if bar.metric == "gemm":
        return Finding(bar, estimate(gemm_shares(ours.laps, others[0].laps)))
    return Finding(bar, estimate(speed_ratios(ours.laps, [other.laps for other in others])))


def speed_ratios(ours: Sequence[Lap], others: Sequence[Sequence[Lap]]) -> list[float]:
    """Return, round by round, useful tokens per second over those of the fastest of the others."""
    return [
        _speed(lap) / max(_speed(peer) for peer in peers)
        for lap, *peers in zip(ours, *others, strict=True)
    ]


def gemm_shares(laps: Sequence[Lap], gemm: Sequence[Lap]) -> list[float]:
    """Return, round by round, executed linear FLOPs per second over those of the GEMM."""
    return [
        (lap.flops / lap.seconds) / (limit.flops / limit.seconds)
        for lap, limit in zip(laps, gemm, strict=True)
    ]


def disagreement(ours: Sequence[Lap], theirs: Sequence[Lap]) -> float | None:
    """Return the largest difference of the checks, relative to 1 or to their size."""
    pairs = [(a.check, b.check) for a, b in zip(ours, theirs, strict=True)]
    differences = [
        abs(a - b) / max(1.0, abs(a)) for a, b in pairs if a is not None and b is not None
    ]
    return max(differences, default=None)


def _summary(case: Case, name: str, measured: dict[str, Measured]) -> SideSummary:
    side, limit, ours = measured[name], measured[GEMM], measured[case.sides[0].name]
    if side.error:
        return SideSummary(name, error=side.error)
    laps, computes = side.laps, all(lap.flops for lap in side.laps)
    return SideSummary(
        name,
        median(lap.seconds for lap in laps),
        median(_speed(lap) for lap in laps) if computes else None,
        estimate(gemm_shares(laps, limit.laps)) if computes and limit.laps else None,
        median(lap.attention_flops / lap.flops for lap in laps) if computes else None,
        side.peak_bytes / 2**30 if computes else None,
        disagreement(ours.laps, laps) if ours.laps else None,
    )


def _speed(lap: Lap) -> float:
    return lap.tokens / lap.seconds
