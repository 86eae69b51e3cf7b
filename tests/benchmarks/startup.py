"""Start-up cases: fresh processes, from their start to their end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.harness import Bar, Case, Laps, Side
from tests.benchmarks.workloads import PROCESS, Scale

CHAIN = ("w1 w2 w3 w4", ["w5 w6 w7", "w8 w9"])

PYTHON = (sys.executable, "-c", "pass")
COMMANDS = {
    "import": ("`python -c 'import prm'`", (sys.executable, "-c", "import prm")),
    "help": ("`prm --help`", (sys.executable, "-m", "prm.cli.main", "--help")),
    "score-help": ("`prm score --help`", (sys.executable, "-m", "prm.cli.main", "score", "--help")),
}

LOAD_PRM = """
from prm.scoring.scorer import RewardScorer
scorer = RewardScorer.from_pretrained({folder!r}, "cpu")
print(scorer.score([{chain!r}])[0].probabilities)
"""

LOAD_STOCK = """
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained({folder!r})
model = AutoModelForTokenClassification.from_pretrained({folder!r}).eval()
prompt, steps = {chain!r}
text = " ".join([prompt, *(step + " <|step|>" for step in steps)])
with torch.inference_mode():
    batch = tokenizer(text, return_tensors="pt")
    print(model(**batch).logits.softmax(-1)[0, :, 1])
"""


def run(laps: Laps, command: Sequence[str]) -> None:
    """Start a command again and again."""
    laps.start()
    while True:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        laps.done(tokens=1)


def cases(models: Path, scale: Scale, pairs: int) -> list[Case]:
    """Return the start-up cases."""
    empty = Side("`python -c pass`", partial(run, command=PYTHON))
    found = [
        Case(
            f"startup-{name}",
            f"start-up: {title}",
            (Side("prm", partial(run, command=command)), empty),
            (Bar("seconds", 1.0),),
        )
        for name, (title, command) in COMMANDS.items()
    ]
    folder = str(models / PROCESS)
    ours, theirs = (text.format(folder=folder, chain=CHAIN) for text in (LOAD_PRM, LOAD_STOCK))
    stock = Side("transformers", partial(run, command=(sys.executable, "-c", theirs)))
    load = Case(
        "startup-load",
        "start-up: import, load the model, score a chain of 2 steps",
        (Side("prm", partial(run, command=(sys.executable, "-c", ours))), stock),
        (Bar("speed", 0.8, (stock.name,)), Bar("seconds", None)),
    )
    return [*found, load]
