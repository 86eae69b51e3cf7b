"""Every family of transformers, as the backbone of a reward model: right whatever it is run beside.

Models are tiny, their windows and original rope lengths far below the lengths of the paths.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from prm.errors import ModelError
from prm.losses.language import next_token_loss
from prm.models.backbone import Backbone, ReadAt, evaluating
from prm.models.probe import change, probe
from prm.models.sources import Pretrained
from prm.models.structure import picks_tokens, token_embeddings
from prm.trees.packing import pack
from prm.trees.tree import Segment, TokenTree
from tests.backbones_table import MARK, PAGE, page, rows, version
from tests.families import (
    CAUSAL,
    NOT_BUILT,
    build,
    default_config,
    families,
    noise,
    randomize,
    tiny_config,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LENGTH = 192
WINDOWS = ("sliding_window", "attention_chunk_size")
ORIGINAL = 64
TOLERANCE = 2e-5


def ids(count: int, seed: int) -> tuple[int, ...]:
    """Return ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(80, 230, (count,), generator=generator).tolist())


def forest(edit: int = 0) -> list[TokenTree]:
    """Return trees whose paths are longer than windows; an edit is in the last branch alone."""
    forked = TokenTree(
        (
            Segment(ids(60, 1)),
            Segment(ids(37, 2), 0, (36,)),
            Segment(ids(50, 3), 0),
            Segment(ids(9, 4), 2, (8,)),
            Segment(ids(41, 5 + edit), 2, (40,)),
        )
    )
    return [
        forked,
        TokenTree((Segment(ids(5, 11), reads=(4,)),)),
        TokenTree((Segment(ids(45, 12), reads=(44,)),)),
    ]


def variants(family: str) -> list[str]:
    """Return what a family is tried with."""
    config = default_config(family).get_text_config()
    names = ["default"]
    if any(vars(config).get(name) for name in WINDOWS):
        names.append("window")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "default":
        names += ["longrope", "dynamic"]
    return names


@functools.cache
def cases() -> list[tuple[str, str]]:
    """Return all families with what they are tried with."""
    found = []
    for family in families():
        if family not in NOT_BUILT and not default_config(family).is_encoder_decoder:
            found += [(family, variant) for variant in variants(family)]
    return found


def model_of(family: str, variant: str, window: int = 24) -> PreTrainedModel:
    """Build a tiny model."""
    fields: dict[str, Any] = {}
    plain = build(tiny_config(family))
    config = plain.config.get_text_config()
    if variant == "window":
        fields = {name: window for name in WINDOWS if vars(config).get(name)}
    elif variant in ("longrope", "dynamic"):
        size = next(len(b) for name, b in plain.named_buffers() if name.endswith("inv_freq"))
        scaled: dict[str, Any] = {**config.rope_parameters, "rope_type": variant, "factor": 4.0}
        if variant == "longrope":
            scaled |= {
                "short_factor": [1.0 + 0.1 * i for i in range(size)],
                "long_factor": [1.0 + 0.7 * i for i in range(size)],
                "original_max_position_embeddings": ORIGINAL,
            }
            scaled |= {"short_mscale": 1.0, "long_mscale": 1.2}
        fields = {"rope_parameters": scaled}
        if variant == "dynamic":
            fields["max_position_embeddings"] = ORIGINAL
        elif hasattr(config, "original_max_position_embeddings"):
            fields["original_max_position_embeddings"] = ORIGINAL
    return build(tiny_config(family, **fields))


def read_alone(backbone: Backbone, tree: TokenTree) -> list[Tensor]:
    """Return the states at the reads of a tree, each path a tree of its own."""
    packed = pack([tree])
    found = []
    for path in packed.paths():
        tokens = tuple(packed.input_ids[path].tolist())
        alone = TokenTree((Segment(tokens, reads=(len(tokens) - 1,)),))
        found.append(backbone(pack([alone]))[0][0])
    return found


@torch.no_grad()
@pytest.mark.parametrize(("family", "variant"), cases())
def test_a_family_gives_each_path_what_it_gives_it_alone(family: str, variant: str) -> None:
    if variant == "default":
        model = build(tiny_config(family))
    else:
        try:
            model = model_of(family, variant)
        except Exception as error:
            pytest.skip(f"has no such variant: {type(error).__name__}")
    try:
        backbone = Backbone(model, LENGTH, encoders=True)
        backbone.check(torch.device("cpu"))
    except ModelError as error:
        pytest.skip(f"refused: {error.problem}")
    trees = forest()
    packed, states = backbone(pack(trees))
    alone = torch.stack([state for tree in trees for state in read_alone(backbone, tree)])
    assert change(alone, packed) < TOLERANCE, backbone.mode
    again, _ = backbone(pack([trees[1]]))
    assert change(alone[3:4], again) < TOLERANCE, "what was run before matters"
    if backbone.mode == "encoder":
        return
    _, edited = backbone(pack(forest(edit=20)))
    before = slice(0, 60 + 37 + 50 + 9)
    assert change(states[before], edited[before]) < TOLERANCE, "a later step is seen"
    cut = pack([TokenTree((Segment(ids(60, 1)), Segment(ids(20, 2), 0)))])
    _, shorter = backbone(cut)
    assert change(states[:80], shorter) < TOLERANCE, "it matters that later tokens come"
    if variant in ("default", "window"):
        stock = model_of(family, variant)
        stock.set_attn_implementation("eager")
        for tree in trees:
            path = pack([tree]).paths()[0]
            tokens = pack([tree]).input_ids[path][None]
            expected = stock(input_ids=tokens, use_cache=False).last_hidden_state[0, -1]
            got = read_alone(backbone, tree)[0]
            assert change(expected, got) < TOLERANCE, "stock transformers gives other states"


@torch.no_grad()
@pytest.mark.parametrize("family", [family for family, variant in cases() if variant == "window"])
def test_paths_as_long_as_a_window_share_their_prompts_exactly(family: str) -> None:
    """A window that is one token shorter than it is taken for would change scores unseen."""
    try:
        model = model_of(family, "window", 60)
    except Exception as error:
        pytest.skip(f"has no such variant: {type(error).__name__}")
    backbone = Backbone(model, LENGTH, encoders=True)
    try:
        with evaluating(model):
            reason = probe(backbone, torch.device("cpu")).why_not_tree or ""
    except ModelError as error:
        pytest.skip(f"refused: {error.problem}")
    window = re.fullmatch(r"its attention window of (\d+) .*", reason)
    if window is None:
        pytest.skip(f"no window decides: {reason or 'an encoder'}")
    length = backbone.max_length = int(window[1])
    backbone.check(torch.device("cpu"))
    if backbone.mode != "tree":
        pytest.skip("it has no tree without the window either")
    tree = TokenTree(
        (Segment(ids(9, 1)), Segment(ids(length - 9, 2), 0), Segment(ids(length - 9, 3), 0))
    )
    packed = pack([tree])
    _, states = backbone(packed)
    stock = model_of(family, "window", 60)
    stock.set_attn_implementation("eager")
    for path in packed.paths():
        expected = stock(input_ids=packed.input_ids[path][None], use_cache=False)
        assert change(expected.last_hidden_state[0], states[path]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("family", [family for family, variant in cases() if variant == "default"])
def test_training_gives_what_evaluation_gives(family: str) -> None:
    """Whatever dropout and jitter a configuration names, states in training are those without."""
    model = build(tiny_config(family, **noise(family)))
    tokens = torch.tensor(ids(50, 7))[None]
    try:
        backbone = Backbone(model, LENGTH, encoders=True)
        backbone.check(torch.device("cpu"))
        backbone.set_attention("sdpa")
        stock = build(tiny_config(family, **noise(family)))
        expected = stock(input_ids=tokens, use_cache=False).last_hidden_state
        model.train()
        backbone.check(torch.device("cpu"))
    except ModelError as error:
        pytest.skip(f"refused: {error.problem}")
    for training in (False, True):
        got = model.train(training)(input_ids=tokens, use_cache=False).last_hidden_state
        assert change(expected, got) < 1e-6


HEAD_FIELDS = {
    "dim_model_base": 8,
    "final_logit_softcapping": 3.0,
    "lm_head_multiplier": 0.5,
    "logit_scale": 0.25,
    "logits_scaling": 8.0,
    "output_router_logits": True,
}
"""What scales or caps logits, and what stock losses of experts are added by."""


@torch.no_grad()
@pytest.mark.parametrize("family", [one for one in sorted(CAUSAL) if (one, "default") in cases()])
def test_the_regularizer_is_the_loss_of_the_stock_language_model(
    family: str, tmp_path: Path
) -> None:
    known = vars(default_config(family))
    fields = {name: value for name, value in HEAD_FIELDS.items() if name in known}
    try:
        config = tiny_config(family, **fields)
        config.architectures = config.architectures or []
        model = randomize(AutoModelForCausalLM.from_config(config))
    except Exception as error:
        pytest.skip(f"cannot be built: {type(error).__name__}")
    model.save_pretrained(tmp_path)
    source = Pretrained(str(tmp_path))
    tokens = torch.tensor(ids(70, 9))
    try:
        backbone = Backbone(source.model(tiny_tokenizer()), LENGTH)
        states = backbone(pack([TokenTree((Segment(tuple(tokens.tolist())),))]))[1]
        head = source.language_head(tiny_tokenizer())
    except ModelError as error:
        pytest.skip(f"refused: {error.problem}")
    assert states is not None
    embeddings = token_embeddings(backbone.model)
    sources = torch.arange(len(tokens) - 1)
    loss = next_token_loss(states, lambda one: head(one, embeddings), tokens[1:], sources, 16)
    model.config.output_router_logits = False
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def reading_modes() -> list[tuple[str, ReadAt]]:
    """Return every family with every way to read it."""
    modes: tuple[ReadAt, ...] = ("last", "mean", "pooler")
    return [(one, mode) for one, variant in cases() if variant == "default" for mode in modes]


@pytest.mark.parametrize(("family", "read_at"), reading_modes())
def test_what_is_trained_has_a_gradient(family: str, read_at: ReadAt) -> None:
    """Data-parallel training waits for the gradient of every trained weight."""
    model = build(tiny_config(family)).train()
    try:
        backbone = Backbone(model, LENGTH, read_at=read_at, encoders=True)
        backbone.check(torch.device("cpu"))
        unused = backbone.unused_weights()
    except ModelError as error:
        pytest.skip(f"refused: {error.problem}")
    if picks_tokens(model):
        pytest.skip("it uses some weights for long texts only")
    reads, _ = backbone(pack(forest()))
    reads.square().sum().backward()
    trained = [item for item in model.named_parameters() if item[1].requires_grad]
    without = [name for name, weight in trained if weight.grad is None]
    assert sorted(unused) == sorted(without)


def test_the_page_says_how_each_family_runs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if MARK.format(version=version()) not in text:
        pytest.skip("the page was made with another transformers")
    differing = sorted(set(text.splitlines()) ^ set(page(text, rows()).splitlines()))
    assert not differing, "python -m tests.backbones_table writes the page anew"
