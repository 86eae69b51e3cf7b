"""Configuration of the documentation: `make docs`."""

from __future__ import annotations

import prm

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
    (r"py:class", r"prm\.data\.prompts\.DroppedRecord"),
    (r"py:class", r"prm\.models\.cached_attention\.CachedLayout"),
]
