"""A place on a page for HTML of our own, without the looks that Gradio gives to prose."""

from __future__ import annotations

from typing import Any

import gradio as gr

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of every event: no curtain over what changes many times a second, and nothing offered as an API."""


def make_html_block(value: str = "", name: str | None = None) -> gr.HTML:
    """HTML that is shown as it is; it takes no room while it is empty."""
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None, elem_classes="dllm-sheet")
