"""The model folder: a stock Hugging Face checkpoint with `prm_config.json` beside it.

With a linear head and a backbone that transformers knows as `*ForTokenClassification`, that is what
is written, and stock transformers gives the head columns at every token. Otherwise the backbone is
written as a plain model and the heads as `heads.safetensors`, which only prm reads back.
Nothing in the folder runs code when it is loaded.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedModel
from transformers.utils import logging

from prm.atomic import atomic_folder
from prm.data.packing import pack
from prm.errors import DataError, ModelError
from prm.models.heads import HeadKind
from prm.models.lora import merged
from prm.models.reward_model import ProcessRewardModel
from prm.models.sources import load_tokenizer
from prm.records import Chain
from prm.spec import SPEC_FILE, GoldenScore, RewardSpec

HEADS_FILE = "heads.safetensors"

GOLDEN_CHAINS = (
    Chain("What is 2 + 3 * 4?", ["3 * 4 = 12", "2 + 12 = 14", "The answer is 14."]),
    Chain("What is 7 - 5 + 1?", ["7 - 5 = 3", "3 + 1 = 4"]),
)
"""Chains whose scores are stored with a model and compared when it is loaded."""


def save(model: ProcessRewardModel, folder: str | Path, card: str | None = None) -> Path:
    """Write a model folder; it appears whole or not at all.

    Args:
        model: The model; LoRA adapters are merged into the written weights.
        folder: Where to; an older model folder there is replaced.
        card: Text of the model card, `README.md`.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written, or holds something that is not a model.
    """
    folder = Path(folder)
    plain = merged(model)
    exact = copy.deepcopy(plain).float() if _is_half(plain) else plain
    spec = model.spec.with_(golden=golden_scores(exact))
    with atomic_folder(folder, SPEC_FILE) as temporary, _quiet():
        classifier = _token_classifier(plain)
        if classifier is None:
            _stock(plain).save_pretrained(temporary)
            save_file(_contiguous(plain.heads.state_dict()), temporary / HEADS_FILE)
        else:
            classifier.save_pretrained(temporary)
        plain.tokenizer.save_pretrained(temporary)
        (temporary / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    return folder


def load(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
) -> ProcessRewardModel:
    """Read a model folder.

    Args:
        folder: A folder that `save` wrote.
        device: Where the model goes.
        dtype: Type of the backbone's weights; as stored if not given. Heads stay float32.
        verify: Compare the model's scores of the stored golden chains with the stored scores.

    Raises:
        SpecError: There is no spec, it is too new, or the tokenizer is not the model's.
        ModelError: Weights are missing, left over or of the wrong shape, or the scores differ.
    """
    folder = Path(folder)
    spec = RewardSpec.load(folder)
    tokenizer = load_tokenizer(str(folder))
    stock = _load_backbone(folder, dtype)
    heads, kind = _load_heads(folder, stock)
    identity = spec.tokenizer
    model = ProcessRewardModel(stock, tokenizer, spec.with_(tokenizer=None), kind)
    model.spec = model.spec.with_(golden=spec.golden)
    if identity is not None and model.spec.tokenizer != identity:
        from prm.data.tokenize import check_identity

        check_identity(tokenizer, spec)
    _fill(model.heads, heads, folder)
    model.to(device).eval()
    if verify:
        check_golden(model, spec.golden, str(folder))
    return model


@torch.no_grad()
def golden_scores(
    model: ProcessRewardModel, chains: Sequence[Chain] = GOLDEN_CHAINS
) -> tuple[GoldenScore, ...]:
    """Score the chains that fit the model."""
    training = model.training
    model.eval()
    scores = []
    for chain in chains:
        try:
            tokens = model.builder.build(chain)
        except DataError:
            continue
        device = next(model.heads.parameters()).device
        columns = model(pack([tokens.tree]).to(device)).columns
        logits = model.step_logits(columns).double().T.tolist()
        scores.append(
            GoldenScore(
                str(chain.prompt),
                chain.completions[: len(tokens.steps)],
                {
                    objective.name: tuple(values)
                    for objective, values in zip(model.spec.objectives, logits, strict=True)
                },
            )
        )
    model.train(training)
    return tuple(scores)


def check_golden(model: ProcessRewardModel, expected: Sequence[GoldenScore], where: str) -> None:
    """Compare a model's golden scores with the stored ones.

    Raises:
        ModelError: A log-odds differs by more than float tolerance (looser for half precision).
    """
    if not expected:
        return
    relative = 0.2 if _is_half(model) else 1e-3
    chains = [Chain(old.prompt, old.completions) for old in expected]
    for old, new in zip(expected, golden_scores(model, chains), strict=True):
        for name, values in old.step_logits.items():
            for a, b in zip(values, new.step_logits[name], strict=True):
                if not math.isclose(a, b, rel_tol=relative, abs_tol=relative):
                    raise ModelError(
                        f"the loaded model does not score {name!r} as the saved one did",
                        expected=f"{a:.6f}",
                        got=f"{b:.6f}",
                        where=where,
                        fix="Weights and prm_config.json are not from the same model",
                    )


def _is_half(model: ProcessRewardModel) -> bool:
    return next(model.backbone.parameters()).dtype in (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars, and from reporting the head as unexpected."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _stock(model: ProcessRewardModel) -> PreTrainedModel:
    return model.backbone.model


def _token_classifier(model: ProcessRewardModel) -> PreTrainedModel | None:
    """Return a stock token classifier that shares the model's weights, if there is such a class."""
    layer = model.heads.layers
    if not isinstance(layer, nn.Linear):
        return None
    classifier = _empty_classifier(_stock(model), model.spec)
    head = _head_name(classifier) if classifier is not None else None
    if classifier is None or head is None:
        return None
    setattr(classifier, classifier.base_model_prefix, _stock(model))
    setattr(classifier, head, layer)
    return classifier


def _empty_classifier(stock: PreTrainedModel, spec: RewardSpec) -> PreTrainedModel | None:
    config = copy.deepcopy(stock.config)
    labels = [
        name
        for objective in spec.objectives
        for name in (
            [objective.name]
            if objective.readout == "sigmoid"
            else [f"not_{objective.name}", objective.name]
        )
    ]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    readouts = {objective.readout for objective in spec.objectives}
    config.problem_type = (
        "multi_label_classification"
        if readouts == {"sigmoid"}
        else "single_label_classification"
        if len(spec.objectives) == 1
        else "regression"
    )
    config._attn_implementation = "eager"
    try:
        with torch.device("meta"):
            classifier: PreTrainedModel = AutoModelForTokenClassification.from_config(config)
    except ValueError:
        return None
    return classifier


def _head_name(classifier: PreTrainedModel) -> str | None:
    """Return the attribute of the classifier's linear layer, `None` if it is not a biased one."""
    for name, child in classifier.named_children():
        if name != classifier.base_model_prefix and isinstance(child, nn.Linear):
            return name if child.bias is not None else None
    return None


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _load_backbone(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    try:
        with _quiet():
            stock, info = AutoModel.from_pretrained(
                folder, dtype=dtype or "auto", output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "cannot load the weights", got=str(error).strip().splitlines()[0], where=str(folder)
        ) from error
    if info["missing_keys"]:
        raise ModelError(
            "weights are missing", got=sorted(info["missing_keys"])[:5], where=str(folder)
        )
    left_over = [name for name in info["unexpected_keys"] if name.count(".") > 1]
    if left_over:
        raise ModelError("weights are left over", got=sorted(left_over)[:5], where=str(folder))
    model: PreTrainedModel = stock
    return model


def _load_heads(folder: Path, stock: PreTrainedModel) -> tuple[dict[str, torch.Tensor], HeadKind]:
    if (folder / HEADS_FILE).is_file():
        try:
            state = load_file(folder / HEADS_FILE)
        except SafetensorError as error:
            raise ModelError(
                "cannot load the heads", got=str(error), where=str(folder / HEADS_FILE)
            ) from error
        return state, "linear" if set(state) == {"layers.weight", "layers.bias"} else "mlp"
    prefix = f"{stock.base_model_prefix}." if stock.base_model_prefix else ""
    outside = {
        name: path
        for name, path in _weight_files(folder).items()
        if name.count(".") == 1 and not name.startswith(prefix)
    }
    if len({name.partition(".")[0] for name in outside}) > 1:
        raise ModelError(
            "weights are left over", expected="one head", got=sorted(outside), where=str(folder)
        )
    state = {}
    for name, path in outside.items():
        with safe_open(path, framework="pt") as weights:
            state[f"layers.{name.partition('.')[2]}"] = weights.get_tensor(name)
    return state, "linear"


def _weight_files(folder: Path) -> dict[str, Path]:
    """Return tensor name to file, for one file or an index of shards."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        return dict.fromkeys(weights.keys(), folder / "model.safetensors")


def _fill(heads: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != actual:
        raise ModelError(
            "the heads do not fit the spec's objectives",
            expected=str(expected),
            got=actual or "no head weights",
            where=str(folder),
        )
    heads.load_state_dict(state)
