"""Blocks of our own HTML on a page, without the style that Gradio gives to prose."""

from __future__ import annotations

from typing import Any

import gradio as gr

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Settings of every event: no progress overlay on what changes many times a second, and no entry in Gradio's API."""


def make_html_block(value: str = "", name: str | None = None) -> gr.HTML:
    """Make a block that shows HTML as it is, and that takes no room while it is empty."""
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None, elem_classes="dllm-sheet")
