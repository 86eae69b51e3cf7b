"""Backbones: any stock transformers decoder, run over packed token trees.

`Pretrained` and `FromScratch` say where model and tokenizer come from; `Backbone` runs the model on
trees. A model that cannot attend over trees exactly (sliding windows shorter than a chain, soft
caps, sinks, recurrent layers, position biases) is detected by comparing a small tree with its paths
run alone, and then runs on unrolled paths: slower, and just as exact.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prm.data.packing import PackedTrees, pack
from prm.data.tree import Segment, TokenTree
from prm.errors import ConfigError, ModelError
from prm.models.tree_attention import TREE_ATTENTION, Kernel, TreeLayout

logger = logging.getLogger(__name__)

DType = Literal["float32", "bfloat16", "float16"]


class BackboneSource:
    """Where a backbone and its tokenizer come from."""

    needs_texts = False
    """Whether `tokenizer` must be given training texts."""

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        """Return the tokenizer, trained on `texts` if it is made from scratch."""
        raise NotImplementedError

    def model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model without a head; embeddings for new tokens are added later."""
        raise NotImplementedError

    def language_head(self, tokenizer: PreTrainedTokenizerBase) -> nn.Parameter | None:
        """Return output embeddings for a next-token loss; `None`: the input embeddings serve."""
        return None


class Pretrained(BackboneSource):
    """A model and tokenizer from a folder or the Hugging Face hub; no remote code is run.

    Args:
        path: Folder, or name on the hub.
        revision: Branch, tag or commit on the hub.
        dtype: Type of the weights. Train in float32 (with `--trainer.precision bf16-mixed` on a
            GPU); bfloat16 halves the memory of a frozen or LoRA backbone.
        tokenizer_path: Folder or hub name of the tokenizer, if it is not beside the model.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: DType = "float32",
        tokenizer_path: str | None = None,
    ) -> None:
        self.path = path
        self.revision = revision
        self.dtype = dtype
        self.tokenizer_path = tokenizer_path

    def tokenizer(self, texts: Iterable[str] = ()) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.tokenizer_path or self.path, self.revision)

    def model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        try:
            model: PreTrainedModel = AutoModel.from_pretrained(
                self.path, revision=self.revision, dtype=getattr(torch, self.dtype)
            )
        except (OSError, ValueError, KeyError) as error:
            raise _loading_error("model", self.path, error) from error
        return model

    def language_head(self, tokenizer: PreTrainedTokenizerBase) -> nn.Parameter | None:
        config = AutoConfig.from_pretrained(self.path, revision=self.revision)
        if config.get_text_config().tie_word_embeddings:
            return None
        model = AutoModelForCausalLM.from_pretrained(
            self.path, revision=self.revision, dtype=getattr(torch, self.dtype)
        )
        model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
        return nn.Parameter(model.get_output_embeddings().weight.detach().clone())


class FromScratch(BackboneSource):
    """A randomly initialized decoder with a byte-level BPE tokenizer trained on the training data.

    Args:
        config: Fields of the transformers configuration, `model_type` included (`qwen2`, `llama`,
            ...). Vocabulary size and pad token are filled in.
        vocab_size: Most tokens of the tokenizer, at least 260 (256 bytes and special tokens).
        digits_per_token: Most digits in a token. 1 keeps place values visible; 3 is what Llama 3
            does, and makes a number below 1000 one token once it is frequent.
        seed: Seed of the initial weights.
        dtype: Type of the weights.
    """

    needs_texts = True

    def __init__(
        self,
        config: dict[str, Any],
        vocab_size: int = 8192,
        digits_per_token: int = 1,
        seed: int = 0,
        dtype: DType = "float32",
    ) -> None:
        if "model_type" not in config:
            raise ConfigError("config of a backbone from scratch lacks 'model_type'", got=config)
        self.config = config
        self.vocab_size = vocab_size
        self.digits_per_token = digits_per_token
        self.seed = seed
        self.dtype = dtype

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        return train_tokenizer(texts, self.vocab_size, self.digits_per_token)

    def model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        fields = dict(self.config)
        model_type = fields.pop("model_type")
        fields |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        fields |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        try:
            config = AutoConfig.for_model(model_type, **fields)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model: PreTrainedModel = AutoModel.from_config(
                    config, dtype=getattr(torch, self.dtype)
                )
        except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
            raise ConfigError(f"cannot build a {model_type!r} backbone: {error}") from error
        return model


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer and make sure it has a pad token that is not its EOS.

    Raises:
        ModelError: There is no tokenizer at `path`.
    """
    try:
        loader: Any = PreTrainedTokenizerFast if _names_generic_class(path) else AutoTokenizer
        tokenizer = loader.from_pretrained(path, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise _loading_error("tokenizer", path, error) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not _reads_text(tokenizer):
        raise ModelError("no tokenizer files", where=path, fix="Put them beside the weights")
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def _reads_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell a tokenizer from the empty one that transformers makes of a folder without its files."""
    return bool(tokenizer("a", add_special_tokens=False)["input_ids"])


def _names_generic_class(path: str) -> bool:
    """Whether a local folder says that its tokenizer is just its `tokenizer.json`.

    `AutoTokenizer` overrides that for some model types (Qwen2 among them) with the class of the
    type, which adds tokens and splits text in its own way.
    """
    file = Path(path) / "tokenizer_config.json"
    if not file.is_file():
        return False
    named = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class")
    return named in ("TokenizersBackend", "PreTrainedTokenizerFast")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, digits_per_token: int = 1
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE that never joins digits with anything else.

    How digits are cut decides how a small model learns arithmetic (Singh and Strouse 2024,
    arXiv 2402.14903).

    Args:
        texts: What to train on.
        vocab_size: Most tokens.
        digits_per_token: Most digits in a token, counted from the left.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"\p{{N}}{{1,{digits_per_token}}}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


class Backbone(nn.Module):
    """A decoder without head that reads packed trees.

    Args:
        model: A stock transformers model.
        max_length: Longest path that will be run; decides whether a sliding window matters.
        kernel: Attention kernel; `auto` picks by device.

    Raises:
        ModelError: The model lets tokens see later tokens (a bidirectional encoder).
    """

    def __init__(self, model: PreTrainedModel, max_length: int, kernel: Kernel = "auto") -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{type(model).__name__} is not a decoder", expected="a causal decoder"
            )
        self.model = model
        self.max_length = max_length
        self.kernel = kernel
        self.mode: Literal["unchecked", "tree", "unrolled"] = "unchecked"
        _turn_off_dropout(model)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    def forward(self, trees: PackedTrees) -> Tensor:
        """Return the hidden state of every token, shape `[token, hidden]`."""
        if self.mode == "unchecked":
            self._choose_mode(trees.input_ids.device)
        return self._tree_states(trees) if self.mode == "tree" else self._path_states(trees)

    def _tree_states(self, trees: PackedTrees, layout: TreeLayout | None = None) -> Tensor:
        layout = layout or TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )
        output = self.model(
            input_ids=trees.input_ids[None],
            position_ids=trees.position_ids[None],
            attention_mask=None,
            use_cache=False,
            tree_layout=layout,
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def _path_states(self, trees: PackedTrees) -> Tensor:
        """Run every path as a right-padded row of its own under stock attention."""
        paths = trees.paths()
        width = max(len(path) for path in paths)
        device = trees.input_ids.device
        rows = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
        mask = torch.zeros(len(paths), width, dtype=torch.int64, device=device)
        for row, path in enumerate(paths):
            rows[row, : len(path)] = trees.input_ids[path.to(device)]
            mask[row, : len(path)] = 1
        output = self.model(input_ids=rows, attention_mask=mask, use_cache=False)
        tokens = torch.cat(paths)
        place = torch.empty(trees.num_tokens, dtype=torch.int64)
        place[tokens] = torch.arange(len(tokens))
        states: Tensor = output.last_hidden_state[mask.bool()]
        return states[place.to(device)]

    @torch.no_grad()
    def _choose_mode(self, device: torch.device) -> None:
        """Compare a small tree with its paths, and a path with an edited copy of itself."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                self._set_attention("sdpa")
                alone = self._path_states(_probe_trees(device))
                self._refuse_bidirectional(alone, device)
                reason = self._why_not_tree(alone, device)
        finally:
            self.model.train(training)
        if reason is None:
            self.mode = "tree"
            self._set_attention(TREE_ATTENTION)
        else:
            self.mode = "unrolled"
            self._set_attention("sdpa")
            logger.warning(
                "%s runs on unrolled paths, without sharing prompts: %s",
                type(self.model).__name__,
                reason,
            )

    def _set_attention(self, name: str) -> None:
        try:
            self.model.set_attn_implementation(name)
        except ValueError:
            self.model.set_attn_implementation("eager")

    def _refuse_bidirectional(self, alone: Tensor, device: torch.device) -> None:
        edited = self._path_states(_probe_trees(device, last=9))
        if not _close(alone[:2], edited[:2]):
            raise ModelError(
                f"{type(self.model).__name__} lets tokens see later tokens",
                expected="a causal decoder",
                fix="A process model on an encoder would leak later steps into earlier scores",
            )

    def _why_not_tree(self, alone: Tensor, device: torch.device) -> str | None:
        trees = _probe_trees(device)
        layout = TreeLayout(
            trees.starts, trees.stops, trees.subtree_ends, trees.longest_path, self.kernel
        )
        self._set_attention(TREE_ATTENTION)
        try:
            states = self._tree_states(trees, layout)
        except (ModelError, TypeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
        if not _close(alone, states):
            return "hidden states over a tree differ from those of its paths alone"
        window = min(layout.windows | _config_windows(self.model), default=None)
        if window is not None and window < self.max_length:
            return f"its attention window of {window} is shorter than max_length {self.max_length}"
        return None


def _turn_off_dropout(model: nn.Module) -> None:
    """Turn dropout off: branches share their prompt, and with it would share its dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010


def _probe_trees(device: torch.device, last: int = 3) -> PackedTrees:
    """A prompt with two branches, one of them forked again, beside a tree of its own."""
    forked = TokenTree(
        (
            Segment((5, 6)),
            Segment((7, 8, 4), 0),
            Segment((6, last), 0),
            Segment((5,), 1),
            Segment((8, 5), 1),
        )
    )
    return pack([forked, TokenTree((Segment((4, 7, 5)),))]).to(device)


def _close(first: Tensor, second: Tensor) -> bool:
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-6}.get(first.dtype, 6e-2)
    scale = first.float().abs().max().clamp(min=1e-6)
    return bool((first.float() - second.float()).abs().max() <= tolerance * scale)


def _config_windows(model: PreTrainedModel) -> set[int]:
    """Return attention windows that a configuration keeps out of the attention call."""
    chunk = getattr(model.config.get_text_config(), "attention_chunk_size", None)
    return {int(chunk)} if chunk else set()


def _loading_error(what: str, path: str, error: Exception) -> ModelError:
    message = " ".join(str(error).split())
    if path.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        message = "there is no such folder"
    return ModelError(
        f"cannot load the {what}",
        where=path,
        got=message or type(error).__name__,
        fix="Name a folder with its files, or a hub model that is reachable or cached",
    )
