"""Configuration of the documentation: `make docs`."""

from __future__ import annotations

from typing import Any

import prm
from prm.markdown import table
from prm.metrics.binary import StepUnits
from prm.metrics.correlation import RankingUnits
from prm.metrics.first_error import ChainUnits
from prm.metrics.pairs import PairUnits
from prm.metrics.values import ValueUnits

project = "prm"
author = "the prm authors"
copyright = "the prm authors, Apache-2.0"
release = version = prm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "literal"  # docstrings write `code`
html_theme = "furo"
html_title = f"prm {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Links point into prm only: other projects' names are not looked up, so that building needs no
# network.
suppress_warnings = ["ref.python"]  # two modules may have a class of one name
nitpick_ignore_regex = [
    (r"py:.*", r"(?!prm\.).*"),
    (r"py:class", r"prm\..*\._\w+"),
    (r"py:class", r"prm\.data\.splits\.AnyUnit"),
    (r"py:class", r"prm\.metrics\.intervals\.Group"),
    (r"py:class", r"prm\.data\.prompts\.DroppedRecord"),
    (r"py:class", r"prm\.models\.cached_attention\.CachedLayout"),
]

UNITS = {
    "STEPS": (StepUnits, ChainUnits),
    "RESPONSES": (PairUnits, RankingUnits, ValueUnits),
}
DIRECTIONS = {True: "more", False: "less", None: "neither"}


def fill_in_metrics(app: Any, page: str, source: list[str]) -> None:
    """Write the metrics where a page names them in capitals, from what the metrics say."""
    for name, kinds in UNITS.items():
        rows = [
            [m.heading, f"`{m.name}`", m.unit, DIRECTIONS[m.higher_is_better], m.convention]
            for kind in kinds
            for m in kind.metrics
        ]
        head = ["metric", "key", "counted in", "better", "how it is counted"]
        source[0] = source[0].replace(f"METRICS OF {name}", table(head, rows, range(5)))


def setup(app: Any) -> None:
    """Let pages be filled in as they are read."""
    app.connect("source-read", fill_in_metrics)
