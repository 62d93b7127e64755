"""The page: its tabs, its appearance, and the session that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from dllm.integrations.web.chat_html import VisitorSession
from dllm.integrations.web.conversation import ConversationTab
from dllm.integrations.web.html_block import make_html_block
from dllm.integrations.web.model_library import ModelLibrary
from dllm.integrations.web.race import RaceTab
from dllm.integrations.web.replay import ReplayTab

STYLE = Path(__file__).with_name("style.css")
WATCHING = 32
"""Answers that may be watched at the same time; decoding itself is one at a time."""
KEPT = 3600
"""Seconds for which a session is kept when nothing happens in it."""


def build_page(library: ModelLibrary) -> gr.Blocks:
    """Build the page for some models."""
    blocks: gr.Blocks
    with gr.Blocks(title="dllm", analytics_enabled=False, fill_width=False) as blocks:
        # Gradio copies the state for each visitor. A session that is dropped may still have an answer in the queue.
        session = gr.State(VisitorSession(), time_to_live=KEPT, delete_callback=lambda old: old and old.stop())
        make_html_block(
            '<header class="dllm-head"><h1>dllm</h1>'
            "<p>Watch a diffusion language model write: tokens are decided out of order, a few in each step.</p>"
            "</header>"
        )
        with gr.Tabs():
            with gr.Tab("Conversation", id="conversation"):
                ConversationTab(library, session)
            with gr.Tab("Replay", id="replay") as tab:
                ReplayTab(session, tab)
            with gr.Tab("Race", id="race"):
                RaceTab(library, session)
    blocks.queue(default_concurrency_limit=WATCHING, max_size=4 * WATCHING)
    return blocks


def build_appearance() -> dict[str, Any]:
    """Build the theme and the style sheet, with the visitor's own fonts and nothing from outside."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    theme = gr.themes.Base(font=fonts, font_mono=mono).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700", block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400", layout_gap="10px",
    )  # fmt: skip
    return {"theme": theme, "css": STYLE.read_text("utf-8")}
