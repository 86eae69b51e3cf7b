"""A server of tiny models that all tests of protocols share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.served_models import Served, chat_tokenizer, save_models, serving


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a saved model of each kind."""
    root = tmp_path_factory.mktemp("models")
    save_models(root)
    return root


@pytest.fixture(scope="session")
def served(model_root: Path) -> Iterator[Served]:
    """The server; without the policy's tokenizer."""
    with serving(model_root) as found:
        yield found


@pytest.fixture(scope="session")
def served_policy(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that knows the policy's tokenizer and rewards empty responses with -5."""
    folder = tmp_path_factory.mktemp("policy")
    chat_tokenizer().save_pretrained(folder)
    with serving(model_root, policy_tokenizer=str(folder), empty_reward=-5.0) as found:
        yield found
