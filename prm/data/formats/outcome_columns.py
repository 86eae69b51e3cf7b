"""Anybody's own file of compared or rated responses: which column holds what."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from prm.data.formats.base import SUBSET, OutcomeFormat, wrong_field
from prm.data.formats.chain_columns import as_list, as_prompt, read_cell, read_name
from prm.errors import ConfigError
from prm.records import Comparison, Outcome, Rating


class OutcomeColumns(OutcomeFormat):
    """Rows of any file, by column names: rated responses, pairs, or rankings.

    Supervises `ratings` or `objective`, more and earlier ranks being better: turn a column in which
    less is better around with `values` or `scales`. A text cell that holds a JSON list is read as
    that list and one that holds a number as that number, so CSV files work too. An empty cell or
    null is no label.

    Args:
        prompt: Column of the prompt: text, or a list of messages.
        response: Column of the response, where rows rate one.
        ratings: Objective to the column of its ratings.
        values: Objective to what the cells of its column mean, such as `{"Safe": 1, "Unsafe": 0}`;
            true, false and numbers are written as JSON writes them. Other cells are errors.
        scales: Objective to the number in its column that stands for 0 and the one for 1, such as
            `[1, 5]`, or `[1, 0]` to turn a column of toxicity into one of safety.
        chosen: Column of the better response, where rows compare two.
        rejected: Column of the other response.
        margin: Column of how much better the chosen response is.
        responses: Column of the list of responses, where rows rank several.
        ranks: Column of the list of their ranks, 0 for the best, equal for a tie.
        objective: Name of the objective that comparisons and rankings are about.
        id: Column of the row's name, unique within the file.
        group: Column that says which rows are about the same prompt.
        subset: Column of the part of the data that a row belongs to.

    Raises:
        ConfigError: The options name no response, or columns that do not go together.

    Example:
        >>> format = OutcomeColumns(
        ...     prompt="q",
        ...     response="a",
        ...     ratings={"safety": "label"},
        ...     values={"safety": {"ok": 1, "harmful": 0}},
        ... )
        >>> format.records({"q": "Hi", "a": "Hello", "label": "ok"}, "a.csv:2")[0].values
        {'safety': 1.0}
    """

    def __init__(
        self,
        *,
        prompt: str = "prompt",
        response: str | None = None,
        ratings: dict[str, str] | None = None,
        values: dict[str, dict[str, float]] | None = None,
        scales: dict[str, tuple[float, float]] | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
        margin: str | None = None,
        responses: str | None = None,
        ranks: str | None = None,
        objective: str | None = None,
        id: str | None = None,
        group: str | None = None,
        subset: str | None = None,
    ) -> None:
        self.prompt = prompt
        self.response = response
        self.ratings = dict(ratings or {})
        self.values = dict(values or {})
        self.scales = dict(scales or {})
        self.chosen = chosen
        self.rejected = rejected
        self.margin = margin
        self.responses = responses
        self.ranks = ranks
        self.objective = objective
        self.id = id
        self.group = group
        self.subset = subset
        self._check()
        self.objectives = {
            name: f"More of column {column!r} is better." for name, column in self.ratings.items()
        }
        if objective:
            self.objectives[objective] = "The chosen, or earlier ranked, response is better."

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's one rating or comparison."""
        prompt = as_prompt(read_cell(row, self.prompt, origin))
        fields: dict[str, Any] = {
            "id": read_name(row, self.id, origin),
            "group": read_name(row, self.group, origin),
            "metadata": {SUBSET: read_cell(row, self.subset, origin)} if self.subset else {},
            "origin": origin,
        }
        if self.response:
            values = {name: self._rating(row, name, origin) for name in self.ratings}
            return [Rating(prompt, read_cell(row, self.response, origin), values, **fields)]
        return [self._comparison(prompt, row, fields, origin)]

    def _comparison(
        self, prompt: Any, row: Mapping[str, Any], fields: dict[str, Any], origin: str
    ) -> Comparison:
        if self.responses and self.ranks:
            responses = as_list(read_cell(row, self.responses, origin))
            ranks = as_list(read_cell(row, self.ranks, origin))
        else:
            pair = [column for column in (self.chosen, self.rejected) if column]
            responses, ranks = [read_cell(row, column, origin) for column in pair], [0, 1]
        strength = self._number(row, self.margin, origin) if self.margin else None
        return Comparison(
            prompt, responses, ranks, objective=str(self.objective), strength=strength, **fields
        )

    def _rating(self, row: Mapping[str, Any], objective: str, origin: str) -> float | None:
        column = self.ratings[objective]
        if objective in self.values:
            return _meaning(row, column, self.values[objective], origin)
        number = self._number(row, column, origin)
        if number is None or objective not in self.scales:
            return number
        low, high = self.scales[objective]
        return (number - low) / (high - low)

    def _number(self, row: Mapping[str, Any], column: str, origin: str) -> float | None:
        cell = read_cell(row, column, origin)
        if cell is None or cell == "":
            return None
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise wrong_field(column, "a number, or nothing", cell, origin)
        return number

    def _check(self) -> None:
        pair = (self.chosen, self.rejected)
        ranking = (self.responses, self.ranks)
        kinds = [any(columns) for columns in ((self.response,), pair, ranking)]
        whole = any(pair) == all(pair) and any(ranking) == all(ranking)
        if sum(kinds) != 1 or not whole:
            raise ConfigError(
                "the columns of the responses are wrong",
                expected="`response`, or `chosen` and `rejected`, or `responses` and `ranks`",
            )
        if bool(self.objective) == bool(self.response):
            raise ConfigError("`objective` names what comparisons and rankings are about")
        if (self.ratings and not self.response) or (self.margin and not self.chosen):
            raise ConfigError("`ratings` go with `response`, `margin` with `chosen`")
        self._check_scales()

    def _check_scales(self) -> None:
        for name in (*self.values, *self.scales):
            if name not in self.ratings or (name in self.values and name in self.scales):
                raise ConfigError(
                    f"`values` or `scales` of {name!r} is wrong",
                    expected="one of the two, for an objective of `ratings`",
                )
        for name, (low, high) in self.scales.items():
            if low == high:
                raise ConfigError(f"the scale of {name!r} is empty", got=[low, high])


def _meaning(
    row: Mapping[str, Any], column: str, values: Mapping[str, float], origin: str
) -> float | None:
    cell = read_cell(row, column, origin)
    key = cell if isinstance(cell, str) else json.dumps(cell)
    if key in values:
        return float(values[key])
    if cell is None or cell == "":
        return None
    raise wrong_field(column, f"one of {', '.join(values)}", cell, origin)
