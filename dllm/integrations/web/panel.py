"""The controls of a strategy on a page: made from the tables, so that every part that is installed has its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dllm.errors import DllmError
from dllm.integrations.web import controls
from dllm.integrations.web.controls import AnswerSettings, strip_option_dashes
from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.figures_html import render_failure
from dllm.integrations.web.html_block import QUIET, make_html_block
from dllm.integrations.web.model_library import ModelLibrary

KINDS = tuple(controls.TABLES)


class StrategyPanel:
    """Controls that say how one answer is made; make it inside a `gr.Blocks`.

    start  what they say at first
    alone  with the length, the seed and what is recorded, which lanes of a race share

    inputs  all components whose values `choice` reads, in that order
    plan    says what would run, or why nothing can
    """

    def __init__(self, library: ModelLibrary, start: AnswerSettings, name: str, alone: bool = True) -> None:
        self.library, self.name = library, name
        self.fields: dict[str, Any] = {}
        self.pickers: dict[str, Any] = {}
        self.helps: dict[str, Any] = {}
        self.knobs: dict[str, list[Any]] = {}
        self.fields["model"] = gr.Dropdown(library.labels, value=start.model, label="Model", elem_id=f"{name}-model")
        self.fields["recipe"] = gr.Dropdown(
            controls.list_recipes(),
            value=start.recipe or controls.OWN_RECIPE,
            label="Recipe: sets every part",
            elem_id=f"{name}-recipe",
        )
        self.part("policy", "Policy: which positions to commit", start)
        with gr.Row():
            self.number("block_size", "Block size", start.block_size, "as the recipe")
            self.number("sub_block_size", "Sub-block size", start.sub_block_size, "as the recipe")
        self.part("cache", "Cache: what to recompute", start)
        self.sampling(start, alone)
        self.more(start, alone)
        self.plan = make_html_block(self.said(start), f"{name}-plan")
        self.wire()

    def part(self, kind: str, label: str, start: AnswerSettings) -> None:
        """A part by its name, and room for the fields of whichever is chosen."""
        name, values = (start.parts or {}).get(kind, (controls.AS_RECIPE, ()))
        self.pickers[kind] = gr.Dropdown(
            controls.list_parts(kind), value=name, label=label, elem_id=f"{self.name}-{kind}"
        )
        self.helps[kind] = make_html_block(_render_part_help(kind, name), f"{self.name}-{kind}-help")
        with gr.Row():
            self.knobs[kind] = [
                gr.Textbox(**shown, min_width=90, max_lines=1, elem_id=f"{self.name}-{kind}-{i}")
                for i, shown in enumerate(self.turned(kind, name, values))
            ]

    def turned(self, kind: str, name: str | None, values: Sequence[str] = ()) -> list[dict[str, Any]]:
        """How the knobs of a kind look once a part is chosen."""
        found = controls.list_part_fields(kind, name)
        room = controls.count_most_part_fields(kind)
        values = [*values, *[""] * (room - len(values))]
        looks: list[dict[str, Any]] = [
            {"label": knob.name, "placeholder": knob.default or "required", "visible": True, "value": value}
            for knob, value in zip(found, values, strict=False)
        ]
        return looks + [{"label": kind, "visible": False, "value": ""}] * (room - len(found))

    def number(self, field: str, label: str, value: str, empty: str = "") -> None:
        """A field for a number; `empty` is what it means to leave it out."""
        self.fields[field] = gr.Textbox(
            value, label=label, placeholder=empty, min_width=110, max_lines=1, elem_id=f"{self.name}-{field}"
        )

    def sampling(self, start: AnswerSettings, alone: bool) -> None:
        with gr.Row():
            self.number("temperature", "Temperature", start.temperature, "as the recipe")
            self.number("top_p", "Top-p", start.top_p, "as the recipe")
        if alone:
            with gr.Row():
                self.number("max_new_tokens", "Length, tokens", start.max_new_tokens)
                self.number("seed", "Seed", start.seed)

    def more(self, start: AnswerSettings, alone: bool) -> None:
        with gr.Accordion("More: scheduler, steps, processors, stop", open=False):
            self.part("scheduler", "Scheduler: where to work", start)
            with gr.Row():
                self.number("steps", "Steps in total", start.steps, "as the recipe")
                self.number("top_k", "Top-k", start.top_k, "as the recipe")
            self.fields["processors"] = gr.Textbox(
                start.processors, label="Processors, one a line", placeholder='regex("[0-9]+ apples")', lines=2
            )
            self.fields["stop"] = gr.Textbox(start.stop, label="Stop texts, one a line", lines=2)
            if alone:
                self.number("top", "Candidates recorded for each position", start.top)

    def wire(self) -> None:
        """Knobs follow their part, and the plan follows everything."""
        for kind in KINDS:
            shown = [self.helps[kind], *self.knobs[kind]]
            self.pickers[kind].input(self.turner(kind), self.pickers[kind], shown, **QUIET)
        gr.on(
            [component.change for component in self.inputs],
            self.explain, self.inputs, self.plan, trigger_mode="always_last", **QUIET,
        )  # fmt: skip

    def turner(self, kind: str) -> Callable[[str], list[Any]]:
        return lambda name: [_render_part_help(kind, name), *(gr.update(**look) for look in self.turned(kind, name))]

    @property
    def inputs(self) -> list[Any]:
        found = [*self.fields.values()]
        for kind in KINDS:
            found += [self.pickers[kind], *self.knobs[kind]]
        return found

    def choice(self, values: Sequence[Any], **shared: Any) -> AnswerSettings:
        """What the controls say, from their values."""
        named = dict(zip(self.fields, values, strict=False))
        rest = list(values[len(self.fields) :])
        parts = {}
        for kind in KINDS:
            count = len(self.knobs[kind])
            parts[kind] = (rest[0], tuple(text or "" for text in rest[1 : count + 1]))
            rest = rest[count + 1 :]
        return AnswerSettings(**(shared | named), parts=parts)

    def explain(self, *values: Any) -> str:
        """What would run, or why nothing can."""
        return self.said(self.choice(values))

    def said(self, choice: AnswerSettings) -> str:
        try:
            return f'<p class="dllm-plan">{escape_html(self.library.plan(choice))}</p>'
        except DllmError as error:
            return render_failure(strip_option_dashes(error))


def _render_part_help(kind: str, name: str | None) -> str:
    """What a part does, and what its knobs may be."""
    said = [
        controls.describe_part(kind, name),
        *(f"{knob.name}: {knob.takes}" for knob in controls.list_part_fields(kind, name)),
    ]
    return "".join(f'<p class="dllm-help">{escape_html(line)}</p>' for line in said if line)
