"""`ChainDataModule`: sources of labeled chains in, packed batches out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import lightning as L

from prm.data.batches import LabeledChain, MicroBatch
from prm.data.loaders import EvaluationLoader, TrainingLoader
from prm.data.overlap import ProblemIndex
from prm.data.planning import TrainingPlan, plan_evaluation
from prm.data.readers import ChainSource
from prm.data.splits import shuffled_labels, split_by_group
from prm.data.tokenize import DroppedChain, TreeBuilder
from prm.errors import ConfigError, DataError
from prm.records import Chain, prompt_text


class _Task(Protocol):
    """What the data module asks of the Lightning module it is trained with."""

    @property
    def builder(self) -> TreeBuilder: ...

    @property
    def objective_names(self) -> tuple[str, ...]: ...


class ChainDataModule(L.LightningDataModule):
    """Labeled chains for training, validation, test and prediction.

    Args:
        train: Sources to train on.
        validation: Sources to validate on; if there are none, `validation_share` of the training
            problems is held out.
        test: Sources of `prm test`.
        predict: Sources of `prm predict`.
        batch_size: Chains in an optimizer batch, over all ranks and micro-batches.
        max_tokens: Tokens in a micro-batch; sets the memory, not the result.
        validation_share: Share of the training problems that is held out for validation when
            `validation` is not given.
        test_share: Share of the training problems that is held out for test when `test` is not
            given.
        decontaminate_against: Sources whose problems are taken out of the training chains.
        shuffle_labels: Control experiment: permute the labels over all labeled training steps. A
            sound pipeline then scores at chance.
        seed: Seed of the split and of the order.
        num_workers: Processes that pack batches ahead; 0 packs in the training process.
    """

    def __init__(
        self,
        train: list[ChainSource] | None = None,
        validation: list[ChainSource] | None = None,
        test: list[ChainSource] | None = None,
        predict: list[ChainSource] | None = None,
        batch_size: int = 64,
        max_tokens: int = 16384,
        validation_share: float = 0.05,
        test_share: float = 0.0,
        decontaminate_against: list[ChainSource] | None = None,
        shuffle_labels: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        _check_shares(validation_share, test_share)
        _check_sizes(batch_size=batch_size, max_tokens=max_tokens)
        self.sources = {
            "train": train or [],
            "validation": validation or [],
            "test": test or [],
            "predict": predict or [],
        }
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.shares = {
            "validation": 0.0 if validation else validation_share,
            "test": 0.0 if test else test_share,
        }
        self.decontaminate_against = decontaminate_against or []
        self.shuffle_labels = shuffle_labels
        self.seed = seed
        self.num_workers = num_workers
        self.chains: dict[str, list[Chain]] = {}
        self.dropped: dict[str, list[tuple[Chain, str]]] = {}
        self._labeled: dict[str, list[LabeledChain]] = {}
        self._training_data = ""
        self._resumed_data = ""

    def setup(self, stage: str) -> None:
        """Read, decontaminate and split the sources that a stage needs."""
        needed = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }[stage]
        for part in needed:
            if part not in self.chains:
                self._read(part)

    def training_chains(self) -> list[Chain]:
        """Return the training chains, read if need be (for baselines and tokenizers)."""
        if "train" not in self.chains:
            self._read("train")
        return self.chains["train"]

    def texts(self) -> Iterator[str]:
        """Yield prompts and steps of the training chains, to train a tokenizer on."""
        for chain in self.training_chains():
            yield prompt_text(chain.prompt)
            yield from chain.completions

    def train_dataloader(self) -> TrainingLoader:
        """Return the loader of this rank's optimizer batches."""
        chains = self._tokenized("train")
        rank, num_ranks = self._ranks()
        plan = TrainingPlan(
            [item.tokens.tree.num_tokens for item in chains],
            self.batch_size,
            self.max_tokens,
            num_ranks,
            self.seed,
        )
        self._training_data = _fingerprint(chains, self.batch_size, self.seed)
        self._refuse_changed_data()
        return TrainingLoader(
            plan, chains, self._task.objective_names, rank, self._position, self.num_workers
        )

    def val_dataloader(self) -> EvaluationLoader | list[MicroBatch]:
        """Return the loader of this rank's validation micro-batches."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> EvaluationLoader | list[MicroBatch]:
        """Return the loader of this rank's test micro-batches."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> EvaluationLoader | list[MicroBatch]:
        """Return the loader of this rank's prediction micro-batches."""
        return self._evaluation_loader("predict")

    def labeled(self, part: str) -> Sequence[LabeledChain]:
        """Return the tokenized chains of a part, in the order that `MicroBatch.records` counts."""
        return self._labeled[part]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must find again; Lightning stores it in checkpoints."""
        return {"training_data": self._training_data}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what the checkpoint was trained on.

        Raises:
            ConfigError: The training data changed since the checkpoint.
        """
        self._resumed_data = state_dict["training_data"]
        self._refuse_changed_data()

    def _refuse_changed_data(self) -> None:
        known = self._training_data and self._resumed_data
        if known and self._training_data != self._resumed_data:
            raise ConfigError(
                "the training data changed since the checkpoint",
                fix="Resume with the same chains, batch_size and seed, or start a new run",
            )

    def _read(self, part: str) -> None:
        if (part in self.shares and self.shares[part] > 0) or part == "train":
            self._read_and_split()
            return
        if not self.sources[part]:
            if part == "validation":
                self.chains[part] = []
                return
            raise ConfigError(f"there are no sources for {part}", fix=f"Set data.{part}")
        self.chains[part] = [chain for source in self.sources[part] for chain in source]

    def _read_and_split(self) -> None:
        if not self.sources["train"]:
            raise ConfigError("there are no sources to train on", fix="Set data.train")
        chains = [chain for source in self.sources["train"] for chain in source]
        chains = self._decontaminated(chains)
        parts = split_by_group(chains, self.shares, self.seed)
        for part, share in self.shares.items():
            if share > 0:
                self.chains[part] = parts[part]
        self.chains["train"] = parts["train"]
        if self.shuffle_labels:
            self.chains["train"] = shuffled_labels(parts["train"], self.seed)

    def _decontaminated(self, chains: list[Chain]) -> list[Chain]:
        if not self.decontaminate_against:
            return chains
        index = ProblemIndex.of(chain for source in self.decontaminate_against for chain in source)
        kept = [chain for chain in chains if not index.sets_with(chain)]
        self._say(f"decontamination took out {len(chains) - len(kept)} of {len(chains)} chains")
        return kept

    def _tokenized(self, part: str) -> list[LabeledChain]:
        if part not in self._labeled:
            self._labeled[part] = self._tokenize(part)
        return self._labeled[part]

    def _tokenize(self, part: str) -> list[LabeledChain]:
        chains, kept, truncated = self.chains[part], [], 0
        self.dropped[part] = []
        for chain, tokens in zip(chains, self._task.builder.build_all(chains), strict=True):
            if isinstance(tokens, DroppedChain):
                self.dropped[part].append((chain, str(tokens)))
                continue
            truncated += tokens.num_truncated > 0
            kept.append(LabeledChain(chain, tokens))
        if part == "train":
            unlabeled = [item for item in kept if not _has_label(item, self._task.objective_names)]
            if unlabeled:
                kept = [item for item in kept if _has_label(item, self._task.objective_names)]
                self._say(f"train: {len(unlabeled)} chains without a label are left out")
        if self.dropped[part] or truncated:
            self._say(
                f"{part}: {len(self.dropped[part])} of {len(chains)} chains dropped, {truncated} "
                f"truncated to max_length"
                + (f"; first: {self.dropped[part][0][1]}" if self.dropped[part] else "")
            )
        if not kept and part != "validation":
            first = [reason for _, reason in self.dropped[part][:1]]
            raise DataError(
                f"no chain is left for {part}",
                got=f"{len(chains)} chains read",
                fix="The first one dropped: " + first[0] if first else None,
            )
        _refuse_over_budget(kept, self.max_tokens)
        return kept

    def _evaluation_loader(self, part: str) -> EvaluationLoader | list[MicroBatch]:
        chains = self._tokenized(part)
        if not chains:
            return []
        rank, num_ranks = self._ranks()
        lengths = [item.tokens.tree.num_tokens for item in chains]
        plans = plan_evaluation(lengths, self.max_tokens, num_ranks)[rank::num_ranks]
        return EvaluationLoader(plans, chains, self._task.objective_names, self.num_workers)

    @property
    def _task(self) -> _Task:
        task: Any = self.trainer.lightning_module if self.trainer else None
        if task is None:
            raise ConfigError("ChainDataModule needs a trainer with a prm task")
        return task  # type: ignore[no-any-return]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the optimizer batch in it that come next."""
        if self.trainer is None:
            return 0, 0
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return self.trainer.current_epoch, done

    def _say(self, message: str) -> None:
        L.pytorch.utilities.rank_zero_info(message)


def _fingerprint(chains: Sequence[LabeledChain], batch_size: int, seed: int) -> str:
    """Return a digest of what decides the optimizer batches."""
    digest = hashlib.sha256(repr((batch_size, seed)).encode())
    for item in chains:
        digest.update(repr((item.tokens.tree, item.chain.labels)).encode())
    return digest.hexdigest()


def _has_label(item: LabeledChain, objectives: Sequence[str]) -> bool:
    columns = [item.chain.labels.get(name) for name in objectives]
    return any(
        column is not None and column[step] is not None
        for column in columns
        for step in item.tokens.steps
    )


def _refuse_over_budget(chains: Sequence[LabeledChain], max_tokens: int) -> None:
    for item in chains:
        if item.tokens.tree.num_tokens > max_tokens:
            raise DataError(
                "the chain does not fit a micro-batch",
                expected=f"at most {max_tokens} tokens (max_tokens)",
                got=f"{item.tokens.tree.num_tokens} tokens",
                where=f"{item.chain.origin}, row {item.chain.id!r}",
                fix="Raise max_tokens to at least the model's max_length",
            )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is wrong", expected="at least 1", got=size)


def _check_shares(validation: float, test: float) -> None:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            "validation_share and test_share are wrong",
            expected="numbers of at least 0 that leave something to train on",
            got=(validation, test),
        )
