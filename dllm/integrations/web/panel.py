"""The controls of a strategy on a page, made from the tables, so that every installed part can be chosen."""

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
    """Controls for how one answer is made; make it inside a `gr.Blocks`.

    Args:
        library: The models to choose from.
        start: The settings at first.
        name: Beginning of the HTML ids of the controls.
        alone: Whether there are controls for the length, the seed and the number of recorded candidates too; the lanes
            of a race share those.

    Attributes:
        fields: Controls that belong to no kind of part, by the field of `AnswerSettings`.
        pickers: Control that chooses the part, by kind.
        helps: Block that explains the chosen part, by kind.
        knobs: Text boxes for the fields of the chosen part, by kind. There are as many as the part with the most
            fields needs, since Gradio cannot add controls later; the others are hidden.
        plan: Block with the strategy that would run, or the reason why none can.
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
        self._add_part("policy", "Policy: which positions to commit", start)
        with gr.Row():
            self._add_number("block_size", "Block size", start.block_size, "as the recipe")
            self._add_number("sub_block_size", "Sub-block size", start.sub_block_size, "as the recipe")
        self._add_part("cache", "Cache: what to recompute", start)
        self._add_sampling(start, alone)
        self._add_more(start, alone)
        self.plan = make_html_block(self._render_plan(start), f"{name}-plan")
        self._connect_events()

    def _add_part(self, kind: str, label: str, start: AnswerSettings) -> None:
        """Add the controls for one kind of part."""
        name, values = (start.parts or {}).get(kind, (controls.AS_RECIPE, ()))
        self.pickers[kind] = gr.Dropdown(
            controls.list_parts(kind), value=name, label=label, elem_id=f"{self.name}-{kind}"
        )
        self.helps[kind] = make_html_block(_render_part_help(kind, name), f"{self.name}-{kind}-help")
        with gr.Row():
            self.knobs[kind] = [
                gr.Textbox(**shown, min_width=90, max_lines=1, elem_id=f"{self.name}-{kind}-{i}")
                for i, shown in enumerate(self._describe_knobs(kind, name, values))
            ]

    def _describe_knobs(self, kind: str, name: str | None, values: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the properties of a kind's knobs when a part is chosen."""
        fields = controls.list_part_fields(kind, name)
        count = controls.count_most_part_fields(kind)
        values = [*values, *[""] * (count - len(values))]
        used: list[dict[str, Any]] = [
            {"label": field.name, "placeholder": field.default or "required", "visible": True, "value": value}
            for field, value in zip(fields, values, strict=False)
        ]
        return used + [{"label": kind, "visible": False, "value": ""}] * (count - len(fields))

    def _add_number(self, field: str, label: str, value: str, empty: str = "") -> None:
        """Add a text box for a number; `empty` says what an empty box means."""
        self.fields[field] = gr.Textbox(
            value, label=label, placeholder=empty, min_width=110, max_lines=1, elem_id=f"{self.name}-{field}"
        )

    def _add_sampling(self, start: AnswerSettings, alone: bool) -> None:
        """Add the controls of sampling, and where the panel is alone of the length and the seed."""
        with gr.Row():
            self._add_number("temperature", "Temperature", start.temperature, "as the recipe")
            self._add_number("top_p", "Top-p", start.top_p, "as the recipe")
        if alone:
            with gr.Row():
                self._add_number("max_new_tokens", "Length, tokens", start.max_new_tokens)
                self._add_number("seed", "Seed", start.seed)

    def _add_more(self, start: AnswerSettings, alone: bool) -> None:
        """Add the controls that are rarely used, which are folded away."""
        with gr.Accordion("More: scheduler, steps, processors, stop", open=False):
            self._add_part("scheduler", "Scheduler: where to work", start)
            with gr.Row():
                self._add_number("steps", "Steps in total", start.steps, "as the recipe")
                self._add_number("top_k", "Top-k", start.top_k, "as the recipe")
            self.fields["processors"] = gr.Textbox(
                start.processors, label="Processors, one a line", placeholder='regex("[0-9]+ apples")', lines=2
            )
            self.fields["stop"] = gr.Textbox(start.stop, label="Stop texts, one a line", lines=2)
            if alone:
                self._add_number("top", "Candidates recorded for each position", start.top)

    def _connect_events(self) -> None:
        """Update the knobs when their part changes, and the plan when anything changes."""
        for kind in KINDS:
            shown = [self.helps[kind], *self.knobs[kind]]
            self.pickers[kind].input(self._make_part_handler(kind), self.pickers[kind], shown, **QUIET)
        gr.on(
            [component.change for component in self.inputs],
            self.show_plan, self.inputs, self.plan, trigger_mode="always_last", **QUIET,
        )  # fmt: skip

    def _make_part_handler(self, kind: str) -> Callable[[str], list[Any]]:
        """Return a function from the name of a chosen part to the updates of its help and knobs."""

        def update_knobs(name: str) -> list[Any]:
            return [_render_part_help(kind, name), *(gr.update(**knob) for knob in self._describe_knobs(kind, name))]

        return update_knobs

    @property
    def inputs(self) -> list[Any]:
        """All controls whose values `read_settings` takes, in that order."""
        inputs = [*self.fields.values()]
        for kind in KINDS:
            inputs += [self.pickers[kind], *self.knobs[kind]]
        return inputs

    def read_settings(self, values: Sequence[Any], **shared: Any) -> AnswerSettings:
        """Return the settings from the values of `inputs`, and from settings for which the panel has no control."""
        named = dict(zip(self.fields, values, strict=False))
        rest = list(values[len(self.fields) :])
        parts = {}
        for kind in KINDS:
            count = len(self.knobs[kind])
            parts[kind] = (rest[0], tuple(text or "" for text in rest[1 : count + 1]))
            rest = rest[count + 1 :]
        return AnswerSettings(**(shared | named), parts=parts)

    def show_plan(self, *values: Any) -> str:
        """Render the strategy that would run with the values of `inputs`, or the reason why none can."""
        return self._render_plan(self.read_settings(values))

    def _render_plan(self, choice: AnswerSettings) -> str:
        """Render the strategy of some settings, or the reason why there is none."""
        try:
            return f'<p class="dllm-plan">{escape_html(self.library.describe_plan(choice))}</p>'
        except DllmError as error:
            return render_failure(strip_option_dashes(error))


def _render_part_help(kind: str, name: str | None) -> str:
    """Render what a part does, and the values that its fields take."""
    lines = [
        controls.describe_part(kind, name),
        *(f"{field.name}: {field.takes}" for field in controls.list_part_fields(kind, name)),
    ]
    return "".join(f'<p class="dllm-help">{escape_html(line)}</p>' for line in lines if line)
