"""How a race ended, in one sentence."""

from __future__ import annotations

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.figures_html import format_seconds
from dllm.integrations.web.runs import AnswerRun


def render_race_result(a: AnswerRun, b: AnswerRun) -> str:
    """Who was done first and by how much, and whether the answers are the same."""
    assert a.result is not None and b.result is not None
    times = a.result.seconds, b.result.seconds
    first, ratio = ("A", times[1] / times[0]) if times[0] <= times[1] else ("B", times[0] / times[1])
    forwards = f"{a.result.nfe} forwards for A, {b.result.nfe} for B"
    said = f"Lane {first} was {ratio:.2f} times as fast: {format_seconds(times[0])} for A, {format_seconds(times[1])} for B; {forwards}."
    return f'<p class="dllm-verdict" role="status">{escape_html(f"{said} {_compare_answers(a, b)}")}</p>'


def _compare_answers(a: AnswerRun, b: AnswerRun) -> str:
    """Where two answers part."""
    assert a.result is not None and b.result is not None
    if a.model != b.model:
        return "The models differ, so their tokens are not compared."
    one, other = a.result.output_ids, b.result.output_ids
    if one == other:
        return "Both wrote the same tokens."
    part = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    return f"Their tokens differ from position {part} on."
