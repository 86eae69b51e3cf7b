"""What a run of the suite leaves: `results.json`, `table.md` and `bars.png`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prm.atomic import atomic_file, write_text
from tests.benchmarks.findings import CaseResult, Finding, SideSummary

METRICS = {
    "speed": "speed against {against}",
    "gemm": "executed work over GEMM",
    "memory": "peak memory against {against}",
    "seconds": "seconds",
}


def write(
    folder: Path, results: Sequence[CaseResult], machine: dict[str, Any], command: str
) -> None:
    """Write the three files; a run that is repeated replaces them."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "command": command,
        "machine": machine,
        "cases": [result.to_dict() for result in results],
    }
    write_text(folder / "results.json", json.dumps(record, indent=1) + "\n")
    write_text(folder / "table.md", page(results, machine, command))
    draw(results, folder / "bars.png")


def page(results: Sequence[CaseResult], machine: dict[str, Any], command: str) -> str:
    """Return the tables, with what they were measured on."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gemm = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in machine["gemm"].items())
    about = (
        f"Command: `{command}`. Model {machine['model']}, "
        f"{machine['linear_parameters'] / 1e6:.1f}M linear parameters, "
        f"{machine['pairs']} rounds after a warm-up."
    )
    where = (
        f"Machine: {machine.get('gpu') or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, "
        f"{machine['memory_gib']} GiB; GEMM {gemm}; "
        f"copy {machine['bandwidth'] / 1e9:.0f} GB/s; "
        f"load before the run {machine['load_before']:.1f}. "
        f"{versions}, Python {machine['python']}."
    )
    parts = (about, where, bars_table(results), sides_table(results))
    return "\n\n".join(parts) + "\n"


def bars_table(results: Sequence[CaseResult]) -> str:
    """Return one row per bar: medians with their 95 % intervals."""
    rows = [
        (
            result.case.name,
            _metric(finding),
            _bar(finding),
            _result(finding),
            _verdict(finding, result.agree),
        )
        for result in results
        for finding in result.findings
    ]
    return _markdown(("case", "prm", "bar", "measured", "bar met"), rows)


def sides_table(results: Sequence[CaseResult]) -> str:
    """Return one row per side."""
    names = ("case", "side", "seconds", "useful tokens/s", "of GEMM", "attention", "peak GiB")
    rows = [
        (result.case.name, *_side(side, index == 0))
        for result in results
        for index, side in enumerate(result.sides)
    ]
    return _markdown((*names, "differs by"), rows)


def _metric(finding: Finding) -> str:
    against = finding.bar.against
    named = against[0] if len(against) == 1 else f"the faster of {' and '.join(against)}"
    return METRICS[finding.bar.metric].format(against=named if against else "")


def _bar(finding: Finding) -> str:
    metric, value = finding.bar.metric, finding.bar.value
    if value is None:
        return ""
    sign = "≤" if metric in ("memory", "seconds") else "≥"
    return f"{sign} {value:.0%}" if metric == "gemm" else f"{sign} {value:g}"


def _result(finding: Finding) -> str:
    result = finding.result
    if result is None:
        return f"not run: {finding.reason}"
    form = ".0%" if finding.bar.metric == "gemm" else ".2f"
    if result.n == 1:
        return f"{result.value:{form}}"
    return f"{result.value:{form}} [{result.low:{form}}, {result.high:{form}}]"


def _verdict(finding: Finding, agree: bool) -> str:
    if not agree:
        return "results differ"
    return {True: "yes", False: "no", None: ""}[finding.met]


def _side(side: SideSummary, is_first: bool) -> tuple[str, ...]:
    if side.error:
        return (side.name, f"not run: {side.error}", *[""] * 5)
    assert side.seconds is not None
    return (
        side.name,
        f"{side.seconds:.3g}",
        "" if side.tokens_per_second is None else f"{side.tokens_per_second:,.0f}",
        "" if side.gemm_share is None else f"{side.gemm_share.value:.0%}",
        "" if side.attention_share is None else f"{side.attention_share:.0%}",
        "" if side.peak_gib is None else f"{side.peak_gib:.2f}",
        "" if is_first or side.disagreement is None else f"{side.disagreement:.1g}",
    )


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(results: Sequence[CaseResult], path: Path) -> None:
    """Draw the speed ratios with their intervals, and their bars."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    chosen = [
        (f"{result.case.name}\n{_metric(finding)}", finding)
        for result in results
        for finding in result.findings
        if finding.bar.metric == "speed" and finding.result is not None
    ]
    figure = Figure(figsize=(9, 1 + 0.5 * max(1, len(chosen))), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, finding) in enumerate(reversed(chosen)):
        result = finding.result
        assert result is not None
        color = "tab:red" if finding.met is False else "tab:green" if finding.met else "tab:gray"
        reach = [[result.value - result.low], [result.high - result.value]]
        axes.barh(place, result.value, color=color, xerr=reach, ecolor="black", capsize=3)
        if finding.bar.value is not None:
            axes.plot([finding.bar.value] * 2, [place - 0.4, place + 0.4], color="black", lw=2)
    axes.axvline(1, color="gray", linestyle=":")
    axes.set_yticks(range(len(chosen)), [label for label, _ in reversed(chosen)], fontsize=7)
    axes.set_xlabel("times the peer's speed; line: bar; whiskers: 95 % interval", fontsize=8)
    axes.margins(y=0.01)
    with mpl.rc_context({"svg.hashsalt": "prm"}), atomic_file(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
