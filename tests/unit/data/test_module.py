"""What data modules read, and how they split it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prm.data.formats.outcomes import Outcomes
from prm.data.module import RecordDataModule
from prm.data.sources.source import Source
from prm.errors import ConfigError


def source(path: Path, name: str, num_rows: int) -> Source:
    rows = [
        {"id": f"{name}-{index}", "prompt": f"{name} {index}", "response": "a", "values": {"x": 1}}
        for index in range(num_rows)
    ]
    file = path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(str(file), Outcomes())


def test_another_test_set_leaves_the_training_split_alone(tmp_path: Path) -> None:
    train, other = source(tmp_path, "train", 20), source(tmp_path, "other", 3)
    own = RecordDataModule(train=[train], test_share=0.25)
    foreign = RecordDataModule(train=[train], test=[other], test_share=0.25)
    for data in (own, foreign):
        data.setup("fit")
        data.setup("test")
    assert len(own.units["test"]) == 5
    assert {unit.source for unit in foreign.units["test"]} == {"other"}
    assert own.units["train"] == foreign.units["train"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path, stored: bool) -> None:
    rows = [
        {"id": f"{n}", "prompt": prompt, "response": "a", "values": {"x": 1}, "group": f"{n}"}
        for n, prompt in enumerate(["What is 2 × 3?", r"What is $2 \times 3$?", "what is 2*3"])
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    store = tmp_path / "store" if stored else None
    data = RecordDataModule(train=[Source(str(file), Outcomes())], store=store)
    with pytest.raises(ConfigError, match=r"leaves nothing to train on.*got 3 response sets"):
        data.setup("fit")
