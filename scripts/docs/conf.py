"""How Sphinx builds the documentation; build.py calls it."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring

import cnnstudy

project = "cnnstudy"
version = release = cnnstudy.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["cnnstudy"]  # files that pages link

# pages are written for GitHub: its anchors, its <img>
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 6

highlight_language = "none"  # of blocks that name no language: what was printed

default_role = "literal"  # `code` in docstrings
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
# of Python's names, those of the API must be found; others are of libraries or internal
nitpick_ignore_regex = [("py:.*", rf"(?!(.*\.)?({'|'.join(cnnstudy._API)})$).*")]

html_theme = "furo"
html_title = "cnnstudy"
html_copy_source = False
html_show_search_summary = False  # it would ask a server for each page that is found
html_show_copyright = False


def read_docstring(app: Sphinx, what: str, name: str, obj: object, options: dict[str, bool], lines: list[str]) -> None:
    """Turn the sections of a docstring (Args, Raises) into Sphinx's fields.

    As an extension, Napoleon would do so too, but take the words before a colon in a property's docstring for its type.
    """
    if what != "property":
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj).lines()


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", read_docstring)
