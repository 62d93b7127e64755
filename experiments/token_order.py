"""In which order does the text come: when is each position decided?

Question: what order do confidence and parallel rules choose; how far is it from left to right?
Method:   greedy decoding of held-out word problems by several rules over the prefix cache (exact); for every token of
          the answer, up to and with its end, the row's forward that decided it.
Read:     a column of the heat map is a position of the answer and adds up to 1 over the forwards that decide it; the
          line is the mean. A diagonal is left to right, a flat line is all at once, and what is spread from top to
          bottom depends on the problem. Blocks lie at absolute columns, so where one begins in the answer depends on
          the length of its prompt. "order" is the mean rank correlation of position and forward in a row: 1 is left to
          right, 0 is none.
Run:      python -m experiments.token_order --count 100 --output experiments/results/token_order.jsonl
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.progress import track

from dllm import Blocks, Factor, LeftToRight, PrefixCache, Result, Strategy, Threshold, TopK
from dllm.types import Policy
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, Row, ThreadsOption

POSITIONS = 48
"""Positions of the answer that are drawn."""

BLOCK, SUB_BLOCK = Blocks(commit=True), Blocks(sub_block=8, commit=True)
RULES: dict[str, tuple[Policy, Blocks]] = {
    "left to right, one a step": (TopK(k=1, score=LeftToRight()), BLOCK),
    "most confident, one a step": (TopK(k=1), BLOCK),
    "two a step": (TopK(k=2), BLOCK),
    "threshold 0.9": (Threshold(0.9), BLOCK),
    "threshold 0.9, sub-blocks of 8": (Threshold(0.9), SUB_BLOCK),
    "factor 4": (Factor(4.0), BLOCK),
}


def _count_decisions(results: Sequence[Result]) -> list[list[int]]:
    """Count the rows that decided each position (outer) in each forward (inner, from the first)."""
    forwards = max(max(r.when, default=0) for r in results)
    counts = [[0] * forwards for _ in range(POSITIONS)]
    for result in results:
        for position, forward in enumerate(result.when[:POSITIONS]):
            counts[position][forward - 1] += 1
    return counts


def correlate_ranks(when: Sequence[int]) -> float | None:
    """Rank correlation of position and forward (Spearman; equal forwards share their mean rank); None if constant."""
    if len(set(when)) < 2:
        return None
    ranks = {value: statistics.mean(i for i, w in enumerate(sorted(when)) if w == value) for value in set(when)}
    return statistics.correlation(range(len(when)), [ranks[w] for w in when])


def _measure_order(model: Any, policy: Policy, blocks: Blocks, count: int) -> Row:
    row, results = common.measure_with_results(
        model, common.draw_problems(count), Strategy(policy, blocks, PrefixCache())
    )
    orders = [found for r in results if (found := correlate_ranks(r.when)) is not None]
    return {**row, "order": statistics.mean(orders) if orders else None, "counts": _count_decisions(results)}


def _plot_order(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7.4), layout="constrained")
    for panel, row in zip(panels.flat, rows, strict=False):
        counts = row["counts"]
        totals = [sum(column) for column in counts]
        shown = [column for column, total in zip(counts, totals, strict=True) if total >= max(2, count // 10)]
        last = max(i for column in shown for i, n in enumerate(column) if n) + 1
        shares = [[column[i] / sum(column) for column in shown] for i in range(last)]
        extent = (0, len(shown), 0.5, last + 0.5)
        image = panel.imshow(shares, origin="lower", aspect="auto", cmap="magma_r", vmin=0, vmax=0.5, extent=extent)
        means = [sum((i + 1) * n for i, n in enumerate(column)) / sum(column) for column in shown]
        panel.plot([i + 0.5 for i in range(len(shown))], means, color="deepskyblue", linewidth=2, label="mean")
        figures = f"order {row['order']:.2f}, {row['tokens_per_forward']:.1f} tokens a forward"
        panel.set_title(f"{row['rule']}\n{figures}", fontsize=10)
        panel.grid(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("forward that decides it")
    for panel in panels[-1]:
        panel.set_xlabel("position in the answer (tokens)")
    panels.flat[0].legend(loc="upper left")
    figure.colorbar(image, ax=panels, label="share of the answers that have the position", extend="max", shrink=0.7)
    figure.suptitle(f"When each position is decided, {count} word problems, blocks of 32 columns")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 100,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("token_order.jsonl"),
) -> None:
    """Decode held-out problems by several rules and note when each position is decided."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    rows = [
        journal.row(
            {"rule": rule, "count": count},
            _measure_order,
            loaded,
            policy,
            blocks,
            count,
        )
        for rule, (policy, blocks) in track(RULES.items(), console=console, description="decoding")
    ]
    common.print_table(
        console,
        ("rule", "order", "exact", "TPF"),
        [[r["rule"], r["order"], r["accuracy"], r["tokens_per_forward"]] for r in rows],
        f"{count} word problems; order 1: left to right",
    )
    _plot_order(rows, count, output)


if __name__ == "__main__":
    typer.run(main)
