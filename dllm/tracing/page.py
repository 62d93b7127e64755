"""One HTML page that replays a trace: no other file, nothing from outside, and no text that could run as code."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from dllm.tracing.reading import Trace

PLACEHOLDER = "/* the trace */"
"""Text in the template that is replaced by the data of the page."""


def render_trace_page(trace: Trace) -> str:
    """Render the page: the canvas with a slider over the steps, a table of them, and when each token was decided."""
    template = files("dllm.tracing").joinpath("page.html").read_text("utf-8")
    before, after = template.split(PLACEHOLDER)
    return before + _embed_json(_collect_page_data(trace)) + after


def _collect_page_data(trace: Trace) -> dict[str, Any]:
    """Collect the data that the script of the page reads."""
    runs = [
        {"strategy": run.strategy, "columns": run.columns, "requests": run.requests, "steps": run.steps,
         "results": run.results}
        for run in trace.runs
    ]  # fmt: skip
    return {"header": trace.header, "pieces": {str(k): v for k, v in trace.pieces.items()}, "runs": runs}


def _embed_json(value: Any) -> str:
    """Format JSON that can stand inside a script element.

    Without `<` and `>` a text of the trace can neither end the element (`</script>`) nor begin a comment (`<!--`).
    """
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
