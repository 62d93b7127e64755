"""Text that a model or a person wrote, made harmless before it becomes part of a page."""

from __future__ import annotations

import html
import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
TEMPLATE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
"""Signs of the templates by which Gradio fills an HTML component in: written so, none of them is one."""


def escape_html(text: object) -> str:
    """Text as HTML that shows it, whatever it holds; characters without a shape show as a blank box."""
    return html.escape(CONTROL.sub("▯", str(text).replace("\r", "")), quote=True).translate(TEMPLATE)
