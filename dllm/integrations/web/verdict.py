"""How a race ended, in one sentence."""

from __future__ import annotations

from dllm.integrations.web.escaping import safe
from dllm.integrations.web.figures import spell
from dllm.integrations.web.runs import Run


def verdict(a: Run, b: Run) -> str:
    """Who was done first and by how much, and whether the answers are the same."""
    assert a.result is not None and b.result is not None
    times = a.result.seconds, b.result.seconds
    first, ratio = ("A", times[1] / times[0]) if times[0] <= times[1] else ("B", times[0] / times[1])
    forwards = f"{a.result.nfe} forwards for A, {b.result.nfe} for B"
    said = f"Lane {first} was {ratio:.2f} times as fast: {spell(times[0])} for A, {spell(times[1])} for B; {forwards}."
    return f'<p class="dllm-verdict" role="status">{safe(f"{said} {agreement(a, b)}")}</p>'


def agreement(a: Run, b: Run) -> str:
    """Where two answers part."""
    assert a.result is not None and b.result is not None
    if a.model != b.model:
        return "The models differ, so their tokens are not compared."
    one, other = a.result.output_ids, b.result.output_ids
    if one == other:
        return "Both wrote the same tokens."
    part = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    return f"Their tokens differ from position {part} on."
