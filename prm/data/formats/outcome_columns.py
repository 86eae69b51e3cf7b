"""Anybody's own file of compared or rated responses: which column holds what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prm.data.formats.base import GRADES, SUBSET, VERDICTS, OutcomeFormat, judged_pair, wrong_field
from prm.data.formats.cells import (
    is_conversation,
    mean_opinion,
    meanings,
    offer_tools,
    read_cell,
    read_list,
    read_name,
    read_number,
    read_prompt,
    said_by_each,
    split_replies,
    whole_number,
)
from prm.data.formats.verdicts import (
    Winner,
    majority,
    read_winner,
    refuse_contradictions,
    signed,
    usual_winners,
    votes,
)
from prm.errors import ConfigError
from prm.messages import TOOLS
from prm.records import Comparison, Outcome, Rating

_KINDS = (
    "`response`, or `chosen` and `rejected`, or `first`, `second` and `better`, "
    "or `responses` with `ranks`, `scores` or `ratings`"
)


class OutcomeColumns(OutcomeFormat):
    """Rows of any file, by column names: rated responses, pairs, or rankings.

    Supervises `ratings` or `objective`, more and earlier ranks being better: turn a column in which
    less is better around with `values` or `scales`. An empty cell or null is no label.

    A column may be a path into objects and lists: `turns.0.text`, `completions.*.response` for that
    of every item. A text cell that holds a JSON list is read as that list and one that holds a
    number as that number, so CSV files work too. A response may be a list of its lines, or a
    conversation of which it is the last turn; messages say `role` and `content`, or `from` and
    `value`.

    Args:
        prompt: Column of the prompt: text, or a list of messages; `None` if the responses are
            conversations that hold it.
        response: Column of the response, where rows rate one.
        ratings: Objective to the column of its ratings, or to those of several raters: their mean.
            A path with `*` may lead to several raters as well.
        values: Objective to what the cells of its column mean, such as `{"Safe": 1, "Unsafe": 0}`;
            true, false and numbers are written as JSON writes them. Other cells are errors.
        scales: Objective to the number in its column that stands for 0 and the one for 1, such as
            `[1, 5]`, or `[1, 0]` to turn a column of toxicity into one of safety.
        chosen: Column of the better response, where rows compare two, or of a list of them.
        rejected: Column of the other response, or of a list: each chosen one is better than each.
        margin: Column of how much better the chosen response is.
        ignore: Columns that may contradict `chosen` and `rejected`, which is otherwise an error.
        first: Column of one response, where another column says which of two is better.
        second: Column of the other.
        better: Column that says which is better, or those of several raters (or a path with `*`):
            what most of them say, else a tie.
        winners: What the cells of `better` mean: 0 for the first, 1 for the second, "tie", or null
            for no example. By default the usual words (`usual_winners`).
        responses: Column of the list of responses, where rows rank or rate several, or one column
            for each.
        ranks: Column of the list of their ranks, from 0 or 1 for the best, equal for a tie.
        scores: Column of the list of their scores, or one column for each: they are ranked by them,
            more being better, and one without a score is left out.
        objective: Name of the objective that comparisons and rankings are about.
        tools: Column of the tools that the assistant may call, which is read where there is one of
            this name; null leaves it out.
        id: Column of the row's name, unique within the file.
        group: Column that says which rows are about the same prompt.
        subset: Column of the part of the data that a row belongs to.

    Raises:
        ConfigError: The options name no response, or columns that do not go together.

    Example:
        >>> format = OutcomeColumns(
        ...     prompt="q", first="answer_a", second="answer_b", better="winner", objective="all"
        ... )
        >>> row = {"q": "A prime?", "answer_a": "8", "answer_b": "7", "winner": "model_b"}
        >>> format.records(row, "a.csv:2")[0].responses
        ('7', '8')
    """

    def __init__(
        self,
        *,
        prompt: str | None = "prompt",
        response: str | None = None,
        ratings: dict[str, str | list[str]] | None = None,
        values: dict[str, dict[str, float | None]] | None = None,
        scales: dict[str, tuple[float, float]] | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
        margin: str | None = None,
        ignore: list[str] | None = None,
        first: str | None = None,
        second: str | None = None,
        better: str | list[str] | None = None,
        winners: dict[str, Winner | None] | None = None,
        responses: str | list[str] | None = None,
        ranks: str | list[str] | None = None,
        scores: str | list[str] | None = None,
        objective: str | None = None,
        tools: str | None = TOOLS,
        id: str | None = None,
        group: str | None = None,
        subset: str | None = None,
    ) -> None:
        self.prompt = prompt
        self.response = response
        self.ratings = {name: _listed(columns) for name, columns in (ratings or {}).items()}
        self.meanings = meanings(self.ratings, values, scales)
        self.chosen = chosen
        self.rejected = rejected
        self.margin = margin
        self.ignore = list(ignore or ())
        self.first = first
        self.second = second
        self.better = _listed(better)
        self.responses = responses
        self.ranks = ranks
        self.scores = scores
        self.objective = objective
        self.tools = tools
        self.id = id
        self.group = group
        self.subset = subset
        self._check(winners)
        usual = usual_winners(first, second) if first and second else {}
        self.winners: dict[str, Winner | None] = dict(winners or usual)
        self.objectives = {
            name: f"More of column {', '.join(map(repr, columns))} is better."
            for name, columns in self.ratings.items()
        }
        if objective:
            self.objectives[objective] = "The chosen, or earlier ranked, response is better."

    def records(self, row: Mapping[str, Any], origin: str) -> list[Outcome]:
        """Return the row's comparison or ratings; none if `winners` says that it is no example."""
        fields: dict[str, Any] = {
            "id": read_name(row, self.id, origin),
            "group": read_name(row, self.group, origin),
            "metadata": {SUBSET: read_cell(row, self.subset, origin)} if self.subset else {},
            "origin": origin,
        }
        if self.first and self.second:
            return self._judged(row, (self.first, self.second), fields)
        if self.chosen and self.rejected:
            return [self._preferred(row, self.chosen, self.rejected, fields)]
        if self.response:
            prompt, texts = self._texts(
                row, {self.response: read_cell(row, self.response, origin)}, origin
            )
            cells = {column: read_cell(row, column, origin) for column in self._rated()}
            return [self._rating(prompt, texts[0], cells, fields)]
        return self._several(row, fields)

    def _texts(
        self, row: Mapping[str, Any], cells: Mapping[str, Any], origin: str
    ) -> tuple[Any, list[Any]]:
        """Return the prompt and the responses that cells hold."""
        prompt = None
        if self.prompt is not None:
            prompt = read_prompt(row, self.prompt, origin)
            if prompt is None:
                raise wrong_field(self.prompt, "text or a list of messages", None, origin)
        prompt, texts = split_replies(prompt, cells, origin)
        return offer_tools(prompt, row, self.tools, origin), texts

    def _rated(self) -> list[str]:
        """Return the columns of ratings."""
        return [column for columns in self.ratings.values() for column in columns]

    def _rating(
        self, prompt: Any, text: Any, cells: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> Rating:
        """Return the rating of a response by the cells of the columns of ratings."""
        depth = int(bool(self.responses))
        opinions = {
            name: [
                opinion
                for column in columns
                for opinion in self.meanings[name].numbers(
                    said_by_each(cells[column], column, depth), column, fields["origin"]
                )
            ]
            for name, columns in self.ratings.items()
        }
        values = {name: mean_opinion(said) for name, said in opinions.items()}
        several = {name: said for name, said in opinions.items() if len(said) > 1}
        metadata = {**fields["metadata"], **({GRADES: several} if several else {})}
        return Rating(prompt, text, values, **{**fields, "metadata": metadata})

    def _judged(
        self, row: Mapping[str, Any], pair: tuple[str, str], fields: dict[str, Any]
    ) -> list[Outcome]:
        """Return the comparison of two responses of which other columns say which is better."""
        origin = fields["origin"]
        verdicts = [
            read_winner(cell, self.winners, column, origin)
            for column in self.better
            for cell in said_by_each(read_cell(row, column, origin), column)
        ]
        known = [verdict for verdict in verdicts if verdict is not None]
        if not known:
            return []
        better = majority(known)
        cells = {column: read_cell(row, column, origin) for column in pair}
        prompt, texts = self._texts(row, cells, origin)
        if len(verdicts) > 1:
            fields = fields | {"metadata": fields["metadata"] | {VERDICTS: signed(known)}}
        judged = judged_pair(
            prompt,
            (texts[0], texts[1]),
            None if better == "tie" else better,
            votes=votes(known) if len(verdicts) > 1 else None,
            strength=None if better == "tie" else self._margin(row, origin),
            objective=str(self.objective),
            **fields,
        )
        return [judged]

    def _preferred(
        self, row: Mapping[str, Any], chosen: str, rejected: str, fields: dict[str, Any]
    ) -> Comparison:
        """Return the comparison of a chosen and a rejected response, or of lists of them."""
        origin = fields["origin"]
        refuse_contradictions(row, chosen, rejected, origin, self.ignore)
        cells: dict[str, Any] = {}
        ranks: list[int] = []
        for rank, column in enumerate((chosen, rejected)):
            listed = _texts_of(column, read_cell(row, column, origin))
            cells |= listed
            ranks += [rank] * len(listed)
        prompt, texts = self._texts(row, cells, origin)
        strength = self._margin(row, origin)
        about = str(self.objective)
        return Comparison(prompt, texts, ranks, objective=about, strength=strength, **fields)

    def _several(self, row: Mapping[str, Any], fields: dict[str, Any]) -> list[Outcome]:
        """Return the ranking, or the ratings, of a list of responses."""
        origin = fields["origin"]
        cells = _items(row, self.responses or "", origin)
        prompt, texts = self._texts(row, cells, origin)
        if self.ratings:
            rated = {name: _one_each(row, name, len(texts), origin) for name in self._rated()}
            return [
                self._rating(
                    prompt,
                    text,
                    {name: cells[index] for name, cells in rated.items()},
                    _numbered(fields, index),
                )
                for index, text in enumerate(texts)
            ]
        ranks = self._ranks(row, len(texts), origin)
        texts = [text for text, rank in zip(texts, ranks, strict=True) if rank is not None]
        known = [rank for rank in ranks if rank is not None]
        return [Comparison(prompt, texts, known, objective=str(self.objective), **fields)]

    def _ranks(self, row: Mapping[str, Any], count: int, origin: str) -> list[int | None]:
        """Return the rank of each response, 0 for the best; `None` for one without a score."""
        if self.ranks:
            cells = _one_each(row, self.ranks, count, origin)
            ranks = [whole_number(cell) for cell in cells]
            if None in ranks:
                raise wrong_field(str(self.ranks), "whole numbers", cells, origin)
            base = 1 if 0 not in ranks else 0
            return [rank - base for rank in ranks if rank is not None]
        cells = _one_each(row, self.scores or "", count, origin)
        scores = [read_number(cell, str(self.scores), origin) for cell in cells]
        order = sorted({score for score in scores if score is not None}, reverse=True)
        return [None if score is None else order.index(score) for score in scores]

    def _margin(self, row: Mapping[str, Any], origin: str) -> float | None:
        if self.margin is None:
            return None
        return read_number(read_cell(row, self.margin, origin), self.margin, origin)

    def _check(self, winners: Mapping[str, Any] | None) -> None:
        """Refuse options that do not say what the responses are, or that say it twice."""
        pair, judged = (self.chosen, self.rejected), (self.first, self.second, self.better)
        kinds = [any(columns) for columns in ((self.response,), pair, judged, self.responses or ())]
        whole = any(pair) == all(pair) and any(judged) == all(judged)
        if sum(kinds) != 1 or not whole:
            raise ConfigError("the columns of the responses are wrong", expected=_KINDS)
        of_lists = [bool(self.ranks), bool(self.scores), bool(self.responses and self.ratings)]
        if sum(of_lists) != bool(self.responses):
            raise ConfigError("the columns of the responses are wrong", expected=_KINDS)
        rates = bool(self.response) or of_lists[2]
        if bool(self.objective) == rates:
            raise ConfigError("`objective` names what comparisons and rankings are about")
        if (self.ratings and not rates) or (self.margin and not any(pair) and not any(judged)):
            raise ConfigError("`ratings` go with `response` or `responses`, `margin` with pairs")
        if (winners and not any(judged)) or (self.ignore and not any(pair)):
            raise ConfigError("`winners` go with `better`, `ignore` with `chosen` and `rejected`")


def _listed(columns: str | Sequence[str] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def _texts_of(column: str, cell: Any) -> dict[str, Any]:
    """Return the texts of a cell that lists several, or the cell as the only one."""
    if isinstance(cell, list | tuple) and not is_conversation(cell):
        return {f"{column}.{index}": text for index, text in enumerate(cell)}
    return {column: cell}


def _items(row: Mapping[str, Any], columns: str | list[str], origin: str) -> dict[str, Any]:
    """Return the items of a column that holds a list, or of several columns, by name."""
    if isinstance(columns, str):
        listed = read_list(row, columns, origin)
        return {f"{columns}.{index}": cell for index, cell in enumerate(listed)}
    return {column: read_cell(row, column, origin) for column in columns}


def _one_each(
    row: Mapping[str, Any], columns: str | list[str], count: int, origin: str
) -> list[Any]:
    """Return the cells that there are for each response, as many."""
    cells = list(_items(row, columns, origin).values())
    if len(cells) != count:
        raise wrong_field(str(columns), f"{count} cells, one per response", cells, origin)
    return cells


def _numbered(fields: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the fields of one record of several of a row."""
    name = fields["id"]
    return {**fields, "id": f"{name}.{index}" if name else ""}
