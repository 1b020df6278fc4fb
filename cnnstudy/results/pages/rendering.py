"""Render the templates as self-contained pages."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

#: Between two sentences.
_SENTENCES = re.compile(r"(?<=\.)(?<!vs\.) +(?=[A-Z0-9])")


@dataclass(frozen=True)
class Drawn:
    """A figure inside the page."""

    group: str  # the network, or "" for all
    name: str  # of its files, without suffix
    svg: Markup
    caption: str = ""


def render(template: str, **values: Any) -> str:
    """Render a template of this package as HTML.

    Values are escaped, style sheet and script are inlined, and the page's content security policy allows only that
    script.
    """
    environment = Environment(
        loader=PackageLoader("cnnstudy.results.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment.filters |= {"prose": prose, "split_off": split_off}
    page = environment.get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **values)


def prose(text: str, capital: bool = False) -> Markup:
    """Return a sentence as HTML, with text between backquotes as code; `capital` capitalises its first letter."""
    parts = (text[:1].upper() + text[1:] if capital else text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backquote
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def split_off(text: str) -> tuple[str, str]:
    """Return the first sentence of a text, and the rest; "" if there is none."""
    first, *rest = _SENTENCES.split(text, 1)
    return first, "".join(rest)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
