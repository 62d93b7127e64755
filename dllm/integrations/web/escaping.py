"""Escaping of text that a model or a person wrote, before it becomes part of a page."""

from __future__ import annotations

import html
import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
TEMPLATE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
"""Entities for the characters of the templates that Gradio fills in within HTML components (`${…}`, `{{…}}`)."""


def escape_html(text: object) -> str:
    """Return HTML that shows a text as it is; control characters show as a blank box."""
    return html.escape(CONTROL.sub("▯", str(text).replace("\r", "")), quote=True).translate(TEMPLATE)
