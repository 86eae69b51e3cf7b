"""The model folder: a stock Hugging Face checkpoint with `prm_config.json` beside it.

With a linear head and a backbone that transformers knows as `*ForSequenceClassification` (outcome
models) or `*ForTokenClassification` (models with step heads), that is what is written, and stock
transformers gives the head columns. Otherwise the backbone is written as a plain model and the
heads as `heads.safetensors`, which only prm reads back.
Nothing in the folder runs code when it is loaded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging

from prm.atomic import atomic_folder
from prm.errors import ModelError
from prm.models import golden
from prm.models.gate import Gate
from prm.models.heads import HeadKind
from prm.models.lora import merged
from prm.models.reward_model import RewardModel
from prm.models.sources import load_tokenizer
from prm.models.stock import empty_classifier, head_name
from prm.spec import SPEC_FILE, RewardSpec
from prm.trees.identity import check_identity

HEADS_FILE = "heads.safetensors"
GATE_FILE = "gate.safetensors"
CARD_FILE = "README.md"


def save(model: RewardModel, folder: str | Path, card: str | None = None) -> Path:
    """Write a model folder; it appears whole or not at all.

    Args:
        model: The model; LoRA adapters are merged into the written weights.
        folder: Where to; an older model folder there is replaced.
        card: Text of the model card, `README.md`.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written, or holds something that is not a model.
        ModelError: The model's scores are not finite.
    """
    folder = Path(folder)
    with atomic_folder(folder, SPEC_FILE) as temporary:
        write(model, temporary, card)
    return folder


def write(model: RewardModel, folder: Path, card: str | None = None) -> None:
    """Write the files of a model folder into a folder that exists; arguments as for `save`."""
    plain = merged(model)
    exact = golden.exact(plain)
    spec = model.spec.with_(
        golden_chains=golden.score_chains(exact),
        golden_responses=golden.score_responses(exact),
    )
    golden.refuse_infinite(spec)
    with quiet():
        classifier = _classifier(plain)
        if classifier is None:
            plain.backbone.model.save_pretrained(folder)
            save_file(_contiguous(plain.heads.state_dict()), folder / HEADS_FILE)
        else:
            classifier.save_pretrained(folder)
        plain.tokenizer.save_pretrained(folder)
    if plain.gate is not None:
        save_file(_contiguous(plain.gate.state_dict()), folder / GATE_FILE)
    (folder / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    if card is not None:
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


def load(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
) -> RewardModel:
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
    stock, outside = _load_backbone(folder, dtype)
    heads, kind = _load_heads(folder, outside)
    model = RewardModel(stock, tokenizer, spec, kind)
    if spec.tokenizer is not None and model.spec.tokenizer != spec.tokenizer:
        check_identity(tokenizer, spec)
    _fill(model.heads, heads, folder)
    model.gate = _load_gate(folder, model)
    model.to(device).eval()
    if verify:
        golden.check(model, str(folder))
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def _classifier(model: RewardModel) -> PreTrainedModel | None:
    """Return a stock classifier that shares the model's weights, if there is such a class."""
    layer = model.heads.layers
    if not isinstance(layer, nn.Linear):
        return None
    classifier = empty_classifier(model.backbone.model, model.spec)
    if classifier is None:
        return None
    setattr(classifier, classifier.base_model_prefix, model.backbone.model)
    setattr(classifier, str(head_name(classifier)), layer)
    return classifier


def is_stock(model: RewardModel) -> bool:
    """Whether stock transformers can load the folder that a model is written to."""
    return _classifier(model) is not None


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _load_backbone(folder: Path, dtype: torch.dtype | None) -> tuple[PreTrainedModel, list[str]]:
    """Return the backbone, and the names of weights in the folder that are not its own."""
    try:
        with quiet():
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
    return stock, sorted(info["unexpected_keys"])


def _load_heads(folder: Path, outside: list[str]) -> tuple[dict[str, torch.Tensor], HeadKind]:
    """Read the heads: a file of their own, or the one layer that is not the backbone's."""
    has_file = (folder / HEADS_FILE).is_file()
    files = {} if has_file else weight_files(folder)
    layers = {name.rpartition(".")[0] for name in outside}
    are_one_head = set(outside) <= set(files) and len(layers) == 1 and "." not in min(layers)
    if outside and not are_one_head:
        raise ModelError(
            "weights are left over",
            expected="no head" if has_file else "one head",
            got=outside[:5],
            where=str(folder),
        )
    if has_file:
        state = _read_tensors(folder / HEADS_FILE, "heads")
        return state, "linear" if "layers.weight" in state else "mlp"
    state = {}
    for name in outside:
        with safe_open(files[name], framework="pt") as weights:
            state[f"layers.{name.rpartition('.')[2]}"] = weights.get_tensor(name)
    return state, "linear"


def _read_tensors(file: Path, what: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ModelError(f"cannot load the {what}", got=str(error), where=str(file)) from error


def _load_gate(folder: Path, model: RewardModel) -> Gate | None:
    """Read the gate, if there is one; an aggregation that needs it cannot do without."""
    file = folder / GATE_FILE
    aggregation = model.spec.objective_aggregation
    if not file.is_file():
        if aggregation is not None and aggregation.needs_gates:
            raise ModelError(
                f"{aggregation.name} needs a gate", expected=GATE_FILE, where=str(folder)
            )
        return None
    try:
        gate = Gate.of_state(_read_tensors(file, "gate"))
    except (KeyError, RuntimeError) as error:
        raise ModelError("this is not a gate", got=str(error), where=str(file)) from error
    expected = (model.backbone.hidden_size, len(model.spec.response_names))
    if gate.sizes != expected:
        raise ModelError(
            "the gate is of another model", expected=str(expected), got=gate.sizes, where=str(file)
        )
    return gate


def weight_files(folder: Path) -> dict[str, Path]:
    """Return tensor name to file, for one file or an index of shards."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elsewhere = [file for file in names.values() if Path(str(file)).name != file]
        if elsewhere:
            raise ModelError(
                "the index of the weights names a file outside the folder",
                expected="names of files beside it",
                got=elsewhere[0],
                where=str(index),
            )
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
