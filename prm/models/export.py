"""Export: a model folder for other programs, written, read back with stock transformers, compared.

A folder whose scores differ is never left behind.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prm.atomic import atomic_folder
from prm.errors import ModelError
from prm.models import checkpoint, golden
from prm.models.fold import LinearReward, dropped_constant, fold
from prm.models.reward_model import RewardModel
from prm.models.stock import family
from prm.records import Chain, Rating, Record
from prm.spec import SPEC_FILE, RewardSpec
from prm.trees.tree import TokenTree, flat_path

TOLERANCE = 1e-5
"""Largest difference of a column in float32, relative to columns above 1."""

SCALAR_FOLDER = "scalar"
"""Where a one-label export lies in a model folder."""

CHAINS = (*golden.CHAINS, Chain("1 + 1 = ?", ["2"]))

RESPONSES = (
    *golden.RESPONSES,
    Rating("Hi", "Hello! What can I do for you today?"),
    Rating("Write a haiku about rain.", "Rain on the tin roof,\na drum for the cat.\nTea."),
    Rating("2 + 2 = ?", "4"),
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export found.

    Args:
        difference: Largest difference between the scores of prm and of stock transformers.
        constant: Constant part of the reward that a folded model's score lacks.
        findings: What serving engines may trip over.
    """

    difference: float
    constant: float
    findings: tuple[str, ...]


def export_stock(model: RewardModel, folder: str | Path, card: str | None = None) -> Exported:
    """Write a model as a stock checkpoint with one label per head column.

    Args:
        model: The model.
        folder: Where to; an older model folder there is replaced.
        card: Text of the model card.

    Raises:
        ModelError: transformers has no class for it, or gives other scores; nothing is written.
        OutputError: As `checkpoint.save`.
    """
    exact = golden.exact(model)
    return _export(model, folder, card, lambda tree: golden.read(exact, tree).columns, 1.0)


def export_scalar(
    model: RewardModel,
    folder: str | Path,
    card: Callable[[RewardSpec], str] | None = None,
) -> Exported:
    """Write a model as a stock checkpoint with one label, the aggregated reward.

    Args:
        model: A model with response objectives.
        folder: Where to; an older model folder there is replaced.
        card: Makes the text of the model card from the folded model's spec.

    Raises:
        ModelError: The reward is not linear, or as `export_stock`.
        OutputError: As `checkpoint.save`.
    """
    folded = fold(model)
    constant = dropped_constant(folded.spec)
    exact = golden.exact(model)

    def expected(tree: TokenTree) -> Tensor:
        scores = exact.response_scores(golden.read(exact, tree).columns).double()
        return model.spec.rewards(scores)[:, None] - constant

    text = None if card is None else card(folded.spec)
    return _export(folded, folder, text, expected, LinearReward.of(model.spec).gain)


def _export(
    model: RewardModel,
    folder: str | Path,
    card: str | None,
    expected: Callable[[TokenTree], Tensor],
    gain: float,
) -> Exported:
    if not checkpoint.is_stock(model):
        raise _no_stock_class(model)
    with atomic_folder(folder, SPEC_FILE) as temporary:
        checkpoint.write(model, temporary, card)
        constant = dropped_constant(model.spec)
        if constant != 0:
            # as `(score - mean) / std`, where OpenRLHF looks for it
            file = temporary / "config.json"
            config = json.loads(file.read_text(encoding="utf-8"))
            config |= {"mean": -constant, "std": 1.0}
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        difference = _compare(model, temporary, expected, gain)
        findings = serving_findings(temporary, model.backbone.mode == "encoder")
    return Exported(difference, constant, findings)


def _no_stock_class(model: RewardModel) -> ModelError:
    stock = type(model.backbone.model).__name__
    if model.heads.kind != "linear":
        problem, got = "stock classifiers have one linear head", f"heads of kind {model.heads.kind}"
    else:
        problem = f"transformers has no classifier on {stock} that reads where this model does"
        got = f"a {model.spec.kind} model that reads at {model.spec.response_format.read_at!r}"
    return ModelError(problem, got=got, fix="Such a model can be loaded with prm only")


def _compare(
    model: RewardModel, folder: Path, expected: Callable[[TokenTree], Tensor], gain: float
) -> float:
    """Compare with stock transformers, in float32, one batch with padding; return the difference.

    Raises:
        ModelError: Scores differ, or no text fits the model.
    """
    texts: tuple[Record, ...] = (*CHAINS, *RESPONSES)
    trees = [tree for _, tree in golden.fitting(model, texts)]
    if not trees:
        raise ModelError("no text to compare scores with fits the model", got=model.spec.max_length)
    wanted = torch.cat([expected(tree) for tree in trees]).cpu().double()
    got = _stock_columns(folder, model.spec, trees).double()
    differences = (got - wanted).abs()
    allowed = TOLERANCE * wanted.abs().clamp(min=max(1.0, gain))
    if not bool((differences <= allowed).all()):
        raise ModelError(
            "stock transformers gives other scores than prm, so nothing is written",
            expected=f"differences up to {TOLERANCE:g} of the score in float32",
            got=f"{differences.max().item():.3g}",
        )
    return differences.max().item()


@torch.no_grad()
def _stock_columns(folder: Path, spec: RewardSpec, trees: Sequence[TokenTree]) -> Tensor:
    """Return the logits `[read, column]` that stock transformers gives at the reads."""
    with checkpoint.quiet():
        stock = family(spec).from_pretrained(folder, dtype=torch.float32).eval()
    paths = [flat_path(tree) for tree in trees]
    rows = [torch.tensor(ids) for ids, _ in paths]
    pad = stock.config.pad_token_id
    logits: Tensor = stock(
        input_ids=pad_sequence(rows, batch_first=True, padding_value=pad),
        attention_mask=pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    ).logits
    del stock
    gc.collect()  # the folder's weights are mapped, and the folder may be removed
    if spec.kind == "outcome":
        return logits
    return torch.cat([row[reads] for row, (_, reads) in zip(logits, paths, strict=True)])


def serving_findings(folder: Path, is_encoder: bool = False) -> tuple[str, ...]:
    """Return what serving engines may trip over in a stock checkpoint; nothing is what to expect.

    Args:
        folder: The checkpoint.
        is_encoder: Whether it is a bidirectional encoder, whose classes engines know by name.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or ["none"])[0]
    heads = {key for key in checkpoint.weight_files(folder) if key.count(".") == 1}
    ends = config.get("eos_token_id")
    pad = config.get("pad_token_id")
    checks = {
        f"engines know no class {name}": name.endswith(
            ("ForSequenceClassification", "ForTokenClassification")
        ),
        "config.json has no problem_type, so engines guess an activation": bool(
            config.get("problem_type")
        ),
        "config.json has no pad_token_id, so batches cannot be padded": pad is not None,
        "the pad token ends sequences, so engines read different tokens": pad is None
        or pad not in (ends if isinstance(ends, list) else [ends]),
        f"engines look for the head of a decoder as score.weight, and find {sorted(heads)}": (
            is_encoder or "score.weight" in heads
        ),
        "config.json names code of its own": "auto_map" not in config,
    }
    return tuple(finding for finding, holds in checks.items() if not holds)
