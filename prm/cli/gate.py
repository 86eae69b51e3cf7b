"""`prm gate`: weights of the objectives that depend on the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prm.data.formats import OutcomeFormat, all_formats
from prm.data.formats.outcomes import Outcomes
from prm.data.sources.source import Source
from prm.errors import ConfigError, OutputError
from prm.records import Comparison

all_formats()  # so that every format can be named by its class alone


def gate(
    model: Path,
    input: str,
    output: Path,
    format: OutcomeFormat | None = None,
    objective: str = "overall",
    against: str | None = None,
    held_out: float = 0.2,
    temperature: float = 1.0,
    lr: float = 1e-3,
    max_epochs: int = 100,
    max_tokens: int = 16384,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> int:
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
        held_out: Share of the prompts that training stops by, and that the report is about.
        temperature: Above 0; the higher, the closer the weights stay to equal.
        lr: Learning rate of the gate.
        max_epochs: Most passes over the comparisons.
        max_tokens: Tokens in one forward pass: sets the memory, not the result.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.
        seed: Seed of the held-out prompts and of the gate.
        overwrite: Replace the output if it is a model folder.

    Returns:
        1 if equal weights do as well on the held-out prompts, else 0; the model is written anyway.
    """
    if not model.is_dir():
        raise ConfigError("there is no such model folder", got=str(model), fix="Check --model")
    if output.exists() and not overwrite:
        raise OutputError("the output exists", where=str(output), fix="Add --overwrite")
    records = Source(input, format or Outcomes(objective=objective))
    comparisons = [record for record in records if isinstance(record, Comparison)]

    import torch
    from transformers.utils import logging

    from prm.cli.gate_report import print_gate
    from prm.models import checkpoint
    from prm.models.card import model_card
    from prm.training.gate.train import GateOptions, train_gate

    options = GateOptions(
        objective=objective,
        against=against,
        held_out=held_out,
        temperature=temperature,
        lr=lr,
        max_epochs=max_epochs,
        max_tokens=max_tokens,
        seed=seed,
    )
    logging.disable_progress_bar()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(model, device)
    with _progress() as on_progress:
        report = train_gate(loaded, comparisons, options, on_progress)
    metrics = {"val/reward/pair_accuracy": report.accuracy_gated}
    stock = checkpoint.is_stock(loaded)
    checkpoint.save(loaded.cpu(), output, model_card(loaded.spec, metrics, "with a gate", stock))
    print_gate(report, output)
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
