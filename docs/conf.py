"""Settings of the documentation site, which `make docs` builds in build/docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fused_rnn

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "fused_rnn"
author = "fused_rnn contributors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = fused_rnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"fused_rnn {release}"
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}

# Pages are Markdown as GitHub shows it; links go to headings too.
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_ambiguous"]

# Docstrings have single backticks for code, and sections of their own.
default_role = "literal"
highlight_language = "text"  # of a block that does not say
smartquotes = False  # a prime is no quote
napoleon_custom_sections = [("Called with", "params_style"), ("Warns", "params_style")]
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Device", "DType", "Nonlinearity")}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Every reference of this package's own must lead somewhere; those into torch, numpy and Python need their sites.
nitpick_ignore_regex = [("py:.*", r"(?!fused_rnn\.).*|fused_rnn\.(_|modules\.|convert\._|quantized\._|stepper\.).*")]

linkcheck_anchors = False

TABLES = "../bench/results/tables.md"  # outside of docs, and so a page of its own here


def _link_to_runs(_app: Sphinx, name: str, source: list[str]) -> None:
    """Links to the tables of the runs lead to their page."""
    up = "../" * name.count("/")
    source[0] = source[0].replace(f"]({up}{TABLES}", f"]({up}runs.md")


def _colour_examples(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Of the indented blocks of docstrings those after `Example` are Python; the others are formulas."""
    for index in reversed(range(len(lines))):
        if lines[index] == "Example::":
            lines[index : index + 1] = ["Example:", "", ".. code-block:: python"]


def _keep_colons(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """An attribute's docstring begins with words, which napoleon takes for a type up to a colon in its first line."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # a comment, which has no colon


def setup(app: Sphinx) -> None:
    """Connect the three above."""
    app.connect("source-read", _link_to_runs)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)
    app.connect("autodoc-process-docstring", _colour_examples, priority=600)
