"""Errors say what was expected, what came, where, and what to do."""

from __future__ import annotations

import pickle

import pytest

from prm.errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    ModelError,
    OutputError,
    PrmError,
    SpecError,
)

BUILT_IN = {
    DataError: ValueError,
    SpecError: ValueError,
    ConfigError: ValueError,
    ModelError: ValueError,
    OutputError: OSError,
    MissingDependencyError: ImportError,
}


def test_all_parts_are_told_in_reading_order() -> None:
    error = DataError("bad label", expected="0 or 1", got=7, where="a.jsonl:3", fix="Remove it")
    assert str(error) == "a.jsonl:3: bad label: expected 0 or 1, got 7. Remove it"


def test_absent_parts_leave_no_trace() -> None:
    assert str(PrmError("broken")) == "broken"
    assert str(PrmError("broken", fix="Mend it")) == "broken. Mend it"
    assert str(PrmError("broken", got=0)) == "broken: got 0"


def test_long_values_are_cut_to_200_characters() -> None:
    shown = str(PrmError("long", got="x" * 1000)).removeprefix("long: got ")
    assert len(shown) == 200
    assert shown.endswith("x...")


def test_at_puts_the_outer_place_in_front() -> None:
    error = DataError("bad", where="field 'labels'").at("a.jsonl:3")
    assert str(error) == "a.jsonl:3: field 'labels': bad"
    assert str(DataError("bad").at("a.jsonl:3")) == "a.jsonl:3: bad"


@pytest.mark.parametrize(("cls", "built_in"), BUILT_IN.items())
def test_every_class_is_caught_by_its_built_in(cls: type[PrmError], built_in: type) -> None:
    error = cls("broken", expected="whole", got="half", where="here", fix="Mend it")
    assert isinstance(error, built_in)
    assert isinstance(error, PrmError)
    assert str(error) == "here: broken: expected whole, got half. Mend it"


@pytest.mark.parametrize("cls", [PrmError, *BUILT_IN])
def test_errors_survive_pickling_between_processes(cls: type[PrmError]) -> None:
    error = cls("broken", expected="whole", got="half", where="here", fix="Mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert (copy.problem, copy.got, copy.where) == ("broken", "half", "here")
