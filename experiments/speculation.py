"""Savings and cost of lossless speculation.

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
Run:      python -m experiments.speculation --count 20 --output experiments/results/speculation.jsonl
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Result, Speculative, Strategy, Threshold, TopK
from dllm.prompts import make_requests
from dllm.requests import Request
from dllm.types import Cache, Policy, Scheduler
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, RepeatsOption, Row, ThreadsOption

LABELS = {"forwards": "forwards", "queries": "query tokens", "processor": "processor time"}
DRAFTS = (1, 2, 4, 8)


def _list_settings() -> Iterator[tuple[str, str, Strategy, int]]:
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


def _add_speculation(strategy: Strategy, drafts: int, tokens: int) -> Strategy:
    cache = strategy.cache if drafts == 1 else Speculative(strategy.cache, drafts, tokens)
    return Strategy(strategy.policy, strategy.scheduler, cache)


def _time_decoding(
    model: Any, requests: list[Request], strategy: Strategy, batch_size: int
) -> tuple[float, float, list[Result]]:
    """Seconds by the clock, seconds of the processor, and the results."""
    start, busy = time.perf_counter(), time.process_time()
    results = dllm.decode(model, requests, strategy, batch_size=batch_size)
    return time.perf_counter() - start, time.process_time() - busy, results


def _measure_ways(
    model: Any, requests: list[Request], ways: list[Strategy], batch_size: int, repeats: int
) -> list[dict[str, Any]]:
    """Cost of each way against the first, which it must answer like."""
    _time_decoding(model, requests[:1], ways[-1], batch_size)  # the first run of anything is slow
    runs = [[_time_decoding(model, requests, way, batch_size) for way in ways] for _ in range(repeats)]
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


def _plot_ratios(rows: list[Row], output: Path) -> None:
    """The ratios over the number of drafts, a panel for each cache, for one token a step."""
    pyplot = common.import_pyplot()
    rows = [row for row in rows if row["rule"] == "one a step"]
    caches = list(dict.fromkeys(row["cache"] for row in rows))
    figure, panels = pyplot.subplots(1, len(caches), figsize=(4 * len(caches), 4), sharey=True, layout="constrained")
    for panel, cache in zip(panels, caches, strict=True):
        here = [row for row in rows if row["cache"] == cache]
        for name, style in (("forwards", "o-"), ("queries", "s--"), ("processor", "^:")):
            panel.plot(
                [row["drafts"] for row in here], [row[f"{name}_ratio"] for row in here], style, label=LABELS[name]
            )
        panel.axhline(1, color="0.4", linewidth=1, zorder=0)
        panel.set(title=f"cache: {cache}", xlabel="drafts beside each canvas (1: none)", xscale="log", yscale="log")
        panel.set_xticks(DRAFTS, [str(drafts) for drafts in DRAFTS])
        panel.set_yticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        panel.minorticks_off()
    panels[0].set_ylabel("× decoding without speculation")
    panels[0].legend()
    figure.suptitle("Lossless speculation, one token a step: below 1 is saved, above 1 is paid")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 20,
    new: Annotated[int, typer.Option(help="New tokens at most.")] = common.NEW,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 1,
    repeats: RepeatsOption = 3,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("speculation.jsonl"),
) -> None:
    """Decode held-out problems with ever more drafts."""
    loaded: Any = common.load_model(model, threads)
    requests = make_requests(loaded, [p.prompt for p in common.draw_problems(count)], new)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    rows: list[Row] = []
    for rule, cache, strategy, tokens in track(list(_list_settings()), console=console, description="decoding"):
        ways = [_add_speculation(strategy, drafts, tokens) for drafts in DRAFTS]
        asked = {"rule": rule, "cache": cache, "count": count, "new": new, "batch_size": batch_size, "repeats": repeats}
        rows += journal.rows(
            [{**asked, "drafts": drafts} for drafts in DRAFTS],
            _measure_ways,
            loaded,
            requests,
            ways,
            batch_size,
            repeats,
        )
    names = ("forwards", "queries", "seconds", "processor")
    common.print_table(
        console,
        ("cache", "rule", "drafts", "same", *names),
        [
            [r["cache"], r["rule"], r["drafts"], "yes" if r["same"] else "NO", *(r[f"{name}_ratio"] for name in names)]
            for r in rows
        ],
    )
    _plot_ratios(rows, output)


if __name__ == "__main__":
    typer.run(main)
