"""`prm export`: a model for programs that know nothing of prm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prm.errors import ConfigError, OutputError

DType = Literal["float32", "bfloat16", "float16"]


def export(
    model: Path,
    output: Path,
    to: Literal["hf", "scalar"],
    aggregation: str | None = None,
    aggregation_overrides: dict[str, Any] | None = None,
    dtype: DType | None = None,
    overwrite: bool = False,
) -> int:
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
        model: Folder of the model, as `prm fit` saved it.
        output: Folder to write.
        to: hf: a label per head column. scalar: one label, where the reward is linear in the scores
            (weighted_sum or lagrangian, normalizers none or zscore, linear heads).
        aggregation: Class (WeightedSum, ...), or YAML file; by default as in the model's spec.
        aggregation_overrides: Parameters to change, as JSON; --aggregation.weights.safety=2 is the
            short way to write {"weights.safety": 2}.
        dtype: Type of the backbone's weights; by default as stored. Heads stay float32.
        overwrite: Replace the output if it is a model folder.
    """
    if not model.is_dir():
        raise ConfigError("there is no such model folder", got=str(model), fix="Check --model")
    if output.exists() and not overwrite:
        raise OutputError("the output exists", where=str(output), fix="Add --overwrite")

    import torch
    from transformers.utils import logging

    from prm.cli.aggregation import resolve_aggregation
    from prm.cli.export_run import export_model
    from prm.models import checkpoint

    logging.disable_progress_bar()
    loaded = checkpoint.load(model, dtype=None if dtype is None else getattr(torch, dtype))
    if aggregation is not None or aggregation_overrides:
        chosen = resolve_aggregation(loaded.spec, aggregation, aggregation_overrides)
        loaded.spec = loaded.spec.with_(objective_aggregation=chosen)
    export_model(loaded, output, to, model)
    return 0
