"""The tables of docs/reference/backbones.md: how each family of transformers runs, and why.

`python -m tests.backbones_table` writes them anew, with the transformers that is installed.
"""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers

from prm.errors import ModelError
from prm.markdown import table
from prm.models.backbone import Backbone, evaluating
from prm.models.probe import Finding, probe
from tests.families import NOT_BUILT, build, default_config, families, tiny_config

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/backbones.md"
MARK = "<!-- made by python -m tests.backbones_table with transformers {version} -->"

NO_LIMIT = 2**20
"""A `max_length` over every window."""

Group = Literal["decoder", "encoder", "refused"]
HEADINGS: dict[Group, str] = {
    "decoder": "Decoders",
    "encoder": "Encoders",
    "refused": "Refused",
}


@dataclass(frozen=True, slots=True)
class Row:
    """How a family runs."""

    family: str
    group: Group
    runs: str
    why: str


def version() -> str:
    """Return major and minor version of the installed transformers."""
    return ".".join(transformers.__version__.split(".")[:2])


def row(family: str) -> Row:
    """Build a tiny model of a family, and find out how it runs."""
    if family in NOT_BUILT:
        return Row(family, "refused", "", NOT_BUILT[family])
    config = default_config(family)
    if config.is_encoder_decoder:
        return Row(family, "refused", "", "an encoder-decoder")
    model = build(tiny_config(family))
    try:
        backbone = Backbone(model, NO_LIMIT, encoders=True)
        finding = _probe(backbone)
        window = re.fullmatch(r"its attention window of (\d+) .*", finding.why_not_tree or "")
        if window is not None:
            backbone.max_length = int(window[1])
            finding = _probe(backbone)
    except ModelError as error:
        got = "" if error.got is None else f": {error.got}"
        return Row(family, "refused", "", f"{error.problem}{got}")
    if finding.is_encoder:
        pooler = " or `pooler`" if getattr(model, "pooler", None) is not None else ""
        return Row(family, "encoder", _rows(finding), f"`last`, `mean`{pooler}")
    if finding.why_not_tree is not None:
        return Row(family, "decoder", _rows(finding), finding.why_not_tree)
    limit = "" if window is None else f"up to a `max_length` of {int(window[1]):,}, its window"
    return Row(family, "decoder", "tree", limit)


def _probe(backbone: Backbone) -> Finding:
    with evaluating(backbone.model):
        return probe(backbone, torch.device("cpu"))


def _rows(finding: Finding) -> str:
    return "rows of equal length" if finding.padding_leaks else "rows"


def rows() -> list[Row]:
    """Return how all families run."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [row(family) for family in families()]


def tables(rows: list[Row]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for group, heading in HEADINGS.items():
        own = [one for one in rows if one.group == group]
        names = [f"`{one.family}`" for one in own]
        if group == "refused":
            cells = [[name, one.why] for name, one in zip(names, own, strict=True)]
            head = ["family", "why"]
        else:
            cells = [[name, one.runs, one.why] for name, one in zip(names, own, strict=True)]
            head = ["family", "runs as", "`read_at`" if group == "encoder" else "why"]
        parts.append(f"## {heading}\n\n{table(head, cells, range(len(head)))}\n")
    return "\n".join(parts)


def page(text: str, rows: list[Row]) -> str:
    """Return the page with new tables; what stands above them stays."""
    start = re.search(re.escape(MARK).replace(r"\{version\}", r"[\d.]+"), text)
    assert start is not None, f"{PAGE} has no line {MARK}"
    return f"{text[: start.start()]}{MARK.format(version=version())}\n\n{tables(rows)}"


def main() -> None:
    """Write the page."""
    logging.disable(logging.WARNING)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
