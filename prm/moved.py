"""Names of version 0.1 that moved: whoever still uses one is told the new one.

`import prm` appends a finder that is asked only for modules that nothing else has, so this costs
nothing; a package in which single names moved says `__getattr__ = moved.names_of(__name__)`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    "prm.metrics.outcome": "prm.metrics.responses",
    "prm.metrics.process": "prm.metrics.steps",
    "prm.report.outcome": "prm.report.evaluation",
    "prm.report.outcome_plots": "prm.report.plots.responses",
    "prm.report.process": "prm.report.evaluation",
    "prm.report.tradeoff_plots": "prm.report.plots.tradeoffs",
    "prm.scoring.answers": "prm.scoring.replies",
    "prm.scoring.chains": "prm.scores.chains",
    "prm.scoring.column_scores": "prm.scoring.stages (finish)",
    "prm.scoring.columns": "prm.scores.columns",
    "prm.scoring.connection": "prm.connection",
    "prm.scoring.filtering": "prm.scores.filtering",
    "prm.scoring.partial": "prm.scores.partial",
    "prm.scoring.publish": "prm.scores.publish",
    "prm.scoring.ranking": "prm.scores.ranking",
    "prm.scoring.ray_engine": "prm.scoring.ray",
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
    "prm.data.checks": {"check_chains": "prm.data.checks.chains.check_chains"},
    "prm.data.store": {"RecordStore": "prm.data.store.disk.RecordStore"},
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
    "prm.models.reward_model": {
        "JointRewardModel": "prm.models.reward_model.RewardModel",
        "OutcomeRewardModel": "prm.models.reward_model.RewardModel",
        "ProcessRewardModel": "prm.models.reward_model.RewardModel",
    },
    "prm.spec": {
        "GoldenScore": "prm.spec.GoldenChain",
        "Objective": "prm.spec.StepHead",
        "OutcomeObjective": "prm.spec.ResponseHead",
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
    "aggregation": "step_aggregation for steps, objective_aggregation for responses",
    "objectives": "steps or responses",
    "reward_objective": "chain_reward",
}
"""Class or option in a configuration of version 0.1 to what it is now."""


def names_of(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module: an `ImportError` for a name that moved.

    Example:
        >>> from prm.spec import Objective
        Traceback (most recent call last):
        ImportError: prm.spec.Objective is prm.spec.StepHead now
    """

    def missing(name: str) -> Any:
        if name in NAMES[module]:
            raise ImportError(f"{module}.{name} is {NAMES[module][name]} now")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing


class MovedModules:
    """A finder that says where a module went, when nothing else has it."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Raise `ModuleNotFoundError` with the new name of a module that moved."""
        if fullname in MODULES:
            raise ModuleNotFoundError(f"{fullname} is {MODULES[fullname]} now", name=fullname)


def watch_imports() -> None:
    """Let imports of modules that moved say where they went."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
