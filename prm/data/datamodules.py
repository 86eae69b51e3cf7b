"""The data modules: sources of labeled records in, packed batches out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prm.data.joint_labels import JointLabeler
from prm.data.module import RecordDataModule
from prm.data.response_labels import ResponseLabeler
from prm.data.sampling import Sampling
from prm.data.sources.source import ChainSource, OutcomeSource
from prm.data.step_labels import StepLabeler


class ChainDataModule(RecordDataModule):
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
        test_share: Share of the training problems that is held out, whatever the test; it is the
            test part when `test` is not given.
        decontaminate_against: Sources whose problems are taken out of the training chains.
        shuffle_labels: Control experiment: permute the labels over all labeled training steps. A
            sound pipeline then scores at chance.
        seed: Seed of the split and of the order.
        num_workers: Processes that tokenize into the store, and that pack batches ahead; 0 does
            both in the training process.
        store: Folder that keeps the records tokenized on the disk, for data that outgrow memory;
            any number of runs may share it.
    """

    unit_name = "chains"

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
        store: Path | None = None,
    ) -> None:
        super().__init__(
            _parts(train, validation, test, predict),
            batch_size,
            max_tokens,
            Sampling(),
            validation_share,
            test_share,
            decontaminate_against or [],
            shuffle_labels,
            seed,
            num_workers,
            store,
        )

    @property
    def labeler(self) -> StepLabeler:
        """Collects step labels."""
        return StepLabeler(self.task.step_names)


class OutcomeDataModule(RecordDataModule):
    """Comparisons and ratings of responses, from sources that each supervise some objectives.

    The records of one row of a source (a pair with its ratings, say) are one response set: its
    prompt and its distinct responses are computed once. Missing labels are part of no loss and of
    no metric. A table at the start of training says what each source contributes.

    Args:
        train: Sources to train on.
        validation: Sources to validate on; if there are none, `validation_share` of the training
            prompts is held out.
        test: Sources of `prm test`.
        predict: Sources of `prm predict`.
        batch_size: Response sets in an optimizer batch, over all ranks and micro-batches.
        max_tokens: Tokens in a micro-batch; sets the memory, not the result.
        sampling: How much of an epoch each source gets.
        validation_share: Share of the training prompts that is held out for validation when
            `validation` is not given.
        test_share: Share of the training prompts that is held out, whatever the test; it is the
            test part when `test` is not given.
        decontaminate_against: Sources whose prompts are taken out of the training records.
        shuffle_labels: Control experiment: permute ratings over all records of an objective, and
            toss a coin for each comparison. A sound pipeline then scores at chance.
        seed: Seed of the split and of the order.
        num_workers: Processes that tokenize into the store, and that pack batches ahead; 0 does
            both in the training process.
        store: Folder that keeps the records tokenized on the disk, for data that outgrow memory;
            any number of runs may share it.
    """

    unit_name = "response sets"

    def __init__(
        self,
        train: list[OutcomeSource] | None = None,
        validation: list[OutcomeSource] | None = None,
        test: list[OutcomeSource] | None = None,
        predict: list[OutcomeSource] | None = None,
        batch_size: int = 64,
        max_tokens: int = 16384,
        sampling: Sampling = Sampling(),  # noqa: B008
        validation_share: float = 0.05,
        test_share: float = 0.0,
        decontaminate_against: list[OutcomeSource] | None = None,
        shuffle_labels: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        store: Path | None = None,
    ) -> None:
        super().__init__(
            _parts(train, validation, test, predict),
            batch_size,
            max_tokens,
            sampling,
            validation_share,
            test_share,
            decontaminate_against or [],
            shuffle_labels,
            seed,
            num_workers,
            store,
        )

    @property
    def labeler(self) -> ResponseLabeler:
        """Collects ratings and comparisons."""
        return ResponseLabeler(self.task.response_names)


class JointDataModule(RecordDataModule):
    """Chains and responses, for one backbone with process and outcome heads.

    Args:
        train: Sources of chains and of responses to train on.
        validation: Sources to validate on; if there are none, `validation_share` of the training
            prompts is held out.
        test: Sources of `prm test`.
        predict: Sources of `prm predict`.
        batch_size: Chains and response sets in an optimizer batch.
        max_tokens: Tokens in a micro-batch; sets the memory, not the result.
        sampling: How much of an epoch each source gets.
        validation_share: Share of the training prompts that is held out for validation.
        test_share: Share of the training prompts that is held out, whatever the test; it is the
            test part when `test` is not given.
        decontaminate_against: Sources whose prompts are taken out of the training records.
        shuffle_labels: Control experiment: permute the labels of the training records.
        seed: Seed of the split and of the order.
        num_workers: Processes that tokenize into the store, and that pack batches ahead; 0 does
            both in the training process.
        store: Folder that keeps the records tokenized on the disk, for data that outgrow memory;
            any number of runs may share it.
    """

    unit_name = "chains and response sets"

    def __init__(
        self,
        train: list[ChainSource | OutcomeSource] | None = None,
        validation: list[ChainSource | OutcomeSource] | None = None,
        test: list[ChainSource | OutcomeSource] | None = None,
        predict: list[ChainSource | OutcomeSource] | None = None,
        batch_size: int = 64,
        max_tokens: int = 16384,
        sampling: Sampling = Sampling(),  # noqa: B008
        validation_share: float = 0.05,
        test_share: float = 0.0,
        decontaminate_against: list[ChainSource | OutcomeSource] | None = None,
        shuffle_labels: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        store: Path | None = None,
    ) -> None:
        super().__init__(
            _parts(train, validation, test, predict),
            batch_size,
            max_tokens,
            sampling,
            validation_share,
            test_share,
            decontaminate_against or [],
            shuffle_labels,
            seed,
            num_workers,
            store,
        )

    @property
    def labeler(self) -> JointLabeler:
        """Collects step labels, ratings and comparisons."""
        return JointLabeler(self.task.step_names, self.task.response_names)


def _parts(
    train: Sequence[Any] | None,
    validation: Sequence[Any] | None,
    test: Sequence[Any] | None,
    predict: Sequence[Any] | None,
) -> dict[str, Sequence[Any]]:
    return {
        "train": train or [],
        "validation": validation or [],
        "test": test or [],
        "predict": predict or [],
    }
