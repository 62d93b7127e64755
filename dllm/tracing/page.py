"""A trace as one HTML page that replays it: no other file, nothing from outside, and no text that is taken as code."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from dllm.tracing.reading import Trace

HERE = "/* the trace */"
"""Where the page's data go."""


def render_trace_page(trace: Trace) -> str:
    """The page: the canvas with a slider over the steps, a table of the steps, and when each token was decided."""
    template = files("dllm.tracing").joinpath("page.html").read_text("utf-8")
    before, after = template.split(HERE)
    return before + _embed_json(_collect_page_data(trace)) + after


def _collect_page_data(trace: Trace) -> dict[str, Any]:
    """What the page's script reads."""
    runs = [
        {"strategy": run.strategy, "columns": run.columns, "requests": run.requests, "steps": run.steps,
         "results": run.results}
        for run in trace.runs
    ]  # fmt: skip
    return {"header": trace.header, "pieces": {str(k): v for k, v in trace.pieces.items()}, "runs": runs}


def _embed_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
