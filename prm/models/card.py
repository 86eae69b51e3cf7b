"""The model card that is written beside the weights, and that of a one-label export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prm.markdown import table
from prm.models.fold import REWARD, dropped_constant, is_linear
from prm.spec import ResponseHead, RewardSpec, Template
from prm.trees.chat import PROBE

TAGS = ("reward-model", "reward model", "rlhf", "prm", "prm-framework")


def model_card(
    spec: RewardSpec, metrics: Mapping[str, Any], weights: str, stock: bool = True
) -> str:
    """Return `README.md` of a model folder.

    Args:
        spec: The model's spec.
        metrics: Metrics of the last validation up to these weights, `val/METRIC`.
        weights: Which weights these are.
        stock: Whether stock transformers can load the folder.
    """
    values = {
        name.removeprefix("val/"): float(value)
        for name, value in sorted(metrics.items())
        if name.startswith("val/")
    }
    has_responses = bool(spec.response_heads)
    return _joined(
        _front_matter(spec, values),
        f"# {spec.kind.capitalize()} reward model",
        _what(spec),
        _objectives(spec) if has_responses else "",
        _properties(spec, weights),
        PRM_USE.format(call=CALL if has_responses else CALL_OF_STEPS),
        *([_stock_use(spec), _serving(spec)] if has_responses and stock else []),
        "" if stock else NOT_STOCK,
        SCALAR if has_responses and stock and is_linear(spec) else "",
        "Validation while it was trained (the last one up to these weights):",
        _metrics(spec, values),
    )


def _what(spec: RewardSpec) -> str:
    where = "Everything between a text and a reward is in `prm_config.json`."
    if not spec.response_heads:
        return f"Scores every step of a chain of thought. {where}"
    what = "single steps and whole responses" if spec.step_heads else "whole responses"
    return (
        f"Scores {what}, each objective separately. How the objectives become one reward can\n"
        f"be changed without running the model again. {where}"
    )


def scalar_card(spec: RewardSpec, folded: RewardSpec) -> str:
    """Return `README.md` of a one-label export.

    Args:
        spec: Spec of the model with all objectives, with the aggregation that was folded.
        folded: Spec of the folded model.
    """
    return _joined(
        _front_matter(folded, {}),
        "# Outcome reward model with one label",
        f"The reward of a model that scores {', '.join(spec.response_names)} separately, folded\n"
        "into one logit. Scores of single objectives and other weights need the model itself.",
        _objectives(spec),
        _constant(dropped_constant(folded)),
        _properties(folded, "folded"),
        PRM_USE.format(call=CALL),
        _stock_use(folded),
        _serving(folded),
    )


PRM_USE = """\
With prm:

```python
from prm import RewardScorer

scorer = RewardScorer.from_pretrained("path/to/this/folder")
{call}
```"""

CALL = """\
score = scorer.score([("prompt", "response")])[0]
print(score.scores, score.reward)"""

CALL_OF_STEPS = 'scorer.score([("problem", ["first step", "second step"])])'

NOT_STOCK = "Stock transformers has no class for these heads: only prm can load the folder."

SCALAR = """\
`scalar/`, where it lies beside this file, holds the same model with one label, the aggregated
reward, for programs that read a single logit. It repeats the weights; delete it if nothing needs
it. `prm export --to scalar` writes it again."""


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(spec: RewardSpec, values: Mapping[str, float]) -> str:
    import yaml  # type: ignore[import-untyped]

    has_steps = bool(spec.step_heads)
    tags = [*TAGS, *["process-reward-model"] * has_steps]
    tags += ["multi-objective"] * (len(spec.response_heads) > 1)
    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "token-classification" if has_steps else "text-classification",
        "tags": tags,
    }
    if values:
        data["model-index"] = [
            {
                "name": f"{spec.kind} reward model",
                "results": [_result(data["pipeline_tag"], values)],
            }
        ]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---"


def _result(task: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Return the metrics over all sources as an entry of the Hub's model index."""
    metrics = [
        {"type": name.rpartition("/")[2], "name": name.replace("/", " "), "value": round(value, 6)}
        for name, value in values.items()
        if name.count("/") < 2
    ]
    return {
        "task": {"type": task, "name": "Reward modeling"},
        "dataset": {"type": "validation", "name": "validation data of the training run"},
        "metrics": metrics,
    }


def _objectives(spec: RewardSpec) -> str:
    aggregation = spec.objective_aggregation
    assert aggregation is not None
    weights = aggregation.linear_weights(spec.response_names) or {}
    rows = [
        (
            objective.name,
            objective.readout,
            objective.direction,
            _normalizer(spec, objective),
            f"{weights[objective.name]:g}" if weights else "",
        )
        for objective in spec.response_heads
    ]
    head = ("objective", "readout", "direction", "normalizer", "weight")
    gated = " The prompt chooses the weights, by `gate.safetensors`." * aggregation.needs_gates
    made = f"Aggregation: `{aggregation!r}`. Shaping: `{spec.shaping!r}`."
    return f"{_text_table(head, rows)}\n\n{made}{gated}"


def _normalizer(spec: RewardSpec, objective: ResponseHead) -> str:
    normalizer = spec.normalizers.get(objective.name)
    if normalizer is None:
        return "none"
    line = normalizer.affine()
    return normalizer.name if line is None else f"{line[0]:.4g} score {line[1]:+.4g}"


def _constant(constant: float) -> str:
    """Say what the logit lacks, and where programs can be told."""
    if constant == 0:
        return "The logit is the reward."
    return (
        f"The logit is the reward less {constant:.6g}: heads of stock decoders have no bias.\n"
        "Rankings and differences are the same. prm adds the constant back, and so can vLLM\n"
        "(below) and OpenRLHF (`mean` and `std` in `config.json`)."
    )


def _properties(spec: RewardSpec, weights: str) -> str:
    rows = [("template", f"{spec.template.style}, BOS: {spec.template.bos}")]
    if spec.step_heads:
        marker = spec.tokenizer.marker_id if spec.tokenizer else None
        rows += [
            ("step objectives", ", ".join(f"{o.name} ({o.readout})" for o in spec.step_heads)),
            ("step aggregation", repr(spec.step_aggregation)),
            ("step marker", f"`{spec.step_format.marker}`, token {marker}"),
        ]
    if spec.response_heads:
        form = spec.response_format
        response = f"start: {form.start}, suffix: {json.dumps(form.suffix)}, end: {form.end}"
        rows += [("response", response), ("read at", form.read_at)]
    else:
        rows.append(("shaping", repr(spec.shaping)))
    rows += [
        ("most tokens", f"{spec.max_length}, longer: {spec.on_too_long}"),
        ("weights", weights),
    ]
    return _text_table(("property", "value"), rows)


def _stock_use(spec: RewardSpec) -> str:
    joint = spec.kind == "joint"
    family = "AutoModelForTokenClassification" if joint else "AutoModelForSequenceClassification"
    return f"""\
With stock transformers, whose labels are the head columns that `config.id2label` names:

```python
import torch
from transformers import AutoTokenizer, {family}

path, prompt, response = "path/to/this/folder", "prompt", "response"
tokenizer = AutoTokenizer.from_pretrained(path)
model = {family}.from_pretrained(path, dtype=torch.float32)
{_ids_code(spec)}
with torch.no_grad():
    columns = model(torch.tensor([ids])).{"logits[0, -1]" if joint else "logits[0]"}
```"""


def _ids_code(spec: RewardSpec) -> str:
    """Return Python that makes the token ids of `prompt` and `response` as the spec says."""
    template, form = spec.template, spec.response_format
    system = [{"role": "system", "content": template.system}] if template.system else []
    chat = template.style == "chat"
    first = "tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id"
    lines = [
        f'messages = {system!r} + [{{"role": "user", "content": prompt}}]' if chat else "",
        *(
            _chat_code(template)
            if chat
            else [f"ids = {_encoded(template.prefix, 'prompt', template.suffix)}"]
        ),
        f"first = {first}" if chat or template.bos == "one" else "",
        "ids = ids[ids[:1] == [first] :]" if chat else "",
        "ids = [first] + ids" if template.bos == "one" else "",
        "ids = ids + [tokenizer.sep_token_id]" if form.start == "sep" else "",
        f"ids = ids + {_encoded('', 'response', form.suffix)}",
        _end_code(spec),
    ]
    return "\n".join(line for line in lines if line)


def _chat_code(template: Template) -> list[str]:
    """Return Python that renders `messages` and opens the answer, whose text it leaves out."""
    if template.opening == "generation":
        asked = "messages, add_generation_prompt=True, return_dict=False"
        return [f"ids = tokenizer.apply_chat_template({asked})"]
    answer = f'[{{"role": "assistant", "content": {PROBE!a}}}]'
    return [
        f"text = tokenizer.apply_chat_template(messages + {answer}, tokenize=False)",
        f"text = text.rpartition({PROBE!a})[0]",
        "ids = tokenizer(text, add_special_tokens=False)['input_ids']",
    ]


def _encoded(before: str, name: str, after: str) -> str:
    parts = [*([json.dumps(before)] if before else []), name]
    parts += [json.dumps(after)] if after else []
    return (
        f"tokenizer({' + '.join(parts)}, add_special_tokens=False, split_special_tokens=True)"
        "['input_ids']"
    )


def _end_code(spec: RewardSpec) -> str:
    end = spec.response_format.end
    if end == "turn":
        return "# then the tokens that the chat template writes after an assistant's turn"
    last = "tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id"
    return f"ids = ids + [{last}]" if end == "eos" else ""


def _serving(spec: RewardSpec) -> str:
    """Return how vLLM is started."""
    options: dict[str, Any] = {"use_activation": False}
    constant = dropped_constant(spec)
    if constant != 0:
        options |= {"logit_mean": -constant, "logit_sigma": 1.0}
    if spec.kind == "joint":
        options["task"] = "token_classify"
    return f"""\
With vLLM, without an activation, so that the numbers are those of prm:

```bash
vllm serve path/to/this/folder --runner pooling --pooler-config '{json.dumps(options)}'
```"""


def _metrics(spec: RewardSpec, values: Mapping[str, float]) -> str:
    """Return the metrics by objective, those of the reward last; then those of steps."""
    names = [*spec.response_names, REWARD]
    found = {name.partition("/")[::2]: value for name, value in values.items()}
    overall = {key: value for key, value in found.items() if "/" not in key[1]}
    metrics = sorted({metric for name, metric in overall if name in names})
    rows = [
        (metric, *(_number(overall.get((name, metric))) for name in names)) for metric in metrics
    ]
    others = [
        (name, _number(value))
        for name, value in values.items()
        if name.partition("/")[0] not in names
    ]
    tables = [table(("metric", *names), rows)] if rows else []
    tables += [table(("metric", "value"), others)] if others else []
    return "\n\n".join(tables) or "none"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(head, list(rows), range(len(head)))
