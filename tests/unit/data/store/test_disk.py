"""The record store: what goes in comes out, once, whole, and for the same data only."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.data.formats.hf_stepwise import HFStepwise
from prm.data.items import Facts, Reading
from prm.data.sources.source import Source
from prm.data.splits import split_by_group
from prm.data.store import disk as store_module
from prm.data.store.disk import RecordStore
from prm.data.store.memory import MemoryStore
from prm.data.store.rows import unit_from_text, unit_text
from prm.errors import DataError, OutputError
from prm.records import Chain, Comparison, Rating
from prm.spec import RewardSpec, Template
from prm.trees.identity import add_marker, identity
from prm.trees.tokenize import TreeBuilder
from prm.trees.units import ResponseSet, Unit
from tests.runs import write_arithmetic
from tests.tiny_models import tiny_tokenizer

CHAT = ({"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4", "name": "a"})
PAIR = Comparison("q", ["b", "a"], [1, 0], objective="safety", strength=0.5, votes=[1, 2], id="p")
UNITS: list[Unit] = [
    Chain(
        "2 + 2?", ["", "4"], [None, 1], id="a", source="s", origin="f:1", metadata={"n": [1, {}]}
    ),
    Chain(CHAT, ["4 ∑\u2028", "so"], {"x": [0.1, 1 / 3], "y": [None, 0]}, group="ünïcode"),
    Chain("no labels", ["1"]),
    ResponseSet.of([PAIR, Rating("q", "a", {"safety": None, "style": -2.5}, id="r")]),
    ResponseSet.of([Comparison("q", ["a", "b", "c"], [0, 0, 1], objective="style")]),
    ResponseSet.of([Comparison(CHAT, ["same", "same"], objective="style")]),
    ResponseSet.of([Rating("much too long " * 40, "r")]),
    Chain("short", ["3", "1 + 1 = 2 " * 30], [1, 0]),
]


class Listed(Reading):
    """Units that are listed, instead of read."""

    def __init__(self, units: list[Unit], name: str = "") -> None:
        super().__init__((), (), print)
        object.__setattr__(self, "listed", (units, name))

    def __iter__(self) -> Any:
        return iter(self.listed[0])  # type: ignore[attr-defined]

    def identity(self) -> list[Any]:
        return [self.listed[1]]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def builder() -> TreeBuilder:
    return make_builder()


def make_builder(**options: Any) -> TreeBuilder:
    found = tiny_tokenizer()
    spec = RewardSpec(max_length=160, **options)
    add_marker(found, spec)
    return TreeBuilder(found, spec.with_(tokenizer=identity(found, spec)))


def small_store(
    folder: Path, num_workers: int = 0, say: Callable[[str], None] = print
) -> RecordStore:
    """Return a store with three units in a file, so that few units are in several."""
    return RecordStore(folder, num_workers, say, shard=3)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return small_store(tmp_path / "store")


def same_facts(first: Facts, second: Facts) -> bool:
    """Whether facts agree; equal facts may have other indices."""
    numbers = ("num_tokens", "num_truncated", "num_unusable", "digests")
    equal = [np.array_equal(getattr(first, name), getattr(second, name)) for name in numbers]
    return all(equal) and list(first) == list(second)


@pytest.mark.parametrize("unit", UNITS)
def test_units_come_back_equal(unit: Unit) -> None:
    again = unit_from_text(unit_text(unit))
    assert again == unit
    assert [record.origin for record in again.records] == [r.origin for r in unit.records]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(texts, st.lists(texts.filter(str.strip), min_size=1, max_size=4), st.data())
def test_any_chain_comes_back_equal(prompt: str, steps: list[str], data: st.DataObject) -> None:
    labels = [data.draw(st.none() | st.floats(0, 1)) for _ in steps]
    chain = Chain(prompt, steps, {"a": labels, "b": labels[::-1]}, id=prompt, origin=prompt)
    assert unit_from_text(unit_text(chain)) == chain


names = texts.filter(str.strip)


@given(texts, texts, numbers, st.dictionaries(names, st.none() | numbers, max_size=3))
def test_any_rating_comes_back_equal(
    prompt: str, response: str, strength: float, values: dict[str, float | None]
) -> None:
    rating = Rating(prompt, response, values, metadata={"strength": strength})
    unit = ResponseSet.of([rating])
    assert unit_from_text(unit_text(unit)) == unit


def test_a_store_gives_what_memory_gives(store: RecordStore, builder: TreeBuilder) -> None:
    expected, facts, dropped = MemoryStore().items(UNITS, builder)
    assert dropped
    assert facts.num_truncated.any()
    assert facts.num_unusable.any()
    units = store.units(Listed(UNITS))
    for _ in range(2):  # built, and found
        found, own, lost = store.items(units, builder)
        assert (list(units), list(found), list(lost)) == (UNITS, expected, dropped)
        assert same_facts(facts, own)
        assert own.sources(chains=True) == facts.sources(chains=True) == {"s", ""}


def test_views_are_sequences(store: RecordStore, builder: TreeBuilder) -> None:
    items, facts, _ = store.items(store.units(Listed(UNITS)), builder)
    whole = list(items)
    assert items[-1] == whole[-1]
    assert list(items[1:4]) == whole[1:4]
    chosen = np.array([3, 0])
    assert list(store.take(items, chosen)) == [whole[3], whole[0]]
    assert list(facts.take(chosen)) == [facts.known[facts.kinds[place]] for place in chosen]
    with pytest.raises(IndexError):
        items[len(whole)]


def test_a_view_is_pickled_without_its_records(store: RecordStore, builder: TreeBuilder) -> None:
    """What a worker that packs batches is started with."""
    items, _, _ = store.items(store.units(Listed(UNITS)), builder)
    whole = list(items)
    data = pickle.dumps(items)
    assert b"2 + 2?" not in data
    assert list(pickle.loads(data)) == whole


GROUP_NAMES = ["", "a", "b", "ä", "z", "Z", "\U0001f600", "\uffff", "aa"]
PROMPTS = [r"What is $2 \times 3$?", "What is 2 × 3?", "Question: What is 2*3?", "so", "2 + 3?"]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(GROUP_NAMES), st.sampled_from(PROMPTS) | st.none())))
def test_a_split_is_that_of_memory(rows: list[tuple[str, str | None]]) -> None:
    """Groups are joined where they have a problem in common, in whatever file of the store."""
    units: list[Unit] = [
        Chain(prompt or f"What is {i}?", ["1"], group=name) for i, (name, prompt) in enumerate(rows)
    ]
    shares = {"validation": 0.3, "test": 0.2}
    with tempfile.TemporaryDirectory() as folder:
        stored = small_store(Path(folder))
        found = stored.split(stored.units(Listed(units)), shares, 3)
        assert {k: list(v) for k, v in found.items()} == split_by_group(units, shares, 3)


def test_a_store_of_before_is_not_split_in_its_way(store: RecordStore, tmp_path: Path) -> None:
    units = store.units(Listed(UNITS))
    settings = json.loads((units.folder / "units.json").read_text(encoding="utf-8"))
    assert settings["splits by"] == "problem"


def test_other_data_and_other_tokens_are_built_apart(
    store: RecordStore, builder: TreeBuilder
) -> None:
    first = store.units(Listed(UNITS, "a"))
    second = store.units(Listed(UNITS[:4], "b"))
    assert (len(first), len(second)) == (8, 4)
    plain, _, _ = store.items(first, builder)
    longer, _, _ = store.items(first, make_builder(template=Template(prefix="Problem: ")))
    assert longer[0].tree.num_tokens > plain[0].tree.num_tokens
    assert store.items(first, builder)[0][0] == plain[0]


def test_a_changed_file_is_read_anew(tmp_path: Path, store: RecordStore) -> None:
    path = write_arithmetic(tmp_path / "a.jsonl", 5)
    reading = Reading([Source(str(path), HFStepwise())], (), print)
    assert len(store.units(reading)) == 5
    assert reading.identity() == reading.identity()
    write_arithmetic(path, 6)
    assert len(store.units(reading)) == 6


def test_finished_files_of_a_build_that_was_killed_are_kept(
    store: RecordStore, builder: TreeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _, _ = MemoryStore().items(UNITS, builder)
    units = store.units(Listed(UNITS))
    write = store_module.write_items
    written: list[str] = []

    def write_or_die(path: Path, items: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, items)

    monkeypatch.setattr(store_module, "write_items", write_or_die)
    with pytest.raises(KeyboardInterrupt):
        store.items(units, builder)
    written[:] = ["the second run writes one more"]
    found, _, _ = store.items(units, builder)
    assert list(found) == expected
    assert written[1:] == ["00002.arrow"]


def test_a_reading_that_fails_leaves_nothing_that_is_used(
    tmp_path: Path, store: RecordStore
) -> None:
    path = write_arithmetic(tmp_path / "a.jsonl", 5)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad"}\n')
    reading = Reading([Source(str(path), HFStepwise())], (), print)
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.jsonl:6"):
            store.units(reading)


def test_two_records_with_one_id_are_refused(tmp_path: Path, store: RecordStore) -> None:
    path = write_arithmetic(tmp_path / "a.jsonl", 5)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    with path.open("a", encoding="utf-8") as file:
        file.write(first + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:6.*same id at .*a\.jsonl:1"):
        store.units(Reading([Source(str(path), HFStepwise())], (), print))


def test_a_record_that_must_fit_stops_the_build(store: RecordStore) -> None:
    with pytest.raises(DataError, match="too long"):
        store.items(store.units(Listed(UNITS)), make_builder(on_too_long="error"))


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0damaged"])
@pytest.mark.parametrize("folder", ["units", "items"])
def test_a_damaged_file_is_refused(
    store: RecordStore, builder: TreeBuilder, damage: bytes, folder: str
) -> None:
    store.items(store.units(Listed(UNITS)), builder)
    files = sorted(store.folder.glob("*/*/00001.arrow"))
    path = next(path for path in files if (path.parent.name == "units") == (folder == "units"))
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"damaged.*Delete its folder"):
        list(store.items(store.units(Listed(UNITS)), builder)[0])


def test_a_damaged_note_is_refused(store: RecordStore) -> None:
    store.units(Listed(UNITS))
    next(store.folder.glob("*/units.json")).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        store.units(Listed(UNITS))


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write"):
        small_store(tmp_path / "file").units(Listed(UNITS))


def test_no_unit_at_all_is_a_store(store: RecordStore, builder: TreeBuilder) -> None:
    items, facts, dropped = store.items(store.units(Listed([])), builder)
    assert (len(items), len(facts), len(dropped)) == (0, 0, 0)


@pytest.mark.slow
def test_workers_write_what_one_process_writes(
    tmp_path: Path, store: RecordStore, builder: TreeBuilder
) -> None:
    helped = small_store(tmp_path / "helped", num_workers=2)
    for one in (store, helped):
        one.items(one.units(Listed(UNITS)), builder)
    for path in sorted(store.folder.rglob("*.arrow")):
        assert path.read_bytes() == (helped.folder / path.relative_to(store.folder)).read_bytes()


def _ask(folder: Path, lines: Any) -> None:
    small_store(folder, say=lines.put).units(Listed(UNITS))


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    lines = context.Queue()
    ranks = [context.Process(target=_ask, args=(tmp_path, lines)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert lines.get(timeout=10)
    assert lines.empty()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """Ten times as many records need a few numbers each, and not the records."""
    peaks = [_peak(tmp_path, count) for count in (2000, 20000)]
    assert peaks[1] - peaks[0] < 12 * 2**20  # 18,000 records in memory are about 60 MiB


def _peak(folder: Path, num_chains: int) -> int:
    """Return the peak anonymous memory of filling and reading a store, in bytes."""
    path = write_arithmetic(folder / f"{num_chains}.jsonl", num_chains)
    words = [sys.executable, __file__, str(path), str(folder / f"store-{num_chains}")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return int(json.loads(run.stdout.splitlines()[-1]))


def _fill_and_read(path: str, folder: str) -> None:
    from tests.benchmarks.million_chains import Clock

    store = RecordStore(Path(folder), 0, lambda line: None, shard=500)
    clock = Clock()
    items, _, _ = store.items(
        store.units(Reading([Source(path, HFStepwise())], (), print)), make_builder()
    )
    for index in np.random.default_rng(0).permutation(len(items)):
        assert items[index].tree
    print(int(clock.result(len(items))["peak_anonymous_mib"] * 2**20))


if __name__ == "__main__":
    _fill_and_read(*sys.argv[1:])
