"""Names of version 0.1 that moved: whoever still uses one is told the new one.

`import prm` puts a finder before the others. It refuses modules that moved, and gives modules in
which single names moved a `__getattr__`, which type checkers do not see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULES = {
    "prm.audit.candidates": "prm.audit.groups (PromptGroups)",
    "prm.audit.market": "prm.audit.decisions (Decisions)",
    "prm.cli.data_report": "prm.report.checks",
    "prm.cli.export_run": "prm.cli.export",
    "prm.cli.filter_run": "prm.cli.filter",
    "prm.cli.gate_report": "prm.cli.gate",
    "prm.cli.rank_run": "prm.cli.rank",
    "prm.cli.score_files": "prm.cli.stored",
    "prm.cli.score_first": "prm.cli.inputs (ScoreFirstOptions)",
    "prm.cli.score_run": "prm.cli.scoring",
    "prm.cli.search_run": "prm.cli.search",
    "prm.data.datamodules": "prm.data.module (one RecordDataModule for all records)",
    "prm.data.files": "prm.data.sources.files",
    "prm.data.findings": "prm.data.checks.linter",
    "prm.data.formats.columns": "prm.data.formats.chain_columns (ChainColumns)",
    "prm.data.identity": "prm.trees.identity",
    "prm.data.joint_labels": "prm.data.labels",
    "prm.data.keys": "prm.data.checks.keys",
    "prm.data.label_statistics": "prm.data.checks.step_statistics",
    "prm.data.memory_store": "prm.data.store.memory",
    "prm.data.modules": "prm.data.module",
    "prm.data.origins": "prm.data.sources.origins",
    "prm.data.outcome_checks": "prm.data.checks.responses",
    "prm.data.outcome_statistics": "prm.data.checks.response_statistics",
    "prm.data.overlap": "prm.data.checks.overlap",
    "prm.data.packing": "prm.trees.packing",
    "prm.data.policy_text": "prm.texts.policy",
    "prm.data.preference_checks": "prm.data.checks.preferences",
    "prm.data.prompts": "prm.trees.prompts",
    "prm.data.rater_agreement": "prm.data.checks.raters",
    "prm.data.readers": "prm.data.sources.source (one Source; its format says what it reads)",
    "prm.data.reading": "prm.data.items",
    "prm.data.response_labels": "prm.data.labels and prm.data.items",
    "prm.data.response_sets": "prm.trees.units",
    "prm.data.rows": "prm.data.sources.rows",
    "prm.data.step_labels": "prm.data.labels and prm.data.items",
    "prm.data.step_split": "prm.texts.steps",
    "prm.data.store_rows": "prm.data.store.rows",
    "prm.data.store_views": "prm.data.store.views",
    "prm.data.text_checks": "prm.data.checks.texts",
    "prm.data.tokenize": "prm.trees.tokenize",
    "prm.data.tokenize_responses": "prm.trees.tokenize (one TreeBuilder for chains and responses)",
    "prm.data.tree": "prm.trees.tree",
    "prm.data.writers": "prm.data.sources.writers",
    "prm.evaluation.outcome": "prm.evaluation.report (one Report for steps and responses)",
    "prm.evaluation.outcome_baselines": "prm.evaluation.baselines.responses",
    "prm.evaluation.outcome_parts": "prm.evaluation.parts",
    "prm.evaluation.outcome_study": "prm.evaluation.response_study",
    "prm.evaluation.outcome_units": "prm.evaluation.responses",
    "prm.evaluation.process": "prm.evaluation.report (one Report for steps and responses)",
    "prm.evaluation.slices": "prm.evaluation.steps",
    "prm.losses.process": "prm.losses.steps",
    "prm.metrics.outcome": "prm.metrics.responses (ResponseMetrics)",
    "prm.metrics.process": "prm.metrics.steps (StepMetrics)",
    "prm.models.layers": "prm.models.structure",
    "prm.report.outcome": "prm.report.evaluation",
    "prm.report.outcome_plots": "prm.report.plots.responses",
    "prm.report.process": "prm.report.evaluation",
    "prm.report.tradeoff_plots": "prm.report.plots.tradeoffs",
    "prm.scoring.answers": "prm.scoring.replies",
    "prm.scoring.chains": "prm.scores.chains (score_chain)",
    "prm.scoring.column_scores": "prm.scoring.stages (finish)",
    "prm.scoring.columns": "prm.scores.columns",
    "prm.scoring.connection": "prm.connection",
    "prm.scoring.filtering": "prm.scores.filtering",
    "prm.scoring.partial": "prm.scores.partial",
    "prm.scoring.publish": "prm.scores.publish",
    "prm.scoring.ranking": "prm.scores.ranking (RankedRows)",
    "prm.scoring.ray_engine": "prm.scoring.ray (RayBlockScorer)",
    "prm.scoring.reaggregate": "prm.scores.reaggregate",
    "prm.scoring.responses": "prm.scores.responses",
    "prm.scoring.rewrite": "prm.scores.rewrite",
    "prm.scoring.tables": "prm.scores.stored (read_scores) and prm.scores.tables",
    "prm.scoring.unit_score": "prm.scores.reaggregate",
    "prm.search.answers": "prm.texts.answers",
    "prm.search.generators": "prm.generators.generator",
    "prm.search.local": "prm.generators.local",
    "prm.search.openai": "prm.generators.openai",
    "prm.training.card": "prm.models.card",
    "prm.training.gate_pairs": "prm.training.gate.pairs",
    "prm.training.gating": "prm.training.gate.train",
    "prm.training.joint": "prm.training.task (RewardTask with steps and responses)",
    "prm.training.outcome": "prm.training.task (RewardTask with responses)",
    "prm.training.outcome_card": "prm.models.card",
    "prm.training.process": "prm.training.task (RewardTask with steps)",
    "prm.training.run_files": "prm.training.checkpoints.run_files",
    "prm.training.shapes": "prm.training.sizing.shapes",
    "prm.training.sharded_checkpoint": "prm.training.checkpoints.sharded",
    "prm.training.snapshot": "prm.training.checkpoints.snapshot",
    "prm.training.state_cache": "prm.training.cache.states",
    "prm.training.state_store": "prm.training.cache.store",
}
"""Module of version 0.1 to where its names are."""

NAMES = {
    "prm.data.batches": {
        "CachedReads": "prm.trees.packing.CachedReads",
        "Item": "prm.data.items.LabeledItem",
        "Targets": "prm.data.labels.Labels",
    },
    "prm.data.checks": {
        "Annotation": "prm.data.checks.chains.Annotation",
        "EmptySteps": "prm.data.checks.chains.EmptySteps",
        "Repetition": "prm.data.checks.chains.Repetition",
        "check_chains": "prm.data.checks.chains.check_chains",
    },
    "prm.data.store": {"RecordStore": "prm.data.store.disk.RecordStore"},
    "prm.evaluation.baselines": {
        "AlwaysCorrect": "prm.evaluation.baselines.steps.AlwaysCorrect",
        "BagOfWords": "prm.evaluation.baselines.steps.BagOfWords",
        "Baseline": "prm.evaluation.baselines.steps.StepBaseline",
        "LengthOnly": "prm.evaluation.baselines.steps.StepLengthOnly",
        "PositionOnly": "prm.evaluation.baselines.steps.IndexAndLength",
        "standard_baselines": "prm.evaluation.baselines.steps.STEP_BASELINES",
    },
    "prm.losses.plackett_luce": {"plackett_luce_loss": "prm.losses.plackett_luce.plackett_luce"},
    "prm.losses.preference": {
        "Pairs": "prm.losses.preference.MemberPairs",
        "PairwiseLoss": "prm.losses.preference.PreferenceLoss",
        "TwoOutcomeLoss": "prm.losses.preference.PairLabels",
        "bradley_terry_loss": "prm.losses.preference.bradley_terry",
    },
    "prm.metrics.first_error": {
        "FirstErrorRates": "prm.metrics.first_error.ChainUnits",
        "first_error_rates": "prm.metrics.first_error.ChainUnits",
    },
    "prm.losses.probit": {"probit_loss": "prm.losses.probit.probit"},
    "prm.models.readouts": {
        "outcome_scores": "prm.models.readouts.response_scores",
        "outcome_spreads": "prm.models.readouts.response_spreads",
    },
    "prm.models.reward_model": {
        "JointRewardModel": "prm.models.reward_model.RewardModel",
        "OutcomeRewardModel": "prm.models.reward_model.RewardModel",
        "ProcessRewardModel": "prm.models.reward_model.RewardModel",
    },
    "prm.rl.weighting": {"Schedule": "prm.rl.weighting.WeightSchedule"},
    "prm.scoring.batch": {
        "Engine": "prm.scoring.batch.BlockScorer",
        "LocalEngine": "prm.scoring.batch.LocalBlockScorer",
    },
    "prm.search.choice": {"Choice": "prm.search.choice.ChoiceRule"},
    "prm.spec": {
        "GoldenScore": "prm.spec.GoldenChain",
        "Objective": "prm.spec.StepHead",
        "OutcomeObjective": "prm.spec.ResponseHead",
    },
    "prm.spec.parts": {
        "GoldenScore": "prm.spec.parts.GoldenChain",
        "Objective": "prm.spec.parts.StepHead",
        "OutcomeObjective": "prm.spec.parts.ResponseHead",
    },
    "prm.training.sizing": {
        name: f"prm.training.sizing.estimate.{name}"
        for name in ("GPUS", "Gpu", "Memory", "Training", "fit_gpus", "memory", "tokens_per_second")
    },
}
"""Module to its names of version 0.1 that moved or were renamed, and what they are now."""

OPTIONS = {
    "ChainDataModule": "RecordDataModule",
    "ChainSource": "Source, which needs no class_path",
    "Columns": "ChainColumns",
    "JointDataModule": "RecordDataModule",
    "JointRewardTask": "RewardTask, with steps and responses",
    "OutcomeDataModule": "RecordDataModule",
    "OutcomeRewardTask": "RewardTask, with responses in place of objectives",
    "OutcomeSource": "Source, which needs no class_path",
    "ProcessRewardTask": "RewardTask, with steps in place of objectives",
    "beta": "--aggregation.beta",
    "aggregation": "step_aggregation for steps, objective_aggregation for responses",
    "objectives": "steps or responses",
    "reward_objective": "chain_reward",
}
"""Class or option in a configuration of version 0.1 to what it is now."""


class MovedNames:
    """A finder of modules that says where names went.

    Example:
        >>> from prm.spec import Objective
        Traceback (most recent call last):
        ImportError: prm.spec.Objective is prm.spec.StepHead now
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module in which names moved; others are left to the next finder.

        Raises:
            ModuleNotFoundError: The module moved.
        """
        if fullname in MODULES:
            # without its name, which `from prm.training import snapshot` would take for a hint
            raise ModuleNotFoundError(f"{fullname} is {MODULES[fullname]} now")
        spec = PathFinder.find_spec(fullname, path, target) if fullname in NAMES else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                module.__getattr__ = _missing(fullname)  # type: ignore[method-assign]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _missing(module: str) -> Callable[[str], Any]:
    def missing(name: str) -> Any:
        if name in NAMES[module]:
            raise ImportError(f"{module}.{name} is {NAMES[module][name]} now")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing


def watch_imports() -> None:
    """Let imports of names that moved say where they went."""
    if not any(isinstance(finder, MovedNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedNames())
