"""Sizes of blocks and sub-blocks, and the cost of another block than the trained one.

Question: Fast-dLLM v2, Tables 3 and 4: accuracy against the sub-block (a part of the trained block that is finished
          before the next) and against the block itself (mismatched with training); and what each costs in forwards.
Method:   greedy decoding of held-out word problems by the recipe's threshold 0.9 over the prefix cache, with sub-blocks
          of 2 to 32 in blocks of 32, and with whole blocks of 2 to 64. Block-causal models only: with attention in both
          directions everywhere a block is a matter of order alone.
Read:     bars are two standard errors; all settings answer the same problems, so that equal failures cancel out. On the
          right what was published for Fast-dLLM v2 1.5B on GSM8K.
Run:      python -m experiments.block_size --count 200 --output experiments/results/block_size.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.progress import track

from dllm import Blocks, PrefixCache, Strategy, Threshold
from dllm.types import BlockCausal
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, Row, ThreadsOption

PUBLISHED = {
    "sub-block": {2: 62.8, 4: 61.8, 8: 62.0, 16: 61.3, 32: 60.2},
    "block": {2: 53.2, 4: 56.8, 8: 58.5, 16: 59.7, 32: 60.2},
}
"""GSM8K, per cent: Wu et al. 2025 (arXiv:2509.26328), Tables 3 and 4."""

SETTINGS: list[tuple[str, int, Blocks]] = [
    *(("sub-block", size, Blocks(sub_block=size, commit=True)) for size in (2, 4, 8, 16, 32)),
    *(("block", size, Blocks(size=size, commit=True)) for size in (2, 4, 8, 16, 32, 64)),
]


def _plot_block_sizes(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    ours, speed, published = panels
    for kind, style in (("sub-block", "o-"), ("block", "s--")):
        here = [row for row in rows if row["kind"] == kind]
        sizes, shares = [row["size"] for row in here], [row["accuracy"] for row in here]
        name = f"{kind} size" + (" in blocks of 32" if kind == "sub-block" else "")
        ours.errorbar(
            sizes, shares, [common.compute_two_errors(s, count) for s in shares], fmt=style, capsize=3, label=name
        )
        speed.plot(sizes, [row["tokens_per_forward"] for row in here], style)
        published.plot([*PUBLISHED[kind]], [*PUBLISHED[kind].values()], style)
    ours.set(title=f"accuracy, {count} word problems", ylabel="share of problems solved", ylim=(0, 1.03))
    speed.set(title="speed", ylabel="generated tokens per forward", ylim=(0, None))
    published.set(title="published: v2 1.5B on GSM8K", ylabel="accuracy (%)")
    for panel in panels:
        panel.set(xlabel="columns of a block or sub-block", xscale="log")
        panel.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
        panel.minorticks_off()
    ours.legend(loc="lower center")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 200,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("block_size.jsonl"),
) -> None:
    """Decode held-out problems with each size of sub-block and of block."""
    loaded: Any = common.load_model(model, threads)
    if not isinstance(loaded.geometry, BlockCausal):
        raise typer.BadParameter(f"--model {model}: attends in both directions; see experiments.cache_block_size")
    asked = common.draw_problems(count)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    rows = [
        journal.row(
            {"kind": kind, "size": size, "count": count},
            common.measure_strategy,
            loaded,
            asked,
            Strategy(Threshold(0.9), blocks, PrefixCache()),
        )
        for kind, size, blocks in track(SETTINGS, console=console, description="decoding")
    ]
    common.print_table(
        console,
        ("what", "columns", "exact", "TPF", "query tokens a token", "certified"),
        [
            [
                r["kind"], r["size"], r["accuracy"], r["tokens_per_forward"], r["queries"] / r["tokens"],
                r["certified_share"],
            ]
            for r in rows
        ],
        f"{count} word problems, threshold 0.9",
    )  # fmt: skip
    _plot_block_sizes(rows, count, output)


if __name__ == "__main__":
    typer.run(main)
