"""The outcome of a race in words."""

from __future__ import annotations

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.figures_html import format_seconds
from dllm.integrations.web.runs import AnswerRun


def render_race_result(a: AnswerRun, b: AnswerRun) -> str:
    """Render which lane was faster and by what ratio, and whether the answers are the same."""
    assert a.result is not None and b.result is not None
    times = a.result.seconds, b.result.seconds
    first, ratio = ("A", times[1] / times[0]) if times[0] <= times[1] else ("B", times[0] / times[1])
    durations = f"{format_seconds(times[0])} for A, {format_seconds(times[1])} for B"
    forwards = f"{a.result.nfe} forwards for A, {b.result.nfe} for B"
    outcome = f"Lane {first} was {ratio:.2f} times as fast: {durations}; {forwards}. {_compare_answers(a, b)}"
    return f'<p class="dllm-verdict" role="status">{escape_html(outcome)}</p>'


def _compare_answers(a: AnswerRun, b: AnswerRun) -> str:
    """Return a sentence about the first position at which two answers differ."""
    assert a.result is not None and b.result is not None
    if a.model != b.model:
        return "The models differ, so their tokens are not compared."
    one, other = a.result.output_ids, b.result.output_ids
    if one == other:
        return "Both wrote the same tokens."
    part = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    return f"Their tokens differ from position {part} on."
