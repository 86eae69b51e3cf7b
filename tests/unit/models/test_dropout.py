"""Dropout and jitter are off in training: a score is that of evaluation."""

from __future__ import annotations

import pytest
import torch

from prm.errors import ModelError
from prm.models.backbone import Backbone
from prm.models.dropout import turn_off_dropout
from prm.models.probe import change
from tests.families import build, noise, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.arange(80, 130)[None]
CALLED_WITH_NUMBERS = (
    "biogpt",
    "bloom",
    "codegen",
    "ctrl",
    "dbrx",
    "deberta-v2",
    "falcon",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "mixtral",
    "mpt",
    "opt",
    "seed_oss",
    "xglm",
)
"""Families that call dropout, drop layers or shake routers with numbers of their own."""


@torch.no_grad()
@pytest.mark.parametrize("family", CALLED_WITH_NUMBERS)
def test_training_gives_what_evaluation_gives(family: str) -> None:
    model = build(tiny_config(family, **noise(family)))
    expected = model(input_ids=IDS, use_cache=False).last_hidden_state
    random = model.train()(input_ids=IDS, use_cache=False).last_hidden_state
    assert change(expected, random) > 1e-3
    turn_off_dropout(model)
    for training in (False, True):
        got = model.train(training)(input_ids=IDS, use_cache=False).last_hidden_state
        assert change(expected, got) < 1e-6
    Backbone(model.train(), 64, encoders=True).check(torch.device("cpu"))


def test_no_configuration_keeps_what_a_copy_would_drop_again() -> None:
    model = build(tiny_config("opt", **noise("opt")))
    turn_off_dropout(model)
    assert model.config.dropout == model.config.layerdrop == 0.0


@torch.no_grad()
def test_a_threshold_called_jitter_stays_and_random_routing_is_refused() -> None:
    model = build(tiny_config("phimoe", **noise("phimoe")))
    expected = model(input_ids=IDS, use_cache=False).last_hidden_state
    backbone = Backbone(model, 64)
    assert (model.config.router_jitter_noise, model.config.input_jitter_noise) == (0.3, 0.0)
    assert model(input_ids=IDS, use_cache=False).last_hidden_state.equal(expected)
    backbone.check(torch.device("cpu"))
    model.train()
    with pytest.raises(ModelError, match="PhimoeModel gives random numbers in training mode"):
        backbone.check(torch.device("cpu"))
