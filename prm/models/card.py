"""The model card that is written beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prm.models.outcome_card import outcome_card
from prm.spec import RewardSpec


def model_card(
    spec: RewardSpec, metrics: Mapping[str, Any], weights: str, stock: bool = True
) -> str:
    """Return `README.md` of a model folder.

    Args:
        spec: The model's spec.
        metrics: Logged metrics; those of the last validation are listed.
        weights: Which weights these are.
        stock: Whether stock transformers can load the folder.
    """
    values = {
        name.removeprefix("val/"): float(value)
        for name, value in sorted(metrics.items())
        if name.startswith("val/")
    }
    if spec.kind == "process":
        return _process_card(spec, values, weights)
    return outcome_card(spec, values, weights, stock)


def _process_card(spec: RewardSpec, values: Mapping[str, float], weights: str) -> str:
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in values.items())
    objectives = ", ".join(f"{o.name} ({o.readout})" for o in spec.step_heads)
    marker = spec.tokenizer.marker_id if spec.tokenizer else None
    return f"""---
library_name: transformers
pipeline_tag: token-classification
tags: [reward-model, reward model, prm, process-reward-model, prm-framework]
---

# Process reward model

Scores every step of a chain of thought. Everything between a text and a reward is in
`prm_config.json`; load it with

```python
from prm import RewardScorer

scorer = RewardScorer.from_pretrained("path/to/this/folder")
scorer.score([("problem", ["first step", "second step"])])
```

| property | value |
|---|---|
| objectives | {objectives} |
| step aggregation | {spec.step_aggregation!r} |
| shaping | {spec.shaping!r} |
| step marker | `{spec.step_format.marker}`, token {marker} |
| template | {spec.template.style}, BOS: {spec.template.bos} |
| most tokens | {spec.max_length} |
| weights | {weights} |

Validation while it was trained (metrics of the last validation):

| metric | value |
|---|---|
{rows or "| none | |"}
"""
