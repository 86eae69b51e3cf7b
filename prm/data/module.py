"""`RecordDataModule`: sources of labeled records in, packed batches out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from prm.data.batches import MicroBatch, Packer
from prm.data.items import Facts, LabeledItem, Reading, Records
from prm.data.labels import Labeler
from prm.data.loaders import EvaluationLoader, TrainingLoader
from prm.data.mixture import Mixture
from prm.data.planning import TrainingPlan, plan_evaluation
from prm.data.sampling import Sampling
from prm.data.sources.source import Source
from prm.data.splits import shuffled
from prm.data.store.disk import RecordStore
from prm.data.store.memory import MemoryStore
from prm.errors import ConfigError, DataError
from prm.records import Record, prompt_text
from prm.spec import RewardSpec
from prm.trees.prompts import place
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import Unit


class RecordDataModule(L.LightningDataModule):
    """Labeled records for training, validation, test and prediction.

    Sources of chains and of comparisons and ratings may be mixed. What batches are counted in is a
    unit: a chain, or the responses of one row of a source (a pair with its ratings, say), whose
    prompt and distinct responses are computed once. Missing labels are part of no loss and of no
    metric. A table at the start of training says what each source contributes.

    Args:
        train: Sources to train on.
        validation: Sources to validate on; if there are none, `validation_share` of the training
            problems is held out.
        test: Sources of `prm test`.
        predict: Sources of `prm predict`.
        batch_size: Units in an optimizer batch, over all ranks and micro-batches.
        max_tokens: Tokens in a micro-batch; sets the memory, not the result.
        sampling: How much of an epoch each source gets.
        validation_share: Share of the training problems that is held out for validation when
            `validation` is not given. What shares a group or a problem, in whatever layout, is
            never parted.
        test_share: Share of the training problems that is held out, whatever the test; it is the
            test part when `test` is not given.
        decontaminate_against: Sources whose problems are taken out of the training records.
        shuffle_labels: Control experiment: permute step labels over all labeled training steps and
            ratings over all records of an objective, and toss a coin for each comparison. A sound
            pipeline then scores at chance.
        seed: Seed of the split and of the order.
        num_workers: Processes that tokenize into the store, and that pack batches ahead; 0 does
            both in the training process.
        store: Folder that keeps the records tokenized on the disk, for data that outgrow memory;
            any number of runs may share it.

    Raises:
        ConfigError: A share, size or combination of options is wrong.
    """

    def __init__(
        self,
        train: list[Source] | None = None,
        validation: list[Source] | None = None,
        test: list[Source] | None = None,
        predict: list[Source] | None = None,
        batch_size: int = 64,
        max_tokens: int = 16384,
        sampling: Sampling = Sampling(),  # noqa: B008
        validation_share: float = 0.05,
        test_share: float = 0.0,
        decontaminate_against: list[Source] | None = None,
        shuffle_labels: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        store: Path | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "max_tokens": max_tokens}
        _check_options(sizes, validation_share, test_share, shuffle_labels, store)
        for name, value in {"seed": seed, "num_workers": num_workers}.items():
            if value < 0:
                raise ConfigError(f"{name} is wrong", expected="at least 0", got=value)
        parts = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.sources = {part: sources or [] for part, sources in parts.items()}
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.shares = {"validation": 0.0 if validation else validation_share, "test": test_share}
        self.decontaminate_against = decontaminate_against or []
        self.shuffle_labels = shuffle_labels
        self.seed = seed
        self.num_workers = num_workers
        self.store: Any = (  # either takes back what it gave, a list or a view
            MemoryStore() if store is None else RecordStore(store, num_workers, self._say)
        )
        self.units: dict[str, Sequence[Unit]] = {}
        self.dropped: dict[str, Sequence[tuple[Unit, str]]] = {}
        self._items: dict[str, Sequence[LabeledItem]] = {}
        self._facts: dict[str, Facts] = {}
        self._training_data = ""
        self._resumed_data = ""
        self._builder: TreeBuilder | None = None

    def attach(self, builder: TreeBuilder, packer: Packer) -> None:
        """Take what a model needs of its data.

        Args:
            builder: What turns units into token trees; its spec names the objectives.
            packer: Looks at all items of a part, and returns what packs some of them.

        Raises:
            ConfigError: As `check_sources`.
        """
        self.check_sources(builder.spec)
        self._builder, self.packer = builder, packer

    def check_sources(self, spec: RewardSpec) -> None:
        """Refuse sources that a model cannot read, before anything is read.

        Raises:
            ConfigError: A source is of records that the model has no heads for.
        """
        heads = {"steps": spec.step_heads, "responses": spec.response_heads}
        for source in (source for sources in self.sources.values() for source in sources):
            if not heads[source.format.kind]:
                raise ConfigError(
                    f"the model has no objectives of {source.format.kind}",
                    got=f"a source of them, {source.path}",
                    fix=f"Set model.{source.format.kind}, or take the source out",
                )

    @property
    def unit_name(self) -> str:
        """What units are called in messages."""
        names = {"steps": "chains", "responses": "response sets"}
        kinds = {source.format.kind for sources in self.sources.values() for source in sources}
        return " and ".join(name for kind, name in names.items() if kind in kinds) or "records"

    def setup(self, stage: str) -> None:
        """Read, decontaminate and split the sources that a stage needs."""
        needed = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }[stage]
        for part in needed:
            self._units_of(part)

    def texts(self) -> Iterator[str]:
        """Yield the texts of the training units, to train a tokenizer on."""
        for unit in self._units_of("train"):
            yield prompt_text(unit.prompt)
            yield from unit.texts

    def training_records(self) -> Iterable[Record]:
        """Return the training records, which can be iterated repeatedly (for statistics)."""
        return Records(self._units_of("train"))

    def train_dataloader(self) -> TrainingLoader:
        """Return the loader of this rank's optimizer batches."""
        items, facts = self.items("train"), self.facts("train")
        mixture = self._mixture(facts)
        rank, num_ranks = self._ranks()
        sampler = mixture.sampler(self.seed)
        plan = TrainingPlan(facts.num_tokens, self.batch_size, self.max_tokens, num_ranks, sampler)
        self._training_data = self._fingerprint(facts, mixture)
        self._refuse_changed_data()
        return TrainingLoader(
            plan, items, self._labeler, rank, self._position, self.num_workers, self.packer
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

    def items(self, part: str) -> Sequence[LabeledItem]:
        """Return the tokenized items of a part, in the order that `MicroBatch.records` counts."""
        if part not in self._items:
            self._tokenize(part)
        return self._items[part]

    def facts(self, part: str) -> Facts:
        """Return what there is to know of the items of a part without looking at them."""
        self.items(part)
        return self._facts[part]

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
                fix=f"Resume with the same {self.unit_name}, batch_size and seed, "
                "or start a new run",
            )

    def _units_of(self, part: str) -> Sequence[Unit]:
        """Return the units of a part, read if need be."""
        if part not in self.units:
            self._read(part)
        return self.units[part]

    def _read(self, part: str) -> None:
        sources = self.sources[part]
        if part == "train" or (self.shares.get(part, 0) > 0 and not sources):
            self._read_and_split()
        elif sources:
            self.units[part] = self.store.units(Reading(sources, (), self._say))
        elif part == "validation":
            self.units[part] = []
        else:
            raise ConfigError(f"there are no sources for {part}", fix=f"Set data.{part}")

    def _read_and_split(self) -> None:
        if not self.sources["train"]:
            raise ConfigError("there are no sources to train on", fix="Set data.train")
        reading = Reading(self.sources["train"], self.decontaminate_against, self._say)
        units = self.store.units(reading)
        parts = self.store.split(units, self.shares, self.seed)
        if len(units) and not len(parts["train"]):
            raise ConfigError(
                "what is held out leaves nothing to train on",
                expected="more problems than parts; rows with one group or one prompt are one",
                got=f"{len(units)} {self.unit_name}, held out: {self.shares}",
                fix="Name sources for validation and test, or set the shares to 0",
            )
        for part, share in self.shares.items():
            if share > 0 and not self.sources[part]:
                self.units[part] = parts[part]
        self.units["train"] = parts["train"]
        if self.shuffle_labels:
            self.units["train"] = shuffled(parts["train"], self.seed)

    def _tokenize(self, part: str) -> None:
        units = self._units_of(part)
        items, facts, self.dropped[part] = self.store.items(units, self.builder)
        self._report(part, facts)
        if part == "train":
            supervised = self._supervised(facts)
            items, facts = self.store.take(items, supervised), facts.take(supervised)
        if not items and part != "validation":
            first = [reason for _, reason in self.dropped[part][:1]]
            raise DataError(
                f"no {self.unit_name} are left for {part}",
                got=f"{len(units)} read",
                fix="The first one dropped: " + first[0] if first else None,
            )
        self._refuse_over_budget(items, facts)
        self._items[part], self._facts[part] = items, facts

    def _supervised(self, facts: Facts) -> NDArray[np.int64]:
        """Return the places of the items with a label of the task's objectives."""
        kept = np.flatnonzero(facts.supervise(self._objectives))
        if len(kept) < len(facts):
            lost = len(facts) - len(kept)
            self._say(f"train: {lost} {self.unit_name} without a label are left out")
        return kept

    def _report(self, part: str, facts: Facts) -> None:
        """Say how much was dropped or truncated."""
        dropped = self.dropped[part]
        truncated = np.count_nonzero(facts.num_truncated)
        if dropped or truncated:
            self._say(
                f"{part}: {len(dropped)} of {len(dropped) + len(facts)} {self.unit_name} dropped, "
                f"{truncated} truncated to max_length"
                + (f"; first: {dropped[0][1]}" if dropped else "")
            )
        unusable = facts.num_unusable.sum()
        if unusable:
            self._say(
                f"{part}: {unusable} comparisons and ratings dropped: their responses do not fit, "
                "or read the same as written or as truncated"
            )

    def _mixture(self, facts: Facts) -> Mixture:
        """Return how the sources are mixed, and say so if there are several."""
        weights = {
            str(source.name): source.weight
            for source in self.sources["train"]
            if source.weight is not None
        }
        mixture = Mixture.of(facts, self._objectives, self.sampling, weights)
        if len(mixture.sizes) > 1:
            self._say(mixture.table())
        return mixture

    @property
    def _objectives(self) -> frozenset[str]:
        return frozenset(head.name for head in self.builder.spec.heads)

    def _evaluation_loader(self, part: str) -> EvaluationLoader | list[MicroBatch]:
        items = self.items(part)
        if not items:
            return []
        rank, num_ranks = self._ranks()
        lengths = self.facts(part).num_tokens
        plans = plan_evaluation(lengths, self.max_tokens, num_ranks)[rank::num_ranks]
        return EvaluationLoader(plans, items, self._labeler, self.num_workers, self.packer)

    @property
    def builder(self) -> TreeBuilder:
        """What turns units into token trees.

        Raises:
            ConfigError: No model was attached.
        """
        if self._builder is None:
            raise ConfigError(f"{type(self).__name__} needs a trainer with a prm task")
        return self._builder

    @property
    def _labeler(self) -> Labeler:
        spec = self.builder.spec
        return Labeler(spec.step_names, spec.response_names)

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

    def _fingerprint(self, facts: Facts, mixture: Mixture) -> str:
        """Return a digest of what decides the optimizer batches."""
        digest = hashlib.sha256(repr((self.batch_size, self.seed, mixture.counts)).encode())
        digest.update(facts.digests.data)
        return digest.hexdigest()

    def _refuse_over_budget(self, items: Sequence[LabeledItem], facts: Facts) -> None:
        over = np.flatnonzero(facts.num_tokens > self.max_tokens)[:1]
        for index in over.tolist():
            raise DataError(
                f"one of the {self.unit_name} does not fit a micro-batch",
                expected=f"at most {self.max_tokens} tokens (max_tokens)",
                got=f"{facts.num_tokens[index]} tokens",
                where=place(items[index].records[0]),
                fix="Raise max_tokens",
            )


def _check_options(
    sizes: dict[str, int], validation: float, test: float, shuffle_labels: bool, store: Path | None
) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is wrong", expected="at least 1", got=size)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            "validation_share and test_share are wrong",
            expected="numbers of at least 0 that leave something to train on",
            got=(validation, test),
        )
    if shuffle_labels and store is not None:
        raise ConfigError(
            "shuffle_labels permutes all labels in memory and cannot be used with a store",
            fix="Take out data.store for this control run, with a smaller limit of the sources",
        )
