"""`prm reward`: another aggregation for scores that are already stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.cli.options import AggregationOptions, OverwriteOptions, ShapingOptions, StoredOptions
from prm.cli.stored import Rewarded, aggregated, open_scores, reshaped

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Reward(ShapingOptions, AggregationOptions, OverwriteOptions, StoredOptions):
    """Aggregate stored scores into rewards again: no model, no text, a million rows in seconds.

    `prm score` stores the score of every objective. How they become one reward can be changed
    afterwards: another class, other weights, or both. Of chains it stores the score of every step::

        prm reward scores.jsonl --aggregation WorstCase --output cautious.jsonl
        prm reward scores.jsonl --aggregation.weights.safety=2 --output safer.jsonl
        prm reward scores.jsonl --aggregation configs/aggregation/mine.yaml --output mine.parquet
        prm reward chain-scores.jsonl --aggregation product --output product.jsonl

    Rewards can be limited, or squashed, after they are aggregated::

        prm reward scores.jsonl --shaping.clip='[-5,5]' --output limited.jsonl

    All other fields of the rows stay as they are. The new rule is stored in the spec beside the
    output, so that the output can be ranked, filtered and aggregated again.

    Args:
        output: File for the rows with the new rewards, .jsonl or .parquet.
    """

    scores: Path = field()  # which is needed here
    output: Path

    def run(self) -> int:
        """Write the rows, and return 1 if none has a reward, else 0."""
        import numpy as np

        from prm.scores.rewrite import check_outputs

        check_outputs(self.output, overwrite=self.overwrite)
        table = reshaped(open_scores(self.scores, self.model), self.shaping)
        rewarded = aggregated(table, self.aggregation, self.aggregation_overrides)
        rewarded.write(self.output, np.arange(table.num_rows))
        print(f"{self.output}: {table.num_rows:,} rows, aggregation {rewarded.name}")
        for line in _summary(rewarded):
            print(f"  {line}")
        return int(np.isnan(rewarded.rewards).all())


def _summary(rewarded: Rewarded) -> Iterator[str]:
    """Yield mean and share of missing rewards, and what changed against the rewards in the file."""
    import numpy as np

    new, old = rewarded.rewards, rewarded.table.stored_rewards
    yield f"mean reward {_mean(new)} (in the file {_mean(old)})"
    shares = f"{np.isnan(new).mean():.1%}", f"{np.isnan(old).mean():.1%}"
    yield f"{shares[0]} of the rows without a reward (in the file {shares[1]})"
    both = ~np.isnan(new) & ~np.isnan(old) & (rewarded.table.groups >= 0)
    yield from _changes(rewarded, both)


def _mean(rewards: Any) -> str:
    import numpy as np

    known = rewards[~np.isnan(rewards)]
    return f"{known.mean():.4f}" if len(known) else "none"


def _changes(rewarded: Rewarded, both: Any) -> Iterator[str]:
    from prm.audit.groups import PromptGroups, share_flipped

    noun = rewarded.table.noun
    candidates = PromptGroups.of(rewarded.table.groups, both)
    if candidates.num_groups == 0:
        yield f"no prompt has two {noun} with rewards, so no ranking can change"
        return
    old = rewarded.table.stored_rewards[candidates.rows]
    new = rewarded.rewards[candidates.rows]
    changed = int((candidates.winners(old) != candidates.winners(new)).sum())
    total = candidates.num_groups
    winner = f"another {noun.removesuffix('s')} wins"
    yield f"{winner} in {changed:,} of {total:,} prompts ({changed / total:.1%})"
    flipped = share_flipped(candidates.pairs(MAX_PAIRS), old, new)
    yield f"{flipped:.1%} of the pairs of {noun} change their order"


MAX_PAIRS = 200_000
"""Pairs that the share is taken of, at random if there are more."""
