"""Summary of results, for stderr when rows are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from dllm.engine.results import Result

FRESH = "only logits fresh in their step can certify; a stale cache cannot"


def summarize_results(results: Sequence[Result], seconds: float) -> Text:
    """Summarise tokens, forwards, tokens per forward, speed and certified share.

    Args:
        results: Results of rows.
        seconds: Time that all of them took together.
    """
    from dllm import metrics

    tokens, forwards = sum(len(r.output_ids) for r in results), sum(r.nfe for r in results)
    parallel, certified = sum(r.parallel for r in results), sum(r.certified for r in results)
    share = metrics.certified_share(certified, parallel)
    figures = [
        (f"{tokens}", " tokens"),
        (f"{forwards}", " forwards (NFE)"),
        (f"{metrics.tokens_per_forward(tokens, forwards):.2f}", " tokens per forward"),
        (f"{metrics.tokens_per_second(tokens, seconds):.1f}", " tokens/s"),
        ("none", " committed in parallel")
        if share is None
        else (f"{share:.0%}", f" of {parallel} parallel commits certified ({FRESH})"),
    ]
    if len(results) != 1:
        figures.insert(0, (f"{len(results)}", " rows"))
    line = Text()
    for i, (number, unit) in enumerate(figures):
        line.append(" · " if i else "", "dim").append(number, "bold cyan").append(unit, "dim")
    return line
