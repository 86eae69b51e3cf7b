"""`prm export`: a model for programs that know nothing of prm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prm.cli.inputs import model_kind
from prm.cli.options import AggregationOptions, DTypeOptions, ModelOptions, OverwriteOptions
from prm.errors import OutputError

if TYPE_CHECKING:
    from prm.models.export import Exported
    from prm.models.reward_model import RewardModel


@dataclass(frozen=True, kw_only=True)
class Export(AggregationOptions, OverwriteOptions, DTypeOptions, ModelOptions):
    r"""Write a model for trainers and serving engines, and prove that it scores the same.

    A checkpoint of stock transformers with one label per objective, here in half the size::

        prm export --model runs/replies/model --output served --to hf --dtype bfloat16

    One with a single label, the aggregated reward, for programs that read one logit; the weights of
    the objectives can be chosen::

        prm export --model runs/replies/model --output reward --to scalar \
            --aggregation.weights.safety=2

    What was written is loaded again with stock transformers and scores a few texts in float32. If a
    score differs by more than 1e-5 of its size, nothing is left behind.

    Args:
        output: Folder to write.
        to: hf: a label per head column. scalar: one label, where the reward is linear in the scores
            (weighted_sum or lagrangian, normalizers none or zscore, linear heads).
    """

    output: Path
    to: Literal["hf", "scalar"]

    def run(self) -> None:
        """Write the model, and say how it compares.

        Raises:
            ModelError: It cannot be written in this form, or what was written scores differently.
        """
        model_kind(self.model)
        if self.output.exists() and not self.overwrite:
            raise OutputError("the output exists", where=str(self.output), fix="Add --overwrite")

        from transformers.utils import logging

        from prm.cli.aggregation import resolve_aggregation
        from prm.models import checkpoint

        logging.disable_progress_bar()
        loaded = checkpoint.load(self.model, dtype=self.torch_dtype())
        if self.aggregation is not None or self.aggregation_overrides:
            chosen = resolve_aggregation(loaded.spec, self.aggregation, self.aggregation_overrides)
            loaded.spec = loaded.spec.with_(objective_aggregation=chosen)
        export = _scalar if self.to == "scalar" else _stock
        _report(export(loaded, self.output, self.model), self.output)


def _stock(model: RewardModel, output: Path, source: Path) -> Exported:
    """Export all labels, with the card of training, or a new one for another aggregation."""
    from prm.models.card import model_card
    from prm.models.checkpoint import CARD_FILE
    from prm.models.export import export_stock
    from prm.spec import RewardSpec

    old, aggregation = source / CARD_FILE, RewardSpec.load(source).objective_aggregation
    if old.is_file() and aggregation == model.spec.objective_aggregation:
        return export_stock(model, output, old.read_text(encoding="utf-8"))
    return export_stock(model, output, model_card(model.spec, {}, "exported"))


def _scalar(model: RewardModel, output: Path, source: Path) -> Exported:
    from prm.models.card import scalar_card
    from prm.models.export import export_scalar

    return export_scalar(model, output, partial(scalar_card, model.spec))


def _report(written: Exported, output: Path) -> None:
    print(f"{output}: stock transformers gives the same scores (up to {written.difference:.1e})")
    if written.constant != 0:
        print(
            f"  the logit is the reward less {written.constant:.6g}: heads of decoders have no bias"
        )
    for finding in written.findings:
        print(f"  warning: {finding}")
