"""Does the sub-block cache pay, and does it change the answers?

Question: Fast-dLLM v2, Figure 6: accuracy and throughput with and without the sub-block cache over sub-block sizes and
          batch sizes. Published: accuracy is largely unaffected; throughput is the same in small batches and much
          higher where a batch keeps the device busy.
Method:   greedy decoding of held-out word problems by threshold 0.9 in sub-blocks of blocks of 32, over the prefix
          cache (exact) and over the dual cache (the recipe's sub-block cache), in turn, `repeats` times. The embedded
          model is so small that calls, not columns, cost the time; so the same is timed, two tokens a step, on a model
          of the named shape with random weights (25 million parameters besides the embeddings, by default), whose texts
          mean nothing.
Read:     left, the answers: a row does not depend on its batch here, so accuracy has one line a cache; "same texts" is
          the share of answers that the cache left as they were. Middle, the query tokens it saves. Right, the
          throughput with the sub-block cache over that without: above 1 it pays. With sub-blocks of 32 both do the same
          work: what differs from 1 there is the clock's own error.
Run:      python -m experiments.sub_block_cache --count 64 --output experiments/results/sub_block_cache.jsonl
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.progress import track

import dllm
from dllm import Blocks, DualCache, PrefixCache, Request, Strategy, Threshold, TopK
from dllm.bench.shapes import SHAPES, make_random_model
from dllm.metrics import Totals
from dllm.types import BlockCausal, Cache
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, RepeatsOption, Row, ThreadsOption

SIZES = (2, 4, 8, 16, 32)
BATCHES = (1, 8, 32)
BUSY = ((8, 16, 32), (1, 8))
"""Sub-blocks and batches of the larger model."""
CACHES: dict[str, Cache] = {"without": PrefixCache(), "with": DualCache(while_first=True)}


def summarize_pairs(rows: list[Row]) -> list[Row]:
    """One row for each sub-block and batch: both accuracies, the share of equal texts, the ratios."""
    cells: dict[tuple[str | None, int, int], dict[str, list[Row]]] = {}
    for row in rows:
        cells.setdefault((row.get("shape"), row["size"], row["batch_size"]), {}).setdefault(row["cache"], []).append(
            row
        )
    found = []
    for (shape, size, batch), sides in cells.items():
        on, off = sides["with"], sides["without"]
        pairs = list(zip(on[0]["texts"], off[0]["texts"], strict=True))
        found.append(
            {
                "shape": shape,
                "size": size,
                "batch_size": batch,
                "with": on[0].get("accuracy"),
                "without": off[0].get("accuracy"),
                "same": sum(a == b for a, b in pairs) / len(pairs),
                "work": on[0]["queries"] / off[0]["queries"],
                "speedup": common.compute_speedup(on, off),
            }
        )
    return found


def _measure_busy_model(model: Any, size: int, batch: int, cache: str) -> Row:
    """One batch of random prompts of equal length, on a model that columns keep busy."""
    rng = Random(0)
    requests = [
        Request(tuple(rng.randrange(model.vocabulary - 1) for _ in range(32)), 32, stop_ids=(), seed=row)
        for row in range(batch)
    ]
    strategy = Strategy(TopK(k=2), Blocks(sub_block=size, commit=True), CACHES[cache])
    start, begun = time.perf_counter(), time.process_time()
    results = dllm.decode(model, requests, strategy)
    seconds, processor = time.perf_counter() - start, time.process_time() - begun
    return {
        **Totals.of(results, seconds).row(),
        "processor": processor,
        "strategy": repr(strategy),
        "texts": common.digest_outputs(results),
    }


def _plot_pairs(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    solved = [row for row in rows if row["shape"] is None]
    first = [row for row in solved if row["batch_size"] == BATCHES[0]]
    for side, style in (("without", "o-"), ("with", "s--")):
        shares = [row[side] for row in first]
        bars = [common.compute_two_errors(share, count) for share in shares]
        panels[0].errorbar([r["size"] for r in first], shares, bars, fmt=style, capsize=3, label=f"{side} the cache")
    panels[0].plot([r["size"] for r in first], [r["same"] for r in first], "^:", color="0.5", label="same texts")
    panels[1].plot([r["size"] for r in first], [r["work"] for r in first], "s--", color="C1")
    for batch, style in zip(BATCHES, ("o-", "s--", "^:"), strict=False):
        here = [row for row in solved if row["batch_size"] == batch]
        panels[2].plot([r["size"] for r in here], [r["speedup"] for r in here], style, label=f"batch of {batch}")
    for batch, style in zip(BUSY[1], ("v-", "D-"), strict=True):
        here = [row for row in rows if row["shape"] is not None and row["batch_size"] == batch]
        label = f"larger random model, batch of {batch}"
        panels[2].plot([r["size"] for r in here], [r["speedup"] for r in here], style, linewidth=2.5, label=label)
    panels[0].set(title=f"answers, {count} word problems", ylabel="share of problems", ylim=(0, 1.05))
    panels[1].set(title="work", ylabel="query tokens, with over without", ylim=(0, 1.1))
    panels[2].set(title="throughput", ylabel="tokens/s, with over without", ylim=(0, None))
    for panel in panels[1:]:
        panel.axhline(1, color="0.6", zorder=0)
    for panel in panels:
        panel.set(xlabel="sub-block size (columns)", xscale="log")
        panel.set_xticks(SIZES, [str(size) for size in SIZES])
        panel.minorticks_off()
    panels[0].legend(loc="lower center")
    panels[2].legend(loc="lower center")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 64,
    shape: Annotated[str, typer.Option(help=f"Larger model to time: {', '.join(SHAPES)}.")] = "small-blocks",
    repeats: RepeatsOption = 3,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("sub_block_cache.jsonl"),
) -> None:
    """Decode held-out problems with and without the sub-block cache, over sub-block and batch sizes."""
    loaded: Any = common.load_model(model, threads)
    if not isinstance(loaded.geometry, BlockCausal):
        raise typer.BadParameter(f"--model {model}: attends in both directions; see experiments.cache_block_size")
    asked = common.draw_problems(count)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    turns = [(r, size, batch, c) for r in range(repeats) for size in SIZES for batch in BATCHES for c in CACHES]

    def measure(size: int, batch: int, cache: str) -> Row:
        strategy = Strategy(Threshold(0.9), Blocks(sub_block=size, commit=True), CACHES[cache])
        row, results = common.measure_with_results(loaded, asked, strategy, batch)
        return {**row, "texts": common.digest_outputs(results)}

    rows = [
        journal.row(
            {"shape": None, "cache": cache, "size": size, "count": count, "batch_size": batch, "repeat": repeat},
            measure,
            size,
            batch,
            cache,
        )
        for repeat, size, batch, cache in track(turns, console=console, description="decoding")
    ]
    large = make_random_model(SHAPES[shape], loaded.device)
    turns = [(r, size, batch, c) for r in range(repeats) for size in BUSY[0] for batch in BUSY[1] for c in CACHES]
    rows += [
        journal.row(
            {"shape": shape, "cache": cache, "size": size, "batch_size": batch, "repeat": repeat},
            _measure_busy_model,
            large,
            size,
            batch,
            cache,
        )
        for repeat, size, batch, cache in track(turns, console=console, description="timing")
    ]
    found = summarize_pairs(rows)
    common.print_table(
        console,
        ("model", "sub-block", "batch", "exact without", "exact with", "same texts", "× query tokens", "× throughput"),
        [
            [r["shape"] or model, *(r[n] for n in ("size", "batch_size", "without", "with", "same", "work", "speedup"))]
            for r in found
        ],
        f"{count} word problems, threshold 0.9, {repeats} runs of each in turn",
    )
    _plot_pairs(found, count, output)


if __name__ == "__main__":
    typer.run(main)
