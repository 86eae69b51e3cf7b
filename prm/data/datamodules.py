"""`ChainDataModule`: sources of labelled chains in, packed batches out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import lightning as L
from torch.utils.data import DataLoader, Dataset, Sampler

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
        shuffle_labels: Control experiment: give every training chain the labels of another chain
            of the same length. A sound pipeline then scores at chance.
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
        return TrainingLoader(
            plan, chains, self._task.objective_names, rank, self._epoch, self.num_workers
        )

    def val_dataloader(self) -> DataLoader[MicroBatch] | list[MicroBatch]:
        """Return the loader of this rank's validation micro-batches."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[MicroBatch] | list[MicroBatch]:
        """Return the loader of this rank's test micro-batches."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[MicroBatch] | list[MicroBatch]:
        """Return the loader of this rank's prediction micro-batches."""
        return self._evaluation_loader("predict")

    def labeled(self, part: str) -> Sequence[LabeledChain]:
        """Return the tokenized chains of a part, in the order that `MicroBatch.records` counts."""
        return self._labeled[part]

    def _read(self, part: str) -> None:
        if part in self.shares and self.shares[part] > 0 or part == "train":
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

    def _evaluation_loader(self, part: str) -> DataLoader[MicroBatch] | list[MicroBatch]:
        chains = self._tokenized(part)
        if not chains:
            return []
        rank, num_ranks = self._ranks()
        lengths = [item.tokens.tree.num_tokens for item in chains]
        plans = plan_evaluation(lengths, self.max_tokens, num_ranks)[rank::num_ranks]
        dataset = _EvaluationBatches(plans, chains, self._task.objective_names)
        return DataLoader(
            dataset, batch_size=None, num_workers=self.num_workers, sampler=_InOrder(len(plans))
        )

    @property
    def _task(self) -> _Task:
        task: Any = self.trainer.lightning_module if self.trainer else None
        if task is None:
            raise ConfigError("ChainDataModule needs a trainer with a prm task")
        return task  # type: ignore[no-any-return]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def _say(self, message: str) -> None:
        L.pytorch.utilities.rank_zero_info(message)


class TrainingLoader:
    """Yields one rank's optimizer batches; resumes where a checkpoint was written.

    Args:
        plan: The plan of all epochs.
        chains: The tokenized training chains.
        objectives: Names of the objectives, in column order.
        rank: This rank.
        epoch: Returns the current epoch.
        num_workers: Processes that pack ahead.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        chains: Sequence[LabeledChain],
        objectives: Sequence[str],
        rank: int,
        epoch: Callable[[], int],
        num_workers: int,
    ) -> None:
        self.plan = plan
        self.chains = chains
        self.objectives = objectives
        self.rank = rank
        self.epoch = epoch
        self.num_workers = num_workers
        self._next_step = 0

    def __len__(self) -> int:
        return self.plan.num_steps

    def __iter__(self) -> Iterator[OptimizerBatch]:
        start, self._next_step = self._next_step % len(self), 0
        dataset = _TrainingBatches(
            self.plan, self.chains, self.objectives, self.rank, self.epoch(), start
        )
        loader = DataLoader(
            dataset, batch_size=None, num_workers=self.num_workers, sampler=_InOrder(len(dataset))
        )
        for step, batch in enumerate(loader, start=start):
            self._next_step = step + 1
            yield batch
        self._next_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch; Lightning stores it in checkpoints."""
        return {"next_step": self._next_step, "num_steps": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a stored position.

        Raises:
            ConfigError: The data or the batch size changed since the checkpoint.
        """
        if state["num_steps"] != len(self):
            raise ConfigError(
                "the training data changed since the checkpoint",
                expected=f"{state['num_steps']} optimizer batches an epoch",
                got=len(self),
                fix="Resume with the same data, batch_size and seed",
            )
        self._next_step = state["next_step"]


class _InOrder(Sampler[int]):
    """Indices in order; a name of our own, so that Lightning leaves the loader alone."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))

    def __len__(self) -> int:
        return self.size


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
        return optimizer_batch(
            plans, self.chains, self.objectives, self.rank, self.plan.num_ranks
        )


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
    """Give every chain the labels of a random chain with as many steps."""
    by_size: dict[int, list[int]] = {}
    for index, chain in enumerate(chains):
        by_size.setdefault(len(chain.completions), []).append(index)
    generator = random.Random(seed)
    result = list(chains)
    for indices in by_size.values():
        donors = generator.sample(indices, len(indices))
        for index, donor in zip(indices, donors, strict=True):
            result[index] = chains[index].with_labels(chains[donor].labels)
    return result


def _has_label(item: LabeledChain, objectives: Sequence[str]) -> bool:
    columns = [item.chain.labels.get(name) for name in objectives]
    return any(
        column is not None and column[step] is not None
        for column in columns
        for step in item.tokens.steps
    )


def _check_shares(validation: float, test: float) -> None:
    if not (0 <= validation and 0 <= test and validation + test < 1):
        raise ConfigError(
            "validation_share and test_share are wrong",
            expected="numbers of at least 0 that leave something to train on",
            got=(validation, test),
        )
