"""`prm gate`: weights of the objectives that depend on the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prm.cli.inputs import model_kind, say_skipped
from prm.cli.options import ForwardOptions, ModelOptions, OverwriteOptions, RowOptions
from prm.data.formats import OutcomeFormat, all_formats
from prm.data.formats.outcomes import Outcomes
from prm.data.sources.source import Skipped, Source
from prm.errors import OutputError

if TYPE_CHECKING:
    from prm.training.gate.train import GateReport

all_formats()  # so that every format can be named by its class alone


@dataclass(frozen=True, kw_only=True)
class Gate(RowOptions, ForwardOptions, OverwriteOptions, ModelOptions):
    """Let the prompt choose how much each objective counts.

    A small gate reads the hidden state at the end of the prompt and gives the weights. It is
    learned from comparisons that say which response is better all things considered, while backbone
    and heads stay as they are; the model is run over them once::

        prm gate --model runs/replies/model --input overall.jsonl --output runs/replies/gated

    With `--against length`, an objective that the others follow is taken out of them first.

    Args:
        model: Folder of the model, as `prm fit` saved it: a decoder with several objectives.
        input: File, folder, glob, saved dataset, or name of a Hugging Face dataset of comparisons.
        output: Folder for the model with its gate.
        format: What rows look like; by default prompt, chosen and rejected, or responses and ranks.
        objective: Objective of the comparisons to learn from.
        against: Objective of the model that the others are made independent of.
        held_out: Share of the prompts that are not trained on: by one half of them training stops,
            the report is about the other.
        temperature: Above 0; the higher, the closer the weights stay to equal.
        lr: Learning rate of the gate.
        max_epochs: Most passes over the comparisons.
        seed: Seed of the held-out prompts and of the gate.
    """

    input: str
    output: Path
    format: OutcomeFormat | None = None
    objective: str = "overall"
    against: str | None = None
    held_out: float = 0.2
    temperature: float = 1.0
    lr: float = 1e-3
    max_epochs: int = 100
    seed: int = 0

    def run(self) -> int:
        """Train the gate, and return 1 if equal weights do as well, else 0; it is written anyway.

        They are compared on prompts that neither trained the gate nor chose its epoch.
        """
        model_kind(self.model)
        if self.output.exists() and not self.overwrite:
            raise OutputError("the output exists", where=str(self.output), fix="Add --overwrite")
        chosen, skipped = self.format or Outcomes(objective=self.objective), Skipped()
        source = Source(self.input, chosen, on_error=self.on_error)
        comparisons = [record for record in source.records(skipped) if record.ranks]
        say_skipped(self.input, skipped)

        import torch
        from transformers.utils import logging

        from prm.models import checkpoint
        from prm.models.card import model_card
        from prm.training.gate.train import GateOptions, train_gate

        options = GateOptions(
            objective=self.objective,
            against=self.against,
            held_out=self.held_out,
            temperature=self.temperature,
            lr=self.lr,
            max_epochs=self.max_epochs,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        logging.disable_progress_bar()
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = checkpoint.load(self.model, device)
        with _progress() as on_progress:
            report = train_gate(loaded, comparisons, options, on_progress)
        metrics = {"val/reward/pair_accuracy": report.accuracy_gated}
        stock = checkpoint.is_stock(loaded)
        card = model_card(loaded.spec, metrics, "with a gate", stock)
        checkpoint.save(loaded.cpu(), self.output, card)
        _print_report(report, self.output)
        return int(report.accuracy_gated <= report.accuracy_equal)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks = {
            "read": progress.add_task("reading comparisons", total=None),
            "train": progress.add_task("training the gate", total=None),
        }

        def on_progress(phase: str, count: int, total: int) -> None:
            progress.update(tasks[phase], advance=count, total=total)

        yield on_progress


def _print_report(report: GateReport, output: Path) -> None:
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
        print("  No weights did better than equal ones on the prompts that training stops by.")
