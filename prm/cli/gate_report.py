"""What `prm gate` prints about the gate that it trained."""

from __future__ import annotations

from pathlib import Path

from prm.training.gate.train import GateReport


def print_gate(report: GateReport, output: Path) -> None:
    """Print accuracies and mean weights."""
    left_out = f", {report.num_dropped:,} comparisons left out" if report.num_dropped else ""
    print(f"{output}: learned from {report.num_pairs:,} pairs{left_out}")
    print(f"  accuracy on {report.num_held_out:,} pairs of held-out prompts")
    print(f"    equal weights  {report.accuracy_equal:.4f}")
    print(f"    gated          {report.accuracy_gated:.4f}")
    print("  mean weight of each objective")
    width = max(map(len, report.mean_gates))
    for name, weight in report.mean_gates.items():
        penalty = report.penalties.get(name)
        taken = "" if penalty is None else f"  less {penalty:g} of what it follows"
        print(f"    {name:<{width}}  {weight:.4f}{taken}")
    if report.num_epochs == 0:
        print("  No weights did better than equal ones on the held-out prompts.")
