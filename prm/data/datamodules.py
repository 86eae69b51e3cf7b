"""`ChainDataModule`: sources of labelled chains in, packed batches out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import lightning as L
from torch.utils.data import DataLoader, Dataset

from prm.data.batches import LabeledChain, MicroBatch, OptimizerBatch, micro_batch, optimizer_batch
from prm.data.overlap import ProblemIndex
from prm.data.planning import MicroBatchPlan, TrainingPlan, plan_evaluation
from prm.data.readers import ChainSource
from prm.data.tokenize import DroppedChain, TreeBuilder
from prm.errors import ConfigError, DataError
from prm.records import Chain


class _Task(Protocol):
    """What the data module asks of the Lightning module it is trained with."""

    @property
    def builder(self) -> TreeBuilder: ...

    @property
    def objective_names(self) -> tuple[str, ...]: ...


class ChainDataModule(L.LightningDataModule):
    """Labelled chains for training, validation, test and prediction.

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
        shuffle_labels: Control experiment: permute the labels over all labelled training steps. A
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
            yield chain.group if isinstance(chain.prompt, str) else str(chain.prompt)
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
            raise DataError(f"no chain is left for {part}", got=f"{len(chains)} chains read")
        return kept

    def _evaluation_loader(self, part: str) -> EvaluationLoader | list[MicroBatch]:
        chains = self._tokenized(part)
        if not chains:
            return []
        rank, num_ranks = self._ranks()
        lengths = [item.tokens.tree.num_tokens for item in chains]
        plans = plan_evaluation(lengths, self.max_tokens, num_ranks)[rank::num_ranks]
        dataset = _EvaluationBatches(plans, chains, self._task.objective_names)
        return EvaluationLoader(dataset, self.num_workers)

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


class TrainingLoader:
    """Yields one rank's optimizer batches, from the trainer's position to the end of the epoch.

    Args:
        plan: The plan of all epochs.
        chains: The tokenized training chains.
        objectives: Names of the objectives, in column order.
        rank: This rank.
        position: Returns the epoch and the optimizer batch in it to start from.
        num_workers: Processes that pack ahead.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        rank: int,
        position: Callable[[], tuple[int, int]],
        num_workers: int,
    ) -> None:
        self.plan = plan
        self.chains = chains
        self.objectives = objectives
        self.rank = rank
        self.position = position
        self.num_workers = num_workers

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[OptimizerBatch]:
        epoch, start = self.position()
        batches = _TrainingBatches(self.plan, self.chains, self.objectives, self.rank, epoch, start)
        yield from DataLoader(batches, batch_size=None, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is the trainer's; Lightning asks what can be resumed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the position is the trainer's."""


class EvaluationLoader:
    """Yields one rank's micro-batches in order.

    It is no `DataLoader`: Lightning would give that a distributed sampler, and each rank would then
    see a part of its part.

    Args:
        batches: The micro-batches.
        num_workers: Processes that pack ahead.
    """

    def __init__(self, batches: Dataset[MicroBatch], num_workers: int) -> None:
        self.batches = batches
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(DataLoader(self.batches, batch_size=None, num_workers=self.num_workers))


class _TrainingBatches(Dataset[OptimizerBatch]):
    def __init__(
        self,
        plan: TrainingPlan,
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        rank: int,
        epoch: int,
        start: int,
    ) -> None:
        self.plan, self.chains, self.objectives = plan, chains, objectives
        self.rank, self.epoch, self.start = rank, epoch, start

    def __len__(self) -> int:
        return self.plan.num_steps - self.start

    def __getitem__(self, index: int) -> OptimizerBatch:
        plans = self.plan.step(self.epoch, self.start + index)
        return optimizer_batch(plans, self.chains, self.objectives, self.rank, self.plan.num_ranks)


class _EvaluationBatches(Dataset[MicroBatch]):
    def __init__(
        self,
        plans: Sequence[MicroBatchPlan],
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
    ) -> None:
        self.plans, self.chains, self.objectives = plans, chains, objectives

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> MicroBatch:
        return micro_batch(self.plans[index], self.chains, self.objectives)


def split_by_group(
    chains: Sequence[Chain], shares: dict[str, float], seed: int
) -> dict[str, list[Chain]]:
    """Split chains into named parts and `train`, keeping every problem in one part.

    Args:
        chains: The chains.
        shares: Part to its share of the problems.
        seed: Seed of the assignment.

    Returns:
        Part to chains, in their order; `train` holds the rest.
    """
    groups = sorted({chain.group for chain in chains})
    random.Random(seed).shuffle(groups)
    part_of: dict[str, str] = {}
    start = 0
    for part, share in shares.items():
        stop = start + (max(1, round(share * len(groups))) if share > 0 else 0)
        part_of |= dict.fromkeys(groups[start:stop], part)
        start = stop
    parts: dict[str, list[Chain]] = {part: [] for part in (*shares, "train")}
    for chain in chains:
        parts[part_of.get(chain.group, "train")].append(chain)
    return parts


def shuffled_labels(chains: Sequence[Chain], seed: int) -> list[Chain]:
    """Permute the labels of each objective over all labelled steps of all chains."""
    generator = random.Random(seed)
    pools: dict[str, list[float]] = {}
    for chain in chains:
        for name, values in chain.labels.items():
            pools.setdefault(name, []).extend(value for value in values if value is not None)
    for pool in pools.values():
        generator.shuffle(pool)
    return [
        chain.with_labels(
            {
                name: [None if value is None else pools[name].pop() for value in values]
                for name, values in chain.labels.items()
            }
        )
        for chain in chains
    ]


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
