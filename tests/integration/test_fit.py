"""`prm fit`, `validate`, `test`, `predict`: what they write, and that one number is on every surface."""
from __future__ import annotations
from pathlib import Path
import pytest
from tests.runs import *

def test_a(run_dir):
    write_data(run_dir)
    run = fit(run_dir)
    print(sorted(run.rglob("*")))
def test_b(run_dir):
    write_data(run_dir)
    run = fit(run_dir)
