"""The run of `prm export`: what is written, checked and reported."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prm.models.card import model_card, scalar_card
from prm.models.checkpoint import CARD_FILE
from prm.models.export import Exported, export_scalar, export_stock
from prm.models.reward_model import RewardModel
from prm.spec import RewardSpec


def export_model(model: RewardModel, output: Path, to: str, source: Path) -> None:
    """Write a model and say how it compares.

    Args:
        model: The model, with the aggregation that is wanted.
        output: Folder to write.
        to: `scalar` for one label, `hf` for all of them.
        source: Folder that the model was loaded from.

    Raises:
        ModelError: It cannot be written in this form, or what was written scores differently.
    """
    written = _scalar(model, output) if to == "scalar" else _stock(model, output, source)
    _report(written, output)


def _stock(model: RewardModel, output: Path, source: Path) -> Exported:
    """Export all labels, with the card of training, or a new one for another aggregation."""
    old, aggregation = source / CARD_FILE, RewardSpec.load(source).objective_aggregation
    if old.is_file() and aggregation == model.spec.objective_aggregation:
        return export_stock(model, output, old.read_text(encoding="utf-8"))
    return export_stock(model, output, model_card(model.spec, {}, "exported"))


def _scalar(model: RewardModel, output: Path) -> Exported:
    return export_scalar(model, output, partial(scalar_card, model.spec))


def _report(written: Exported, output: Path) -> None:
    print(f"{output}: stock transformers gives the same scores (up to {written.difference:.1e})")
    if written.constant != 0:
        print(
            f"  the logit is the reward less {written.constant:.6g}: heads of decoders have no bias"
        )
    for finding in written.findings:
        print(f"  warning: {finding}")
