"""Where a backbone and its tokenizer come from: a pretrained model, or from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prm.errors import ConfigError, ModelError
from prm.models.language_head import LanguageHead, head_weights, is_tied
from prm.spec import RewardSpec

DType = Literal["float32", "bfloat16", "float16"]

CONTRACT = ("template", "step_format", "response_format")
"""Fields of a spec that say how texts become tokens."""


class BackboneSource:
    """Where a backbone and its tokenizer come from."""

    needs_texts = False
    """Whether `tokenizer` must be given training texts."""

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        """Return the tokenizer, trained on `texts` if it is made from scratch."""
        raise NotImplementedError

    def model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model without a head; embeddings for new tokens are added later.

        Under `torch.device("meta")` no weights are read: only the model's shape is made.
        """
        raise NotImplementedError

    def language_head(self, tokenizer: PreTrainedTokenizerBase) -> LanguageHead:
        """Return what makes next-token logits of the model's states.

        Raises:
            ModelError: The model is no language model.
        """
        raise NotImplementedError

    def adapted(self, spec: RewardSpec) -> RewardSpec:
        """Return the spec with what the backbone prescribes about it; by default nothing."""
        return spec


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
        dtype = getattr(torch, self.dtype)
        try:
            if torch.get_default_device().type == "meta":
                config = AutoConfig.from_pretrained(self.path, revision=self.revision)
                return AutoModel.from_config(config, dtype=dtype)  # type: ignore[no-any-return]
            model: PreTrainedModel = AutoModel.from_pretrained(
                self.path, revision=self.revision, dtype=dtype
            )
        except (OSError, ValueError, KeyError) as error:
            raise _loading_error("model", self.path, error) from error
        return model

    def language_head(self, tokenizer: PreTrainedTokenizerBase) -> LanguageHead:
        config = AutoConfig.from_pretrained(self.path, revision=self.revision)
        try:
            with torch.device("meta"):
                shape = AutoModelForCausalLM.from_config(config)
            head = LanguageHead(shape, is_tied(shape))
            if not any(one.is_meta for one in (*head.parameters(), *head.buffers())):
                return head  # it has no weights but the input embeddings
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.path,
                revision=self.revision,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise _loading_error("language model", self.path, error) from error
        model, info = loaded
        missing = sorted(head_weights(model) & set(info["missing_keys"]))
        if missing:
            raise ModelError(
                "the weights have no head of a language model",
                got=missing,
                where=self.path,
                fix="Take language_model out, or start from the original model",
            )
        return LanguageHead(model, is_tied(model))


class FromRewardModel(Pretrained):
    """Backbone and tokenizer of a prm model folder, for new objectives on an existing model.

    Prompts, steps and responses become tokens as they do for that model: its template, step format
    and response format hold, and can be left out of the task's options.

    Args:
        path: The model folder.
        dtype: Type of the weights.
    """

    def __init__(self, path: str, dtype: DType = "float32") -> None:
        super().__init__(path, dtype=dtype)

    def adapted(self, spec: RewardSpec) -> RewardSpec:
        """Return the spec with the template and the formats of the model.

        Raises:
            ConfigError: The options name others.
            SpecError: There is no model in the folder.
        """
        own = RewardSpec.load(self.path)
        for name in CONTRACT:
            given, fixed = getattr(spec, name), getattr(own, name)
            default = type(given)()
            other = [
                item.name
                for item in fields(given)
                if getattr(given, item.name)
                not in (getattr(fixed, item.name), getattr(default, item.name))
            ]
            if other:
                raise ConfigError(
                    f"{name} differs from that of the model to start from",
                    expected=str(fixed),
                    got=str(given),
                    where=self.path,
                    fix=f"Leave {name} out, or start from the folder with Pretrained",
                )
        return spec.with_(**{name: getattr(own, name) for name in CONTRACT})


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

    Raises:
        ConfigError: There is no `model_type`, or a number is too small.
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
        for name, value, least in (
            ("vocab_size", vocab_size, 260),
            ("digits_per_token", digits_per_token, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is too small", expected=f"at least {least}", got=value)
        self.config = config
        self.vocab_size = vocab_size
        self.digits_per_token = digits_per_token
        self.seed = seed
        self.dtype = dtype

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        return train_tokenizer(texts, self.vocab_size, self.digits_per_token)

    def model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        return self._build(AutoModel, tokenizer)

    def language_head(self, tokenizer: PreTrainedTokenizerBase) -> LanguageHead:
        """Return the head of such a language model, with tied embeddings."""
        return LanguageHead(self._build(AutoModelForCausalLM, tokenizer), tie=True)

    def _build(self, kind: Any, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        fields = dict(self.config)
        model_type = fields.pop("model_type")
        fields |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        fields |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        try:
            config = AutoConfig.for_model(model_type, **fields)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model: PreTrainedModel = kind.from_config(config, dtype=getattr(torch, self.dtype))
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
