"""What does lossless speculation save, and what does it cost?

Question: how many forwards, query tokens and seconds does decoding take with ever more drafts beside each canvas,
          against the same decoding without; and is the answer the same, token for token?
Method:   greedy decoding of held-out word problems, one or two tokens a step and by a threshold, without a cache, with
          the prefix cache and with sub-blocks over the dual cache; each alone and in `Speculative` with 2, 4 and 8
          drafts (1 is the inner cache alone). Times are medians over `repeats` runs in turn, one row at a time by
          default, since lanes and rows compete for the same processor: by the clock, and of the processor alone, which
          other work on the machine does not change.
Read:     "forwards", "queries", "seconds" and "processor" are ratios to decoding without speculation: below 1 is saved,
          above 1 is paid. Where query tokens keep the processor busy, seconds follow queries; where a forward costs the
          same however many it runs (a small batch on an accelerator), forwards.
Run:      python -m experiments.speculation --count 20 --plot speculation.png > speculation.jsonl
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Result, Speculative, Strategy, Threshold, TopK
from dllm.prompts import to_requests
from dllm.requests import Request
from dllm.types import Cache, Policy, Scheduler
from experiments.embedded_text import examples

DRAFTS = (1, 2, 4, 8)


def settings() -> Iterator[tuple[str, str, Strategy, int]]:
    """Rule, cache, strategy without speculation, and the tokens by which drafts grow."""
    caches: dict[str, tuple[Scheduler, Cache]] = {
        "none": (Blocks(), NoCache()),
        "prefix": (Blocks(), PrefixCache()),
        "sub-block": (Blocks(sub_block=8), DualCache()),
    }
    rules: dict[str, tuple[Policy, int]] = {
        "one a step": (TopK(k=1), 1),
        "two a step": (TopK(k=2), 2),
        "threshold 0.9": (Threshold(0.9), 1),
    }
    for cache, (scheduler, part) in caches.items():
        for rule, (policy, tokens) in rules.items():
            yield rule, cache, Strategy(policy, scheduler, part), tokens


def speculating(strategy: Strategy, drafts: int, tokens: int) -> Strategy:
    cache = strategy.cache if drafts == 1 else Speculative(strategy.cache, drafts, tokens)
    return Strategy(strategy.policy, strategy.scheduler, cache)


def timed(
    model: Any, requests: list[Request], strategy: Strategy, batch_size: int
) -> tuple[float, float, list[Result]]:
    """Seconds by the clock, seconds of the processor, and the results."""
    start, busy = time.perf_counter(), time.process_time()
    results = dllm.decode(model, requests, strategy, batch_size=batch_size)
    return time.perf_counter() - start, time.process_time() - busy, results


def measure(
    model: Any, requests: list[Request], ways: list[Strategy], batch_size: int, repeats: int
) -> list[dict[str, Any]]:
    """Cost of each way against the first, which it must answer like."""
    timed(model, requests[:1], ways[-1], batch_size)  # the first run of anything is slow
    runs = [[timed(model, requests, way, batch_size) for way in ways] for _ in range(repeats)]
    found = []
    base: dict[str, Any] = {}
    for i, way in enumerate(ways):
        results = runs[0][i][2]
        figures = {
            "forwards": sum(r.nfe for r in results),
            "queries": sum(r.queries for r in results),
            "seconds": statistics.median(run[i][0] for run in runs),
            "processor": statistics.median(run[i][1] for run in runs),
        }
        base = base or figures
        found.append(
            {
                "strategy": repr(way),
                "same": [r.output_ids for r in results] == [r.output_ids for r in runs[0][0][2]],
                "tokens": sum(len(r.output_ids) for r in results),
                **figures,
                **{f"{name}_ratio": value / base[name] for name, value in figures.items()},
            }
        )
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The ratios over the number of drafts, a panel for each cache, for one token a step."""
    try:
        import matplotlib
    except ImportError:
        Console(stderr=True).print("no plot: pip install matplotlib")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["rule"] == "one a step"]
    caches = list(dict.fromkeys(row["cache"] for row in rows))
    figure, panels = pyplot.subplots(1, len(caches), figsize=(4 * len(caches), 3.6), sharey=True, layout="constrained")
    for panel, cache in zip(panels, caches, strict=True):
        here = [row for row in rows if row["cache"] == cache]
        for name, style in (("forwards", "o-"), ("queries", "s--"), ("processor", "^:")):
            panel.plot([row["drafts"] for row in here], [row[f"{name}_ratio"] for row in here], style, label=name)
        panel.axhline(1, color="0.8", zorder=0)
        panel.set(title=f"cache: {cache}", xlabel="drafts", xscale="log", yscale="log", xticks=DRAFTS)
        panel.set_xticks(DRAFTS, [str(drafts) for drafts in DRAFTS], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("ratio to decoding without speculation")
    panels[0].legend()
    figure.savefig(path)


def main(
    model: Annotated[str, typer.Option(help="Checkpoint to decode with.")] = "embedded",
    count: Annotated[int, typer.Option(help="Held-out word problems.")] = 20,
    new: Annotated[int, typer.Option(help="New tokens at most.")] = 96,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the ratios.")] = None,
) -> None:
    """Decode held-out problems with ever more drafts: a table on stderr, one JSON object a row on stdout."""
    torch.set_num_threads(threads)
    loaded = dllm.load(model)
    problems = islice(examples("report", held=True, kinds=("word",)), count)
    requests = to_requests(loaded, [p.prompt for p in problems], new)
    facts = {
        "model": model, "count": count, "new": new, "batch_size": batch_size, "repeats": repeats, "threads": threads,
        "device": str(loaded.device), "dllm": dllm.__version__, "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    console = Console(stderr=True)
    table = Table(
        "cache", Column("rule", no_wrap=True), "drafts", "same", "forwards", "queries", "seconds", "processor"
    )
    rows = []
    for rule, cache, strategy, tokens in track(list(settings()), console=console, description="decoding"):
        ways = [speculating(strategy, drafts, tokens) for drafts in DRAFTS]
        for drafts, found in zip(DRAFTS, measure(loaded, requests, ways, batch_size, repeats), strict=True):
            row = {"rule": rule, "cache": cache, "drafts": drafts, **found, **facts}
            rows.append(row)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            ratios = (f"{row[f'{name}_ratio']:.2f}" for name in ("forwards", "queries", "seconds", "processor"))
            table.add_row(
                cache, rule, str(drafts), "yes" if row["same"] else "NO", *ratios, end_section=drafts == DRAFTS[-1]
            )
    console.print(table)
    if plot is not None:
        draw(rows, plot)


if __name__ == "__main__":
    typer.run(main)
