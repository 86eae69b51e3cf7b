"""`prm filter`: keep or drop rows by reward, by objective or by share of the best, and say why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prm.cli.inputs import (
    ScorableRows,
    ScoreFirstOptions,
    choose_format,
    model_kind,
    say_skipped,
)
from prm.cli.options import OptionRules
from prm.cli.stored import Rewarded, cut_off, open_scores, progress, wide_console, with_rewards
from prm.data.formats import Format, all_formats
from prm.data.sources.rows import row_results
from prm.data.sources.source import OnError, Skipped, Source
from prm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from prm.arrays import Mask
    from prm.scores.filtering import Rules
    from prm.scores.rows import Row

REASON = "dropped_because"
"""The field of dropped rows that says why."""

NO_SCORE = "no score with its id"

all_formats()  # so that every format can be named by its class alone


@dataclass(frozen=True, kw_only=True)
class Filter(ScoreFirstOptions):
    r"""Keep the rows that pass every rule, and say how many others fail which one.

    Stored scores, by reward, by objective, and by rank::

        prm filter scores.jsonl --min_reward 0 --output kept.jsonl --dropped dropped.jsonl
        prm filter scores.jsonl --thresholds.safety=0.8 --unit probability --output safe.jsonl
        prm filter scores.jsonl --top_share 0.25 --within group --output best.jsonl

    The rows of the file that was scored, whose ids are those of the scores::

        prm filter scores.jsonl --min_reward 0 --data train.jsonl --output train-kept.jsonl

    A file that is not scored yet; kept.jsonl.scores.jsonl keeps its scores, so that it can be
    filtered anew without the model. When interrupted, the same command continues::

        prm filter --model runs/replies/model --input train.jsonl --min_reward 0 \
            --output kept.jsonl

    A row of a file is kept if all its scored responses pass. Rows that do not name an id are
    taken as name-0, name-1, ... as `prm score` does.

    Args:
        output: File for the rows that are kept, .jsonl or .parquet.
        dropped: File for the others, each with the field dropped_because.
        data: File, folder or dataset whose rows are filtered in the place of the scores.
        input: File, folder, glob or dataset to score first, whose rows are then filtered.
        format: What the rows of `input` or `data` look like; by default as in `prm score`, and any
            rows with an `id` for `data`.
        min_reward: Smallest reward to keep.
        max_reward: Largest reward to keep.
        thresholds: Worst value of an objective to keep, as in --thresholds.safety=0.5, or JSON.
        unit: What thresholds are in: score, the head's own units, where an objective to minimize
            must not be above its threshold; utility or probability, where more is better. Of
            chains: score, as the steps were aggregated, or probability.
        top_share: Share of the rows with a reward to keep, the best ones, rounded up.
        within: Whether --top_share is of all rows or of those of each group (prompt).
        missing: What happens to rows without a number that a rule needs, or without a score.
    """

    CONFLICTS: ClassVar[OptionRules] = (("--data", "--input"),)
    NEEDS: ClassVar[OptionRules] = (
        ("--data", "SCORES"),
        ("--format", "--input", "--data"),
        ("--device", "--input"),
    )

    output: Path
    dropped: Path | None = None
    data: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    thresholds: dict[str, float] | None = None
    unit: Literal["score", "utility", "probability"] = "score"
    top_share: float | None = None
    within: Literal["all", "group"] = "all"
    missing: Literal["drop", "keep", "error"] = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropped == self.output:
            raise ConfigError("--output and --dropped are the same file", got=str(self.output))
        if self.scores is None and self.input is None:
            fix = "Give SCORES, or --model and --input"
            raise ConfigError("there is nothing to filter", fix=fix)

    def run(self) -> int:
        """Filter, and return 1 if no row is kept, else 0."""
        from prm.scores.filtering import Rules, failures
        from prm.scores.rewrite import check_outputs

        rules = Rules(
            self.min_reward,
            self.max_reward,
            self.thresholds or {},
            self.unit,
            self.top_share,
            self.within,
            self.missing,
            self.truncated,
        )
        if self.scores is None:
            check_outputs(self.dropped, overwrite=self.overwrite)
            return self._scored(rules).run()
        check_outputs(self.output, self.dropped, overwrite=self.overwrite)
        stored = open_scores(self.scores, self.model)
        rewarded = with_rewards(stored, self.aggregation, self.aggregation_overrides)
        failed = failures(rewarded.table, rewarded.rewards, rules)
        if self.data is None:
            code = self._filter_scores(rewarded, failed)
        else:
            code = self._filter_data(rewarded, failed, self.data)
        what = "kept by the other rules" if self.truncated == "keep" else "dropped"
        for line in cut_off(rewarded.table, what):
            print(line)
        return code

    def _scored(self, rules: Rules) -> Filter:
        """Score the input, and return the command that filters its rows by the scores."""
        from prm.spec import RewardSpec

        assert self.model is not None
        chosen = choose_format(model_kind(self.model), self.format)
        spec, chains = RewardSpec.load(self.model), chosen.kind == "steps"
        rules.check(spec.step_names if chains else spec.response_names, chains=chains)
        return self.score_first(self.output, keep_text=False, data=self.input, format=chosen)

    def _filter_scores(self, rewarded: Rewarded, failed: dict[str, Mask]) -> int:
        import numpy as np

        num_rows = rewarded.table.num_rows
        fails = np.any([*failed.values(), np.zeros(num_rows, dtype=bool)], axis=0)
        kept, others = np.flatnonzero(~fails), np.flatnonzero(fails)
        rewarded.write(self.output, kept, "keeping")
        if self.dropped is not None:
            rewarded.write(self.dropped, others, "dropping", {REASON: _reasons(failed, others)})
        _print_table(failed, len(kept), num_rows, self.output)
        return int(len(kept) == 0)

    def _filter_data(self, rewarded: Rewarded, failed: dict[str, Mask], data: str) -> int:
        """Filter the rows of another file by the scores that have their ids."""
        from prm.scores.rewrite import write_plain_rows

        rows_of = DataRows(data, self.format, self.on_error)
        reasons, num_unused = _join(rewarded, failed, rows_of, self.missing)
        drop = [bool(reason) for reason in reasons]

        def rows(dropping: bool) -> Iterator[Row]:
            for (_, (row, _)), reason in zip(rows_of.readable(), reasons, strict=True):
                if bool(reason) == dropping:
                    yield row | {REASON: "; ".join(reason)} if dropping else row

        count = len(drop) - sum(drop)
        write_plain_rows(rows(dropping=False), self.output, track=progress("keeping", count))
        if self.dropped is not None:
            track = progress("dropping", sum(drop))
            write_plain_rows(rows(dropping=True), self.dropped, track=track)
        _print_table(_masks(reasons), count, len(drop), self.output)
        if num_unused:
            print(f"{num_unused:,} scored ids are not in {data}")
        say_skipped(data, rows_of.skipped)
        return int(count == 0)


class DataRows:
    """The rows of a file that is filtered by scores, and the ids that they are scored under.

    Args:
        data: File, folder or dataset.
        format: What its rows look like; `None` if each is known by its own `id`.
        on_error: Whether a wrong row stops the reading; one that is left out has no score.
    """

    def __init__(self, data: str, format: Format | None, on_error: OnError) -> None:
        self.data = data
        self.format = format
        self.on_error = on_error
        self.skipped = Skipped()

    def readable(self, skipped: Skipped | None = None) -> Iterator[tuple[int, tuple[Any, str]]]:
        """Yield the number of each row, and the row with its place; `skipped` counts the others."""
        for index, row in enumerate(row_results(self.data)):
            if not isinstance(row, DataError):
                yield index, row
            elif self.on_error == "raise":
                raise row
            elif skipped is not None:
                skipped.add(row)

    def names(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the place of each row and the ids that its records are scored under."""
        if self.format is None:
            yield from self._own_names()
            return
        records = ScorableRows(Source(self.data, self.format, on_error=self.on_error))
        names: dict[str, dict[str, None]] = {}
        for record in records:
            names.setdefault(record.origin, {})[record.id] = None
        self.skipped = records.skipped
        for _, (_, where) in self.readable():
            yield where, list(names.get(where, ()))

    def _own_names(self) -> Iterator[tuple[str, list[str]]]:
        seen: set[str] = set()
        for index, (row, where) in self.readable(self.skipped):
            name = str(row.get("id") or f"{Path(self.data).name.split('.')[0]}-{index}")
            known = name in seen
            if known:
                error = DataError("two rows have the same id", got=name, where=where)
                if self.on_error == "raise":
                    raise error
                self.skipped.add(error)
            seen.add(name)
            yield f"{where}, row {name!r}", [] if known else [name]


def _join(
    rewarded: Rewarded, failed: dict[str, Mask], data: DataRows, missing: str
) -> tuple[list[tuple[str, ...]], int]:
    """Return why each row of the data is dropped, and how many scored ids it does not have."""
    found: dict[str, dict[str, None]] = {name: {} for name in rewarded.table.ids.tolist()}
    for reason, rows in failed.items():
        for name in rewarded.table.ids[rows].tolist():
            found[name][reason] = None
    reasons: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for where, names in data.names():
        known = [name for name in names if name in found]
        seen.update(known)
        if not known and missing == "error":
            raise DataError("the row has no score", where=where, fix="--missing drop or keep")
        unscored = (NO_SCORE,) if missing == "drop" and not known else ()
        reasons.append(
            (*dict.fromkeys(reason for name in known for reason in found[name]), *unscored)
        )
    return reasons, len(found.keys() - seen)


def _masks(reasons: list[tuple[str, ...]]) -> dict[str, Mask]:
    import numpy as np

    names = dict.fromkeys(name for reason in reasons for name in reason)
    return {name: np.array([name in reason for reason in reasons]) for name in names}


def _reasons(failed: dict[str, Mask], rows: Any) -> list[str]:
    """Return the reasons of each row, as text."""
    names = [[reason if fails else "" for fails in failed[reason][rows]] for reason in failed]
    return ["; ".join(filter(None, reasons)) for reasons in zip(*names, strict=True)]


def _print_table(failed: dict[str, Mask], num_kept: int, num_rows: int, output: Path) -> None:
    from prm.report.document import named_table
    from prm.report.terminal import rich_table

    share = num_kept / num_rows
    print(f"{output}: {num_kept:,} of {num_rows:,} rows kept ({share:.1%})")
    rows = []
    for reason, mask in failed.items():
        others = sum(other.astype(int) for name, other in failed.items() if name != reason)
        rows.append([reason, f"{mask.sum():,}", f"{(mask & (others == 0)).sum():,}"])
    head = ["reason", "rows", "this alone"]
    wide_console().print(rich_table(f"dropped: {num_rows - num_kept:,}", named_table(head, rows)))
