"""Origins of ids: all of them come back, whatever they look like and however many there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prm.data.sources.origins import Origins

places = st.one_of(
    st.builds("{}:{}".format, st.text(max_size=5), st.integers(0, 10**12)),
    st.builds("file[{}][{}]".format, st.text("ab", max_size=3), st.integers(0, 99)),
    st.text("a01]:\u0663", max_size=6),
)


@given(st.lists(st.tuples(st.text(max_size=2), places), max_size=40), st.integers(1, 5))
def test_the_first_origin_of_an_id_is_known(rows: list[tuple[str, str]], recent: int) -> None:
    """As of a dictionary, whenever ids move from the recent ones to the sorted ones."""
    known: dict[str, str] = {}
    found = Origins(recent)
    for name, origin in rows:
        assert found.first(name, origin) == known.get(name)
        known.setdefault(name, origin)


def test_ids_are_kept_apart_by_source() -> None:
    found = Origins()
    assert found.first(("a", "1"), "a.jsonl:1") is None
    assert found.first(("b", "1"), "b.jsonl:1") is None
    assert found.first(("a", "1"), "a.jsonl:2") == "a.jsonl:1"
