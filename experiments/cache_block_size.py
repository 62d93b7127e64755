"""Size of the block whose keys and values a cache keeps.

Question: Fast-dLLM, Figure 4: with attention in both directions everywhere a cache is refreshed when a block is
          entered, so small blocks pay for refreshes ("overhead") and large ones read what has gone stale ("diminish
          accuracy").
Method:   greedy decoding of held-out word problems in blocks of 2 to 32 columns, one token a step and by threshold 0.9,
          without a cache, with the prefix cache and with the dual cache, in turn, `repeats` times. The embedded model
          attends in blocks; here it is made to attend everywhere, over prompt and answer, as LLaDA does. It was not
          trained so, which costs accuracy in every row alike; a checkpoint of LLaDA or Dream (`--model`) runs as it is.
Read:     the gap below "no cache" at the same block is what staleness costs; a fall of all three lines is what large
          blocks cost by themselves. The middle counts the work, and the right is what the cache buys: throughput as a
          multiple of no cache in the same blocks.
Run:      python -m experiments.cache_block_size --count 50 --output experiments/results/cache_block_size.jsonl
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from dllm import Blocks, DualCache, NoCache, PrefixCache, Strategy, Threshold, TopK
from dllm.types import Bidirectional, BlockCausal, Cache, Policy
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, RepeatsOption, Row, ThreadsOption

SIZES = (2, 4, 8, 16, 32)
RULES: dict[str, Policy] = {"one token a step": TopK(k=1), "threshold 0.9": Threshold(0.9)}
CACHES: dict[str, Cache] = {"no cache": NoCache(), "prefix cache": PrefixCache(), "dual cache": DualCache()}


def attend_everywhere(model: Any) -> Any:
    """The model attending in both directions everywhere, whatever it was trained to."""
    return replace(model, geometry=Bidirectional()) if isinstance(model.geometry, BlockCausal) else model


def summarize_settings(rows: list[Row]) -> list[Row]:
    """One row a setting, with its throughput over that of no cache in the same blocks."""
    cells: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["rule"], row["size"], row["cache"]), []).append(row)
    return [
        {**found[0], "speedup": common.compute_speedup(found, cells[rule, size, "no cache"])}
        for (rule, size, _), found in cells.items()
    ]


def _plot_block_sizes(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, lines = pyplot.subplots(len(RULES), 3, figsize=(13, 7.6), layout="constrained", sharex=True)
    for rule, panels in zip(RULES, lines, strict=True):
        for cache, style in zip(CACHES, ("o-", "s--", "^:"), strict=True):
            here = [row for row in rows if (row["rule"], row["cache"]) == (rule, cache)]
            sizes, shares = [row["size"] for row in here], [row["accuracy"] for row in here]
            bars = [common.compute_two_errors(share, count) for share in shares]
            panels[0].errorbar(sizes, shares, bars, fmt=style, capsize=3, label=cache)
            panels[1].plot(sizes, [row["queries"] / row["tokens"] for row in here], style)
            panels[2].plot(sizes, [row["speedup"] for row in here], style)
        panels[0].set(title=f"{rule}: accuracy", ylabel="share of problems solved", ylim=(0, 1.03))
        panels[1].set(title=f"{rule}: work", ylabel="query tokens per generated token", ylim=(0, None))
        panels[2].set(title=f"{rule}: throughput", ylabel="× no cache in the same blocks", ylim=(0, None))
        for panel in panels:
            panel.set_xscale("log")
            panel.set_xticks(SIZES, [str(size) for size in SIZES])
            panel.minorticks_off()
    for panel in lines[-1]:
        panel.set_xlabel("cache block size (columns)")
    lines[0][0].legend(loc="lower left")
    figure.suptitle(f"Blocks of a cache under attention everywhere, {count} word problems, bars of two standard errors")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 50,
    new: Annotated[int, typer.Option(help="New tokens at most; all are on the canvas from the start.")] = 32,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 50,
    repeats: RepeatsOption = 2,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("cache_block_size.jsonl"),
) -> None:
    """Decode held-out problems in blocks of every size, with and without caches."""
    loaded = attend_everywhere(common.load_model(model, threads))
    asked = common.draw_problems(count)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    turns = [(n, rule, size, cache) for n in range(repeats) for rule in RULES for size in SIZES for cache in CACHES]
    asking = {"count": count, "new": new, "batch_size": batch_size}

    def measure(rule: str, size: int, cache: str) -> Row:
        strategy = Strategy(RULES[rule], Blocks(size), CACHES[cache])
        return common.measure_with_results(loaded, asked, strategy, batch_size, new)[0]

    rows = [
        journal.row(
            {"rule": rule, "cache": cache, "size": size, "repeat": repeat, **asking},
            measure,
            rule,
            size,
            cache,
        )
        for repeat, rule, size, cache in track(turns, console=console, description="decoding")
    ]
    found = summarize_settings(rows)
    common.print_table(
        console,
        ("rule", "block", "cache", "exact", "TPF", "query tokens a token", "× throughput", "certified"),
        [
            [
                r["rule"], r["size"], r["cache"], r["accuracy"], r["tokens_per_forward"],
                r["queries"] / r["tokens"], r["speedup"], r["certified_share"],
            ]
            for r in found
        ],
        f"{count} word problems, {repeats} runs of each in turn",
    )  # fmt: skip
    _plot_block_sizes(found, count, output)


if __name__ == "__main__":
    typer.run(main)
