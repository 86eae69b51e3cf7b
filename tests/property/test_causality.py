"""Editing a step never changes the score of a step before it."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TREE_FAMILIES, columns_alone, columns_packed, tiny_model

from prm.records import Chain

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

model_of = functools.cache(tiny_model)


steps = st.text("0123456789+-*/= x\n", min_size=1, max_size=8).filter(str.strip)
chains = st.lists(steps, min_size=2, max_size=5)


@pytest.mark.parametrize("family", [*TREE_FAMILIES, "gemma2"])
@given(chains, steps, st.data())
@settings(max_examples=6)
def test_editing_a_step_never_changes_earlier_scores(
    family: str, texts: list[str], edit: str, data: st.DataObject
) -> None:
    model = model_of(family)
    index = data.draw(st.integers(0, len(texts) - 1))
    edited = [*texts[:index], edit, *texts[index + 1 :]]
    before = columns_alone(model, Chain("1 + 1 = ?", texts))
    after = columns_alone(model, Chain("1 + 1 = ?", edited))
    torch.testing.assert_close(before[:index], after[:index], **TOLERANCE)
    packed = columns_packed(model, [Chain("1 + 1 = ?", t) for t in (texts, edited)])
    torch.testing.assert_close(packed[0], before, **TOLERANCE)
    torch.testing.assert_close(packed[1], after, **TOLERANCE)


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_editing_a_step_does_change_its_own_and_later_scores(family: str) -> None:
    model = model_of(family)
    before = columns_alone(model, Chain("1 + 1 = ?", ["1 + 1 = 2", "so 2", "done"]))
    after = columns_alone(model, Chain("1 + 1 = ?", ["1 + 1 = 2", "so 7", "done"]))
    torch.testing.assert_close(before[0], after[0], **TOLERANCE)
    assert ((before - after).abs()[1:] > 1e-4).all()


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_tokens_after_the_read_position_do_not_matter(family: str) -> None:
    model = model_of(family)
    short = columns_alone(model, Chain("1 + 1 = ?", ["1 + 1 = 2"]))
    for later in ("", "x", "wrong wrong wrong", "1 + 1 = 2"):
        longer = columns_alone(model, Chain("1 + 1 = ?", ["1 + 1 = 2", later]))
        torch.testing.assert_close(longer[:1], short, **TOLERANCE)


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_a_sibling_never_matters(family: str) -> None:
    """Branches of one prompt do not see each other."""
    model = model_of(family)
    chain = Chain("1 + 1 = ?", ["1 + 1 = 2", "so 2"])
    alone = columns_alone(model, chain)
    for sibling in ("1 + 1 = 3", "999"):
        packed = columns_packed(model, [Chain("1 + 1 = ?", [sibling]), chain])
        torch.testing.assert_close(packed[1], alone, **TOLERANCE)
